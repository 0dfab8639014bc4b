"""Weights of other projects into a checkpoint, and a run's weights into a file for other projects."""
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
from karpjax.run.init_from import load_weights
from karpjax.run.programs import default_dispatch
from karpjax.run.restore import restore
from karpjax.run.workdir import checkpoint_meta, open_workdir, saved_config
from karpjax.weights import archs


def published(file, arch: str, workdir, heads: int = 0, decoder_heads: int = 0, tokenizer: str = "") -> dict:
    """A checkpoint of a published architecture. The head of a file that has none, of a bare encoder, is drawn anew."""
    arrays = archs.by_our_names(arch, files.read_arrays(file), file)
    config = archs.config_for(arch, arrays, heads, decoder_heads, read_tokenizer(tokenizer) if tokenizer else "")
    ours = sum("/" in name for name in arrays)  # theirs have dots
    bare = config.task == "classify" and "head/kernel" not in arrays and ours > len(arrays) / 2
    return into_workdir(config, None, file, workdir, anew=("head/.*",) if bare else ())


def into_workdir(config, task_file, file, workdir, anew=()) -> dict:
    """A checkpoint at step 0 that holds the weights; nothing is written before all of them have found their place.

    anew    regular expressions on names of ours that the file lacks
    """
    folder = absolute(workdir) / FOLDER
    if folder.exists() and any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"{workdir} has checkpoints already; choose a new folder")
    exp = assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))
    if anew:
        state, _ = load_weights(file, exp.fresh_state(), exp.task, anew)
    else:
        variables = weights.to_karpjax(exp.task.model, exp.abstract.variables, files.read_arrays(file), file)
        state = exp.fresh_state()
        place = lambda new, old: jax.device_put(new, old.sharding)
        params, model_state = split_variables(jax.tree.map(place, variables, exp.abstract.variables))
        state = state.replace(params=params, model_state=model_state, ema=jax.tree.map(place, variables["params"], state.ema)
                              if state.ema else state.ema)
    workdir = open_workdir(workdir, exp, saved_config(workdir))
    exp.config.dispatch = exp.config.dispatch or default_dispatch()
    saves = Checkpoints(workdir, exp.config.keep, exp.config.best)
    saves.save(0, state, checkpoint_meta(exp, seconds={}), None)
    saves.wait()
    saves.close()
    for name, text in exp.source.files.items():
        files.write_whole(workdir / name, text)
    return {"step": 0, "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)), "workdir": str(workdir),
            "model": exp.config.model.to_dict(), **({"anew": list(anew)} if anew else {})}


def into_file(workdir, to, which: str, names: str = "") -> dict:
    """PyTorch's names and layouts, from the newest or the best checkpoint."""
    files.check_new(to)
    run = restore(workdir, which=which)
    arrays = weights.to_pytorch(*merge_lora(run.model, run.variables), names)
    files.write_arrays(to, arrays)
    return {"step": run.step, "arrays": len(arrays), "file": to}
