"""Weights of other projects into a checkpoint, a run's weights into a file for other projects."""
import dataclasses

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
from karpjax.run.init_from import differences_from, with_weights
from karpjax.run.programs import default_dispatch
from karpjax.run.restore import restore
from karpjax.run.workdir import (
    check_place, checkpoint_meta, open_workdir, saved_config, write_files)
from karpjax.weights import archs
from karpjax.weights.beside import told_of


def published(file, arch: str, workdir, heads: int = 0, decoder_heads: int = 0,
              tokenizer: str = "", part: str = "", strict: bool = False) -> dict:
    """Write a checkpoint of a published architecture, and return a summary.

    A file that has no head, as of a bare encoder, gets a fresh one. What the file does not say is
    printed in a line.
    """
    given = weights.read_arrays(file)
    model = archs.bare_model(arch, given)
    told = told_of(file, model)
    named = weights.name_arrays(model, given, file, part)
    ours = weights.translated(model, named.arrays, file)
    tokens = read_tokenizer(tokenizer) if tokenizer else ""
    config, assumed = archs.config_for(
        arch, ours, model, told, {"heads": heads, "decoder_heads": decoder_heads}, tokens)
    choices = [f"assumed {values_in_words(assumed)}"] if assumed else []
    words = {**told.model, **told.data}
    facts = [f"{' and '.join(told.source)}: {values_in_words(words)}"] if words else []
    return into_workdir(config, None, file, workdir, anew=archs.absent_head(arch, ours), part=part,
                        strict=strict, arrays=given, facts=facts,
                        choices=[*choices, *told.unread])


def into_workdir(config, task_file, file, workdir, anew=(), part: str = "", strict: bool = False,
                 arrays=None, facts=(), choices=None) -> dict:
    """Write a checkpoint at step 0 that holds a file's weights, and return a summary.

    anew     regular expressions on names of ours that the file lacks
    part     the copy of the network to read, if the file has several
    strict   whether a choice is an error
    arrays   the file's, if it is read already
    facts    lines about the file; choices, about what was assumed or left out. None: the config's
             own, against config.json beside the file

    Nothing is written before every array has its place.
    """
    folder = absolute(workdir) / FOLDER
    if folder.exists() and any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"{workdir} has checkpoints already; choose a new folder")
    exp = assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))
    like, model = exp.abstract.variables, exp.task.model
    named = weights.name_arrays(
        model, weights.read_arrays(file) if arrays is None else arrays, file, part)
    theirs, padding = weights.without_padding(model, like, named)
    if choices is None:
        told = told_of(file, model)
        choices = [*differences_from(dataclasses.asdict(told), config), *told.unread]
    choices = [*choices, *named.choices, *padding,
               *(f"no array for {pattern}: drawn at random" for pattern in anew)]
    variables = weights.to_karpjax(model, like, theirs, file, anew)
    report(file, [f"{len(theirs)} arrays{named.under}", *facts], choices, strict)
    state = exp.fresh_state()
    state = with_weights(state, *split_variables(
        jax.tree.map(_placed, variables, like, state.variables)))
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


def report(file, facts: list[str], choices: list[str], strict: bool) -> None:
    """Print a line about weights that were read. If strict, a choice is an error."""
    if strict and choices:
        raise UserError(f"{file}: --strict, but {'; '.join(choices)}; expected a file that leaves "
                        "nothing to choose: put config.json beside it, or leave out --strict")
    print(f"{file}: {'; '.join([*facts, *choices])}", flush=True)


def values_in_words(values: dict) -> str:
    """Return "heads = 12, eps = 1e-12"."""
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _placed(new, like, fresh):
    """Return a file's array on the devices, or the fresh one if the file has none."""
    return fresh if isinstance(new, jax.ShapeDtypeStruct) else jax.device_put(new, like.sharding)


def into_file(workdir, to, which: str, names: str = "", trust: bool | None = None) -> dict:
    """Write the newest or the best checkpoint under PyTorch's names, and return a summary."""
    to = files.check_new(to)
    run = restore(workdir, which=which, trust=trust)
    arrays = weights.to_pytorch(*merge_lora(run.model, run.variables), names)
    files.write_arrays(to, arrays)
    return {"step": run.step, "arrays": len(arrays), "file": str(to)}
