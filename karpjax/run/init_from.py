"""Other weights to start from, config.init_from: a run of ours, an exported pair, a foreign file.

    --config.init_from=runs/pretrained       a workdir, a checkpoint, a NAME.safetensors
    --config.init_from=resnet50.safetensors  PyTorch's names; .npz, .pth as well (karpjax/weights)

Variables are matched by name. Two mismatches are repaired and reported: a head for another number
of classes is reinitialised, and a model may `adapt` an array, as positions of another grid of
patches. Any other mismatch is an error that lists it, unless its name matches config.init_skip.

Weights of a network serve as those of the same network in another's config.model.backbone.

Keys that the config leaves out of model and input (mean, std) are the checkpoint's: weights mean
nothing to an input that was prepared otherwise.
"""
from collections.abc import Callable
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from karpjax import weights
from karpjax.core import trees
from karpjax.core.errors import UserError
from karpjax.core.state import TrainState
from karpjax.core.trees import (
    by_name, first_match, path_name, split_variables, variable_name)
from karpjax.models import MODELS, fields_of, make_model
from karpjax.run import checkpoint
from karpjax.run.meta import evaluated
from karpjax.run.restore import check_tokens, on_default_device
from karpjax.weights.beside import told_of

HEAD = r"head(_\w+)?/.*|class_head/class/.*|auxiliary_head/logits/.*"
RECIPE = ("mean", "std")  # keys of config.data: how the network's input is normalised
# Keys of config.model that no shape shows.
FORM = ("heads", "decoder_heads", "eps", "norm", "mlp", "pool", "positions", "offset", "lora_alpha",
        "scale_embedding", "ngrams", "agent", "sweeps", "head_width", "groups")
ADAPTERS = r".*/lora_[ab]"  # may be missing in the weights: they start at 0


@dataclasses.dataclass
class Weights:
    """Variables stored somewhere, by our names.

    where   their place, for errors
    shapes  {name: shape}; "head/kernel", "batch_stats/norm/mean"
    load    {name: leaf of its shape and sharding} -> {name: array}
    meta    the checkpoint's; {} if another project wrote the file
    notes   lines about what was left out of the file
    part    "backbone": they are of a model's backbone alone, and their names begin with it
    """
    where: Any
    shapes: dict[str, tuple]
    load: Callable
    meta: dict
    notes: tuple[str, ...] = ()
    part: str = ""


def weights_at(path, model) -> Weights:
    """Return the weights at `path`, arrays of a checkpoint not loaded yet.

    model  says what the names of another project's file mean. Those of its backbone will do
    """
    backbone = getattr(model, "backbone", None)
    if is_foreign(path):
        arrays = weights.read_arrays(path)
        bare = backbone is not None and weights.knows_more(backbone, model, arrays)
        given = foreign_weights(path, arrays, backbone if bare else model)
    else:
        given = own_weights(path)
        bare = backbone is not None and not any(map(is_of_backbone, given.shapes))
    return of_backbone(given) if bare else given


def of_backbone(given: Weights) -> Weights:
    """Return weights under the names that they have in a model whose backbone they are of."""
    names = {in_backbone(name): name for name in given.shapes}

    def load(wanted):
        loaded = given.load({names[name]: leaf for name, leaf in wanted.items()})
        return {name: loaded[names[name]] for name in wanted}
    return dataclasses.replace(given, load=load, part="backbone", shapes={
        name: given.shapes[own] for name, own in names.items()})


def in_backbone(name: str) -> str:
    """Return the name of a network's variable in a model whose backbone it is."""
    rest = name.removeprefix("batch_stats/")
    return f"{name.removesuffix(rest)}backbone/{rest}"


def is_of_backbone(name: str) -> bool:
    """Return whether a model's variable is of its backbone."""
    return name.removeprefix("batch_stats/").startswith("backbone/")


def foreign_weights(path, arrays: dict, model) -> Weights:
    """Return the arrays of another project's file under our names."""
    told_of(path, model)  # or raises
    named = weights.name_arrays(model, arrays, path)
    arrays = weights.translated(model, named.arrays, path)

    def load(wanted):
        return {name: jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding)
                for name, leaf in wanted.items()}
    return Weights(path, {name: array.shape for name, array in arrays.items()}, load, {},
                   tuple(named.choices))


def own_weights(path) -> Weights:
    """Return the weights of one of our runs, averaged if its evaluation was."""
    folder = checkpoint.find(path)
    meta = checkpoint.read_meta(folder)
    places = {name.removeprefix(f"{part}/"): name for name in meta["shapes"]
              for part in evaluated(meta) if name.startswith(f"{part}/")}

    def load(wanted):
        stored = {places[name]: leaf for name, leaf in wanted.items()}
        loaded = checkpoint.load_named(folder, stored)
        return {name: loaded[places[name]] for name in wanted}
    shapes = {name: tuple(meta["shapes"][place]) for name, place in places.items()}
    return Weights(folder, shapes, load, meta)


