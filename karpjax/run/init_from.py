"""Starting from other weights, config.init_from: a run of ours, an exported pair, or a file of another project.

    --config.init_from=runs/pretrained       a workdir, a checkpoint, NAME.safetensors with its NAME.json
    --config.init_from=resnet50.safetensors  PyTorch's names; .npz, .pth as well (karpjax/weights)

Variables go in by name. A head for another number of classes starts anew, the positions of another grid of patches are resized,
and that is said. Whatever else differs is an error that lists it, but for names that match config.init_skip. What the config
leaves out of model and input (mean, std) is the checkpoint's: weights mean nothing to an input that was prepared otherwise.
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
from karpjax.core import files, trees
from karpjax.core.errors import UserError
from karpjax.core.state import TrainState
from karpjax.core.trees import by_name, path_name, split_variables, variable_name
from karpjax.models.vit import Patches, resized
from karpjax.run import checkpoint
from karpjax.run.restore import check_tokens, on_default_device

HEAD = r"head(_\w+)?/.*"
POSITIONS = ("position", "decoder_position")
RECIPE = ("mean", "std")  # of config.data: what the network's input is
FORM = ("heads", "eps", "norm", "mlp", "pool", "positions", "lora_alpha")  # of config.model: no shape shows them
ADAPTERS = r".*/lora_[ab]"  # may be missing in the weights: they start at 0


@dataclasses.dataclass
class Weights:
    """Variables somewhere, by our names.

    where   for errors
    shapes  {name: shape}; "head/kernel", "batch_stats/norm/mean"
    load    {name: leaf of its shape and place} -> {name: array}
    meta    of the checkpoint; {} where another project wrote the file
    """
    where: Any
    shapes: dict[str, tuple]
    load: Callable
    meta: dict


def weights_at(path, model) -> Weights:
    """What there is at `path`; nothing of a checkpoint is loaded yet. `model` says what another project's names mean."""
    if is_foreign(path):
        arrays = weights.translated(model, files.read_arrays(path), path)
        load = lambda wanted: {name: jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding)
                               for name, leaf in wanted.items()}
        return Weights(path, {name: array.shape for name, array in arrays.items()}, load, {})
    folder = checkpoint.find(path)
    meta = checkpoint.read_meta(folder)
    params = "ema/" if meta["config"]["ema_decay"] else "params/"  # as in that run's evaluation
    places = {name.removeprefix(part): name for name in meta["shapes"] for part in (params, "model_state/")
              if name.startswith(part)}

    def load(wanted):
        loaded = checkpoint.load_named(folder, {places[name]: leaf for name, leaf in wanted.items()})
        return {name: loaded[places[name]] for name in wanted}
    return Weights(folder, {name: tuple(meta["shapes"][place]) for name, place in places.items()}, load, meta)


def is_foreign(path) -> bool:
    """A file of another project's weights."""
    return checkpoint.absolute(path).suffix in weights.SUFFIXES and not checkpoint.is_exported(path)


def inherited(config: ConfigDict, saved: dict | None = None) -> ConfigDict:
    """The config with what it leaves to config.init_from: RECIPE, and all of a model without a name but what it says. For the
    tasks in karpjax/tasks: one of your own may give them other meanings.

    saved   the config of a run that goes on, whose start may be gone
    """
    unnamed, lacks = "name" not in config.model, [key for key in RECIPE if key not in config.data]
    if not config.init_from or not config.task or "." in config.task or not unnamed and not lacks:
        return config
    if is_foreign(config.init_from) and not saved:
        if not unnamed:
            return config
        raise UserError(f"config.init_from = {config.init_from!r}: another project's file does not say what it is of; give "
                        "config.model, or make a checkpoint of it: python -m karpjax.convert --help")
    theirs = saved or checkpoint.read_meta(checkpoint.find(config.init_from))["config"]
    values = config.to_dict()
    if unnamed:
        values["model"] = {**{name: value for name, value in theirs["model"].items() if name != "classes"}, **values["model"]}
    for key in lacks:
        if key in theirs.get("data", {}):
            values["data"][key] = theirs["data"][key]
    return ConfigDict(values)


