"""Weights of other projects into a checkpoint, a run's weights into a file for other projects."""
import dataclasses

import jax

from karpjax import weights
from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.sharding import make_mesh
from karpjax.core.trees import split_variables
from karpjax.datasets.pieces import FILES, pieces_beside
from karpjax.datasets.text import read_tokenizer
from karpjax.models.layers.transformer import merge_lora
from karpjax.run.checkpoint import FOLDER, Checkpoints, absolute
from karpjax.run.experiment import assemble
from karpjax.run.init_from import FORM, RECIPE, differences_from, with_weights
from karpjax.run.programs import default_dispatch
from karpjax.run.restore import restore
from karpjax.run.workdir import (
    check_place, checkpoint_meta, open_workdir, saved_config, write_files)
from karpjax.weights import archs
from karpjax.weights.beside import told_of


def published(file, arch: str, workdir, heads: int = 0, decoder_heads: int = 0,
              tokenizer: str = "", part: str = "", strict: bool = False) -> dict:
    """Write a checkpoint of a published architecture, and return a summary.

    part     the copy of the network to read, if the file has several
    strict   whether it is an error if something is assumed, chosen or left out

    A file that has no head, as of a bare encoder, gets a fresh one.
    """
    check_empty(workdir)
    arrays = weights.read_arrays(file)
    model = archs.bare_model(arch, arrays)
    told = told_of(file, model)
    named = weights.name_arrays(model, arrays, file, part)
    ours = weights.translated(model, named.arrays, file)
    tokenizer, tokens = tokenizer_for(arch, file, tokenizer)
    config, assumed = archs.config_for(
        arch, ours, model, told, {"heads": heads, "decoder_heads": decoder_heads}, tokens)
    words = {**told.model, **told.data}
    facts = [f"{' and '.join(told.source)}: {values_in_words(words)}"] if words else []
    if names := config.data.described.get("names"):
        facts += [f"{len(names)} names of classes, {names[0]!r} first"]
    facts += [f"tokenizer {tokenizer}"] if tokens else []
    choices = [f"assumed {values_in_words(assumed)}"] if assumed else []
    exp = assemble(config, None, make_mesh(devices=jax.devices()[:1]))
    return write_workdir(exp, named, file, workdir, strict, facts=facts,
                         choices=[*choices, *told.unread], anew=archs.absent_head(arch, ours))


def tokenizer_for(arch: str, file, given: str) -> tuple[str, str]:
    """Return (the place of a tokenizer, its JSON): what is given, else what is beside the file."""
    path = files.local(file, "weights")
    if not archs.reads_texts(arch):
        return "", ""
    if arch == "marian" and not given:
        return ", ".join(FILES.values()), pieces_beside(path)
    beside = path.with_name("tokenizer.json")
    place = given or (str(beside) if beside.is_file() else "")
    return place, read_tokenizer(place) if place else ""


def into_workdir(config, task_file, file, workdir, part: str = "", strict: bool = False) -> dict:
    """Write a checkpoint at step 0 of a config's run that begins with a file's weights.

    part, strict   as in `published`
    """
    check_empty(workdir)
    exp = assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))
    named = weights.name_arrays(exp.task.model, weights.read_arrays(file), file, part)
    told = told_of(file, exp.task.model)
    choices = [*differences_from(dataclasses.asdict(told), config), *told.unread]
    return write_workdir(exp, named, file, workdir, strict, facts=[], choices=choices)


def check_empty(workdir) -> None:
    """Check that a workdir has no checkpoints yet."""
    folder = absolute(workdir) / FOLDER
    if folder.exists() and any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"{workdir} has checkpoints already; choose a new folder")


def write_workdir(exp, named: weights.Named, file, workdir, strict: bool, facts: list[str],
                  choices: list[str], anew=()) -> dict:
    """Write a checkpoint at step 0 that holds named arrays, and return a summary.

    facts, choices   lines about the file
    anew             regular expressions on names of ours that the file lacks

    Nothing is written before every array has its place.
    """
    like, model = exp.abstract.variables, exp.task.model
    theirs, padding = weights.without_padding(model, like, named)
    variables = weights.to_karpjax(model, like, theirs, file, anew)
    drawn = [f"drawn at random, as the file has none: {', '.join(anew)}"] if anew else []
    report(file, [f"{len(theirs)} arrays{named.under}", *facts, *named.facts],
           [*choices, *named.choices, *padding, *drawn], strict)
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
    """Write the newest or the best checkpoint under PyTorch's names, and return a summary.

    It has what arrays do not say: the network that reads the file must be told.
    """
    to = files.check_new(to)
    run = restore(workdir, which=which, trust=trust)
    model, variables = merge_lora(run.model, run.variables)
    arrays = weights.to_pytorch(model, variables, names)
    files.write_arrays(to, arrays)
    data = run.config.to_dict().get("data", {})
    return {"step": run.step, "arrays": len(arrays), "file": str(to),
            "model": {name: getattr(model, name) for name in FORM
                      if name != "lora_alpha" and hasattr(model, name)},  # it is merged
            "data": {name: data[name] for name in RECIPE if name in data}}