def is_foreign(path) -> bool:
    """Return whether a path is a file of another project's weights."""
    path = checkpoint.absolute(path)
    return weights.is_weights(path) and not checkpoint.is_exported(path)


def inherited(config: ConfigDict, saved: dict | None = None) -> ConfigDict:
    """Return the config with the keys that it leaves to config.init_from.

    These are RECIPE, and all of a model without a name except the keys that it has. It holds for
    the tasks in karpjax/tasks: one of your own may give the keys other meanings.

    saved   the config of a run that goes on: the weights that it began with may be gone
    """
    unnamed = "name" not in config.model
    lacks = [key for key in RECIPE if key not in config.data]
    ours = config.task and "." not in config.task
    if not config.init_from or not ours or not (unnamed or lacks):
        return config
    if is_foreign(config.init_from) and not saved:
        if not unnamed:
            return config
        raise UserError(
            f"config.init_from = {config.init_from!r}: another project's file does not say what "
            "it is of; give config.model, or make a checkpoint of it: "
            "python -m karpjax.convert --help")
    theirs = saved or checkpoint.read_meta(checkpoint.find(config.init_from))["config"]
    values = config.to_dict()
    if unnamed:
        model = {name: value for name, value in theirs["model"].items() if name != "classes"}
        values["model"] = {**model, **values["model"]}
    given = theirs.get("data", {})
    values["data"].update({key: given[key] for key in lacks if key in given})
    return ConfigDict(values)


def differences(config: ConfigDict) -> list[str]:
    """Return a line for each setting of input or model that no shape shows and that differs."""
    if not config.init_from:
        return ["warning: config.frozen_statistics without config.init_from: BatchNorm keeps the "
                "mean of 0 and the variance of 1 that it begins with"
                ] * bool(config.get("frozen_statistics"))
    if not is_foreign(config.init_from):
        theirs = checkpoint.read_meta(checkpoint.find(config.init_from))["config"]
        return [f"note: {line}" for line in differences_from(theirs, config)]
    if config.model.get("name") not in MODELS:  # a task's own
        return []
    fields = fields_of(config.model.name)
    sizes = {name: 1 for name in ("classes", "vocabulary") if name in fields}
    model = make_model(config.model, **sizes)
    told = told_of(config.init_from, getattr(model, "backbone", model))
    lines = [*differences_from(dataclasses.asdict(told), config), *told.unread]
    of_pictures = config.task in ("classify", "masked_image", "detect", "segment")
    if "mean" not in config.data and of_pictures:
        learned = [f"{name} = {told.data[name]}" for name in RECIPE if name in told.data]
        lines.append("config.data has no mean and std; " + (
            f"these weights learned with {', '.join(learned)}" if learned else
            "pixels of 0 to 255 are rarely what these weights learned with"))
    return [f"note: {line}" for line in lines]


def differences_from(theirs: dict, config: ConfigDict) -> list[str]:
    """Return a line for each setting of ours that differs from what weights learned with.

    theirs  {"data": ..., "model": ...}, the keys that are known
    """
    lines = []
    for part, keys in (("data", RECIPE), ("model", FORM)):
        ours, other = (with_defaults(backbone_of(values.get(part, {})))
                       for values in (config.to_dict(), theirs))
        lines += [f"config.{part}.{key} = {ours[key]}, but these weights learned with "
                  f"{other[key]}" for key in keys
                  if key in ours and key in other and not same(ours[key], other[key])]
    return lines


def backbone_of(values: dict) -> dict:
    """Return the part of config.model on the backbone, if it has one: weights may be of that alone.
    """
    return values.get("backbone", values)


def with_defaults(values: dict) -> dict:
    """Return a part of a config with the defaults of the model that it names, if it names one."""
    if values.get("name") not in MODELS:
        return values
    return {**{key: field.default for key, field in fields_of(values["name"]).items()}, **values}


def same(a, b) -> bool:
    """Return whether two values of a config are one, also [127.5] and 127.5."""
    if isinstance(a, (str, type(None))) or isinstance(b, (str, type(None))):
        return a == b
    return (1 in (np.size(a), np.size(b)) or np.size(a) == np.size(b)) and bool(np.allclose(a, b))


