"""A checkpoint as a pair of files to share: NAME.safetensors, the variables that evaluation sees, and NAME.json, all the rest.

    python -m karpjax.export --workdir=DIR --to=NAME.safetensors [--which=best]
    run = karpjax.restore("NAME.safetensors")

The pair is taken wherever a checkpoint is: restore, evaluate, config.init_from. Arrays have the names of the parameter table
and the values of the checkpoint, bit by bit; what training alone needs (the optimizer, the data's position) stays behind. For
other projects' names and layouts: python -m karpjax.convert --to=FILE.
"""
import json
import pathlib

import jax
import numpy as np

from karpjax import checkpoint, cli, metrics
from karpjax.convert import files
from karpjax.errors import UserError
from karpjax.restore import restore, stored_as


def export(workdir, to, which: str = "newest") -> dict:
    """Write the pair; the JSON comes last, and without it the arrays are no checkpoint."""
    to = pathlib.Path(to)
    if to.suffix != checkpoint.EXPORTED:
        raise UserError(f"--to={to}: expected a name that ends in {checkpoint.EXPORTED}")
    if to.with_suffix(".json").exists():
        raise UserError(f"{to.with_suffix('.json')}: there already; choose another name, or remove it")
    folder, run = checkpoint.find(workdir, which), restore(workdir, which)
    meta, tree = checkpoint.read_meta(folder), stored_as(run.variables, run.config)
    arrays = {checkpoint.path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    meta |= {part: {name: meta[part][name] for name in arrays} for part in ("shapes", "fingerprint")}
    files.write(to, arrays)
    metrics.write_whole(to.with_suffix(".json"), json.dumps(meta, indent=1) + "\n")
    return {"step": run.step, "arrays": len(arrays), "files": [str(to), str(to.with_suffix(".json"))]}


def main(argv) -> None:
    options = cli.parse(argv, __doc__, workdir=str, to=str, which="newest")
    cli.print_json(export(options.workdir, options.to, options.which))


if __name__ == "__main__":
    cli.run(main)
