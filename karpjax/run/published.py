"""Weights of other projects into a checkpoint, a run's weights into a file for other projects."""
import jax

from karpjax import weights
from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.sharding import make_mesh
from karpjax.core.trees import split_variables
from karpjax.datasets.text import read_tokenizer
from karpjax.models.layers.transformer import merge_lora
from karpjax.run.checkpoint import FOLDER, Checkpoints, absolute
from karpjax.run.experiment import assemble
from karpjax.run.init_from import load_weights, with_weights
from karpjax.run.programs import default_dispatch
from karpjax.run.restore import restore
from karpjax.run.workdir import (
    check_place, checkpoint_meta, open_workdir, saved_config, write_files)
from karpjax.weights import archs


def published(file, arch: str, workdir, heads: int = 0, decoder_heads: int = 0,
              tokenizer: str = "") -> dict:
    """Write a checkpoint of a published architecture, and return a summary.

    A file that has no head, as of a bare encoder, gets a fresh one.
    """
    arrays = archs.by_our_names(arch, files.read_arrays(file), file)
    tokens = read_tokenizer(tokenizer) if tokenizer else ""
    config = archs.config_for(arch, arrays, heads, decoder_heads, tokens)
    ours = sum("/" in name for name in arrays)  # theirs have dots
    headless = config.task == "classify" and "head/kernel" not in arrays
    bare = headless and ours > len(arrays) / 2
    return into_workdir(config, None, file, workdir, anew=("head/.*",) if bare else ())


def into_workdir(config, task_file, file, workdir, anew=()) -> dict:
    """Write a checkpoint at step 0 that holds a file's weights, and return a summary.

    anew    regular expressions on names of ours that the file lacks
    Nothing is written before every array has its place.
    """
    folder = absolute(workdir) / FOLDER
    if folder.exists() and any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"{workdir} has checkpoints already; choose a new folder")
    exp = assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))
    if anew:
        state, _ = load_weights(file, exp.fresh_state(), exp.task, anew)
    else:
        like = exp.abstract.variables
        variables = weights.to_karpjax(exp.task.model, like, files.read_arrays(file), file)
        state = exp.fresh_state()
        params, model_state = split_variables(jax.tree.map(_placed, variables, like))
        state = with_weights(state, params, model_state)
    check_place(workdir, exp.source.files)
    workdir = open_workdir(workdir, exp, saved_config(workdir))
    write_files(workdir, exp.config.to_dict(), exp.source.files)
    exp.config.dispatch = exp.config.dispatch or default_dispatch()
    checkpoints = Checkpoints(workdir, exp.config.keep, exp.config.best)
    checkpoints.save(0, state, checkpoint_meta(exp, seconds={}), None)
    checkpoints.wait()
    checkpoints.close()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {"step": 0, "parameters": parameters, "workdir": str(workdir),
            "model": exp.config.model.to_dict(), **({"anew": list(anew)} if anew else {})}


def _placed(new, old):
    return jax.device_put(new, old.sharding)


def into_file(workdir, to, which: str, names: str = "", trust: bool | None = None) -> dict:
    """Write the newest or the best checkpoint under PyTorch's names, and return a summary."""
    to = files.check_new(to)
    run = restore(workdir, which=which, trust=trust)
    arrays = weights.to_pytorch(*merge_lora(run.model, run.variables), names)
    files.write_arrays(to, arrays)
    return {"step": run.step, "arrays": len(arrays), "file": str(to)}