def plan(given: Weights, like: dict, model, skip=()) -> tuple[dict, list[str]]:
    """Return ({name: leaf of the shape to load it in}, lines about what was repaired).

    like   the model's variables, may be abstract
    Raises UserError that lists all names and shapes that neither fit nor match `skip`.
    """
    wanted, load, notes = by_name(like), {}, []
    skipped = {name for name in {*wanted, *given.shapes} if first_match(skip, name) is not None}
    fresh = {name for name in wanted
             if re.fullmatch(HEAD if name in given.shapes else ADAPTERS, name)}
    for name, leaf in wanted.items():
        stored, shape = given.shapes.get(name), tuple(leaf.shape)
        if stored == shape and name not in skipped:
            load[name] = leaf
        elif stored and name in fresh:
            notes.append(f"{name} {stored} -> {shape} reinitialised")
        elif stored and name not in skipped and adapts(model, name, stored, shape):
            load[name] = jax.ShapeDtypeStruct(stored, leaf.dtype)
            notes.append(f"{name} {stored} -> {shape} resized")
    known = {*load, *skipped, *fresh}
    if given.part:  # all else begins anew, and their own head has no place here
        anew = {name for name in wanted if not is_of_backbone(name)}
        left = given.shapes.keys() - wanted.keys()
        check_depth(left, wanted, given.where)
        known |= {*anew, *left}
        notes.append(f"of the backbone; {len(anew)} others drawn anew"
                     + f", left out {trees.listed(sorted(left))}" * bool(left))
    trees.check_names({name: leaf for name, leaf in wanted.items() if name not in known},
                      {name: shape for name, shape in given.shapes.items() if name not in known},
                      given.where)
    return load, notes


def check_depth(left, wanted, where) -> None:
    """Raise a UserError if a layer is left over whose like the backbone has: it is of a deeper one.
    """
    def kind(name: str) -> str:
        return re.sub(r"\d+", "#", name)
    kinds = set(map(kind, wanted))
    if deeper := sorted(name for name in left if kind(name) in kinds):
        raise UserError(f"{where}: expected the layers of config.model.backbone, found more: "
                        f"{trees.listed(deeper, 3)}; give the backbone their depth")


def adapts(model, name: str, stored: tuple, shape: tuple) -> bool:
    """Return whether the model makes an array of `shape` from a `stored` one. It may refuse."""
    if not hasattr(model, "adapt"):
        return False
    array = jax.ShapeDtypeStruct(stored, jnp.float32)
    return jax.eval_shape(lambda x: model.adapt(name, x, shape), array) is not None


def check_weights(path, like: dict, model, spec: dict, skip=()) -> None:
    """Check all that can be wrong with `load_weights`, before anything is written."""
    given = weights_at(path, model)
    plan(given, like, model, skip)
    check_tokens(path, given.meta, spec)


def load_weights(path, state: TrainState, task, skip=()) -> tuple[TrainState, list[str]]:
    """Return (a fresh state with the variables at `path`, lines about them).

    The moving average starts there too. So do the entries of the source's state that evaluation
    sees (statistics of observations), if that run had them.
    """
    like = state.variables
    ours = by_name(like)
    given = weights_at(path, task.model)
    load, notes = plan(given, like, task.model, skip)
    to_adapt = {name: leaf for name, leaf in load.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
    loaded = given.load({name: leaf for name, leaf in load.items() if name not in to_adapt})
    for name, array in given.load(on_default_device(to_adapt)).items():
        fitted = task.model.adapt(name, array, ours[name].shape)
        loaded[name] = jax.device_put(np.asarray(fitted), ours[name].sharding)
    variables = jax.tree.map_with_path(
        lambda path, leaf: loaded.get(variable_name(path), leaf), like)
    params, model_state = split_variables(variables)
    state = with_weights(state, params, model_state).replace(
        source=eval_state_of(given, state, task.source.eval_state))
    lines = [f"{len(loaded)} of {len(ours)} arrays", *notes, *given.notes]
    return state, [f"{path}: {'; '.join(lines)}"]


def with_weights(state: TrainState, params, model_state) -> TrainState:
    """Return a state with other variables, where the moving averages start too."""
    averages = jax.tree.map(jnp.copy, (params, model_state)) if state.ema else ({}, {})
    return state.replace(params=params, model_state=model_state, ema=averages[0],
                         ema_state=averages[1])


def eval_state_of(given: Weights, state: TrainState, names) -> dict:
    """Return the source's state, with the entries `names` of the other run's if they fit."""
    ours = by_name({"source": {name: state.source[name] for name in names}})
    stored = given.meta.get("shapes", {})
    fits = {name: leaf for name, leaf in ours.items()
            if name in stored and tuple(stored[name]) == leaf.shape}
    loaded = checkpoint.load_named(given.where, fits) if fits else {}
    return jax.tree.map_with_path(
        lambda path, leaf: loaded.get(f"source/{path_name(path)}", leaf), state.source)