def differences(config: ConfigDict) -> list[str]:
    """A line for what shapes do not show: an input or a form of the model other than config.init_from's."""
    if is_foreign(config.init_from):
        return [] if "mean" in config.data or config.task not in ("classify", "masked_image") else \
            ["note: config.data has no mean and std; pixels of 0 to 255 are rarely what these weights learned with"]
    theirs = checkpoint.read_meta(checkpoint.find(config.init_from))["config"]
    found = []
    for part, keys in (("data", RECIPE), ("model", FORM)):
        ours, other = (values.get(part, {}) for values in (config.to_dict(), theirs))
        found += [f"note: config.{part}.{key} = {ours[key]}, but these weights learned with {other[key]}" for key in keys
                  if key in ours and key in other and not same(ours[key], other[key])]
    return found


def same(a, b) -> bool:
    """Also [127.5] and 127.5."""
    return a == b if isinstance(a, str) else np.size(a) in (1, np.size(b)) and bool(np.allclose(a, b))


def plan(weights: Weights, like: dict, model, skip=()) -> tuple[dict, list[str]]:
    """({name: leaf of the shape to load it in}, what to say), or the error; `like` may be abstract."""
    wanted, load, said = by_name(like), {}, []
    skipped = lambda name: any(re.fullmatch(pattern, name) for pattern in skip)
    for name, leaf in wanted.items():
        stored, shape = weights.shapes.get(name), tuple(leaf.shape)
        if stored == shape and not skipped(name):
            load[name] = leaf
        elif stored and re.fullmatch(HEAD, name):
            said.append(f"{name} {stored} -> {shape} starts anew")
        elif stored and name in POSITIONS and isinstance(model, Patches) and stored[1:] == shape[1:] and not skipped(name):
            jax.eval_shape(lambda p: resized(p, shape, len(model.first)), jax.ShapeDtypeStruct(stored, jnp.float32))  # refuses
            load[name] = jax.ShapeDtypeStruct(stored, leaf.dtype)
            said.append(f"{name} {stored} -> {shape} resized")
    anew = lambda name: re.fullmatch(HEAD if name in weights.shapes else ADAPTERS, name)
    known = {name for name in wanted if name in load or skipped(name) or anew(name)}
    trees.check_names({name: leaf for name, leaf in wanted.items() if name not in known},
                           {name: shape for name, shape in weights.shapes.items() if name not in known and not skipped(name)},
                           weights.where)
    return load, said


def check_weights(path, like: dict, model, spec: dict, skip=()) -> None:
    """All that can be wrong with `load_weights`, before anything is written."""
    weights = weights_at(path, model)
    plan(weights, like, model, skip)
    check_tokens(path, weights.meta, spec)


def load_weights(path, state: TrainState, task, skip=()) -> tuple[TrainState, list[str]]:
    """(a fresh state with the variables at `path`, what to say of them). The moving average starts there too, and what the
    source eval_state to evaluation (moments of observations), as far as that run had it."""
    weights, like = weights_at(path, task.model), state.variables
    load, said = plan(weights, like, task.model, skip)
    as_is = {name: leaf for name, leaf in load.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    loaded, ours = weights.load(as_is), by_name(like)
    for name, array in weights.load(on_default_device({n: leaf for n, leaf in load.items() if n not in as_is})).items():
        fitted = resized(array, ours[name].shape, len(task.model.first))
        loaded[name] = jax.device_put(np.asarray(fitted), ours[name].sharding)
    variables = jax.tree.map_with_path(lambda path, leaf: loaded.get(variable_name(path), leaf), like)
    params, model_state = split_variables(variables)
    average = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    state = state.replace(params=params, model_state=model_state, ema=average, source=eval_state_of(weights, state, task.source.eval_state))
    return state, [f"{path}: {len(loaded)} of {len(ours)} arrays{''.join(f'; {line}' for line in said)}"]


def eval_state_of(weights: Weights, state: TrainState, names) -> dict:
    """The source's state, with what the other run's lent to evaluation."""
    borrowed = by_name({"source": {name: state.source[name] for name in names}})
    stored = weights.meta.get("shapes", {})
    fits = {name: leaf for name, leaf in borrowed.items() if tuple(stored.get(name, ())) == leaf.shape and name in stored}
    loaded = checkpoint.load_named(weights.where, fits) if fits else {}
    return jax.tree.map_with_path(lambda path, leaf: loaded.get(f"source/{path_name(path)}", leaf), state.source)
