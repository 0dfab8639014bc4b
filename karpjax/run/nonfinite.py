"""Steps whose loss, gradient or model state was not finite.

Their batch is kept for replay. After too many in a row the run stops.
"""
import jax
import numpy as np

from karpjax.core.errors import NotFinite
from karpjax.core.trees import named


def check_finite(first: int, in_a_row: np.ndarray, bad, limit: int, workdir) -> None:
    """Save the bad batch of a dispatch, if it has one.

    Raises NotFinite after `limit` bad steps in a row.

    first     steps done before the dispatch
    in_a_row  (steps,): how many steps in a row were skipped, up to each step
    bad       its last batch that was not finite
    """
    if in_a_row.any():
        save_bad_batch(workdir, first + 1 + int(np.flatnonzero(in_a_row)[-1]), bad)
    if in_a_row.max() >= limit:
        step = first + 1 + int(np.argmax(in_a_row >= limit))
        raise NotFinite(
            f"step {step}: the loss, its gradient or the model state was not finite, {limit} "
            "time(s) in a row; these steps were skipped, their last batch is in "
            f"{workdir / 'nonfinite'}; try a lower learning rate or config.optimizer.clip, or find "
            "the operation with config.debug_nans")


def save_bad_batch(workdir, step: int, bad) -> None:
    """Write WORKDIR/nonfinite/step_S.npz: the batch as the loss saw it, this process's rows."""
    folder = workdir / "nonfinite"
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    rows = {name: local_rows(leaf) for name, leaf in named(bad).items()}
    with (folder / f"step_{step}{suffix}.npz").open("wb") as file:
        np.savez(file, **rows)


def local_rows(array) -> np.ndarray:
    """Return the rows of a global array that lie on this process, in order, each once."""
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    shards.sort(key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
