"""Steps whose loss, gradient or model state was not finite.

Their batch is kept for replay. After too many in a row the run stops, and says which of the three
it was, where the first entry that is not finite stands, and what can be the cause.
"""
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import NotFinite
from karpjax.core.step import PRECISIONS, ratio, strided, without_gradient
from karpjax.core.trees import cast_floating, first_line, named
from karpjax.run.experiment import number_of_parts

DEBUG = "find the operation with --config.debug_nans=True"


def check_finite(exp, state, first: int, values: dict, bad, workdir) -> None:
    """Save the bad batch of a dispatch, if it has one.

    Raises NotFinite after config.nonfinite_limit bad steps in a row.

    state   the newest: skipped steps have left it as it was
    first   steps done before the dispatch
    values  its metrics, {name: (steps,)}
    bad     its last batch that was not finite
    """
    in_a_row, limit = values["skipped_in_a_row"], exp.config.nonfinite_limit
    if not in_a_row.any():
        return
    last = int(np.flatnonzero(in_a_row)[-1])
    save_bad_batch(workdir, first + 1 + last, bad)
    if in_a_row.max() >= limit:
        step = first + 1 + int(np.argmax(in_a_row >= limit))
        what, advice = diagnosis(exp, state, first + 1 + last,
                                 {name: column[last] for name, column in values.items()}, bad)
        raise NotFinite(f"step {step}: {what}, {limit} time(s) in a row; these steps were skipped, "
                        f"their last batch is in {workdir / 'nonfinite'}; {advice}")


def diagnosis(exp, state, step: int, row: dict, bad) -> tuple[str, str]:
    """Return what of a step was not finite and where, and what to do about it.

    row  the step's metrics
    bad  its batch
    """
    kind = next((kind for kind, name in (("loss", "loss"), ("gradient", "grad_norm"))
                 if not np.isfinite(row[name])), "model state")
    untouched = step == row["skipped"]  # no step has changed the weights
    what = f"the {kind} was not finite"
    if place := first_not_finite(named(bad), bad.get("weight")):
        what += f": {place.words} in the batch{row_of_data(bad, place)}"
        if not exp.source.depends_on_policy:
            return what, ("mend the data, or its preprocessing (config.data.mean, std): no "
                          "learning rate is to blame")
        return what, ("look for it in the environment's observations and rewards"
                      + ", or try a lower learning rate" * (not untouched))
    place = computed_again(exp, state, step, bad)
    what += f"; computed again, {place or 'all is finite'}"
    if kind == "gradient" and np.isnan(row["grad_norm"]):
        return what, ("the loss itself is finite, so an operation has no finite derivative there "
                      "(sqrt, norm, log or a division at 0, also behind jnp.where): " + DEBUG)
    if untouched:
        return what, ("no step has changed the weights yet, so no learning rate is to blame: look "
                      "for a label beyond the classes or a logarithm of 0, or " + DEBUG)
    return what, f"try a lower learning rate or config.optimizer.clip, or {DEBUG}"


def row_of_data(bad, place) -> str:
    """Return the row of the data set behind an entry of a batch, in words, "" if it has none."""
    if "row" not in bad or not place.index:
        return ""
    row = jax.jit(lambda rows, i: rows[i])(bad["row"], place.index[0])
    return f" (row {int(row)} of the training data)"


# --------------------------------------------------------------------------------- the first place

class Place:
    """The first entry of an array that is not finite: its index, and "x is nan at (13, 0)"."""

    def __init__(self, name: str, shape, flat_index: int, value: float):
        self.index = tuple(map(int, np.unravel_index(flat_index, shape)))
        self.words = f"{name} is {value}" + f" at {self.index}" * bool(shape)


def first_not_finite(arrays: dict, weight=None) -> Place | None:
    """Return the place in the first array of {name: array} that is not finite, or None.

    weight  of each example: those of 0 are padding, which may be anything
    """
    def entries(x, weight):
        wrong = ~jnp.isfinite(x)
        if weight is not None and x.shape[:weight.ndim] == weight.shape:
            wrong &= (weight != 0).reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
        i = wrong.argmax()
        return wrong.any(), i, x.ravel()[i]

    floats = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    # In a program: arrays of several processes cannot be looked at otherwise.
    program = jax.jit(lambda floats, weight: {n: entries(x, weight) for n, x in floats.items()})
    flags = jax.device_get(program(floats, weight))
    return next((Place(name, floats[name].shape, int(i), float(value))
                 for name, (wrong, i, value) in flags.items() if wrong), None)


def computed_again(exp, state, step: int, batch) -> str:
    """Return the place in parameters, losses, gradient or model state, "" if all are finite.

    The gradient of each micro-batch is computed again, at the newest weights.
    """
    if place := first_not_finite(named(state.params)):
        return f"the parameter {place.words}"
    parts = number_of_parts(exp.config, exp.mesh)
    program = jax.jit(gradient_of_part(exp, step, parts))
    state = state.replace(opt_state={}, source={})
    try:
        for j in range(parts):
            for kind, tree in program(state, batch, j).items():
                if place := first_not_finite(named(tree)):
                    return f"{kind} {place.words}"
    except Exception as error:  # the report must not take the place of what it reports
        return f"its place is not found ({first_line(error)})"
    return ""


def gradient_of_part(exp, step: int, parts: int):
    """Return (state, batch, j) -> {what: tree}: losses, gradient and model state of part j."""
    frozen = exp.config.optimizer.get("freeze", ())

    def program(state, batch, j):
        rows = jax.tree.map(lambda x: strided(x, j, parts), batch)
        key = jax.random.fold_in(state.key, step - 1)
        key = jax.random.fold_in(key, j) if parts > 1 else key

        def objective(params):
            params = cast_floating(without_gradient(params, frozen),
                                   PRECISIONS[exp.config.precision])
            losses, _, model_state = exp.task.loss(params, state.model_state, rows, key)
            losses = {name: ratio(*pair, empty=0.0) for name, pair in losses.items()}
            return sum(losses.values()), (losses, model_state)

        grads, (losses, model_state) = jax.grad(objective, has_aux=True)(state.params)
        return {"the loss": losses, "the gradient of": grads, "the state": model_state}

    return program


# ---------------------------------------------------------------------------------- the bad batch

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
