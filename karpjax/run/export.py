"""A checkpoint as a pair of files to share: NAME.safetensors and NAME.json."""
import json

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.trees import named
from karpjax.run import checkpoint
from karpjax.run.meta import EXPORTED, sealed
from karpjax.run.restore import restore, stored_as


def export(workdir, to, which: str = "newest", trust: bool | None = None) -> dict:
    """Write the pair, and return a summary."""
    to = files.local(to, "--to")
    if to.suffix != EXPORTED:
        raise UserError(f"--to={to}: expected a name that ends in {EXPORTED}")
    beside = to.with_suffix(".json")
    if beside.exists():
        raise UserError(f"{beside}: there already; choose another name, or remove it")
    run = restore(workdir, which, trust=trust)
    meta = checkpoint.read_meta(checkpoint.find(workdir, which))
    tree = stored_as(run.variables, meta)
    arrays = {name: np.asarray(leaf) for name, leaf in named(tree).items()}
    meta |= {part: {name: meta[part][name] for name in arrays}
             for part in ("shapes", "fingerprint")}
    # The JSON comes last: without it the arrays are no checkpoint.
    files.write_arrays(to, arrays)
    files.write_whole(beside, json.dumps(sealed(meta), indent=1) + "\n")
    return {"step": run.step, "arrays": len(arrays), "files": [str(to), str(beside)]}
