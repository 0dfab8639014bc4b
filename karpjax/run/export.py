"""A checkpoint as a pair of files to share: NAME.safetensors and NAME.json."""
import json

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.trees import named
from karpjax.run import checkpoint
from karpjax.run.meta import EXPORTED, SEAL, seal, sealed
from karpjax.run.restore import restore, stored_as


def export(workdir, to, which: str = "newest", trust: bool | None = None) -> dict:
    """Write the pair, and return a summary."""
    to = files.local(to, "--to")
    if to.suffix != EXPORTED:
        raise UserError(f"--to={to}: expected a name that ends in {EXPORTED}")
    beside = to.with_suffix(".json")
    files.check_new(to)
    if beside.exists() and not is_half_a_pair(beside):
        raise UserError(f"{beside}: there already; choose another name, or remove it")
    run = restore(workdir, which, trust=trust)
    meta = checkpoint.read_meta(checkpoint.find(workdir, which))
    tree = stored_as(run.variables, meta)
    arrays = {name: np.asarray(leaf) for name, leaf in named(tree).items()}
    meta |= {part: {name: meta[part][name] for name in arrays}
             for part in ("shapes", "fingerprint")}
    # The arrays come last. A kill in between leaves a JSON that the next call knows for its own,
    # but of arrays alone nobody knows whose they are.
    files.write_whole(beside, json.dumps(sealed(meta), indent=1) + "\n")
    try:
        files.write_arrays(to, arrays)
    except BaseException:
        beside.unlink()
        raise
    return {"step": run.step, "arrays": len(arrays), "files": [str(to), str(beside)]}


def is_half_a_pair(beside) -> bool:
    """Return whether a JSON is one that `export` wrote. Its arrays are not there."""
    try:
        meta = json.loads(beside.read_text())
        return meta[SEAL] == seal(meta)
    except (OSError, ValueError, KeyError, TypeError):  # somebody else's
        return False
