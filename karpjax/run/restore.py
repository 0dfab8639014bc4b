"""A trained model from its checkpoint, in two lines, on any device, without its config.

    run = karpjax.restore(PATH)     # a workdir, a checkpoint or an exported file; local, gs://, ...
    logits = run.predict(images)    # as stored in the data set, (B, H, W, C); or files: ["cat.jpg"]

In a loss, where a batch is preprocessed already, a teacher is run.apply(batch["image"]). There are
also run.features, run.class_names, run.params, run.variables, run.config, run.model, run.task,
run.step, and what its task offers, as run.act(obs). A user's own task file travels in the
checkpoint and is executed: restore only checkpoints you trust. From gs://... that takes trust=True
(run/trust.py).
"""
from collections.abc import Mapping
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import os
from typing import Any
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from karpjax.core import old_names, settings
from karpjax.core.errors import UserError
from karpjax.core.task import Task
from karpjax.core.task_file import build_task, load_task_module
from karpjax.core.trees import by_name, path_name, split_variables
from karpjax.datasets.folders import same_pictures
from karpjax.run.chips import check_platform
from karpjax.run.meta import LIVE_STATISTICS, evaluated
from karpjax.run.trust import check_trust

# The run whose task is being built. A run that this task restores may be left behind.
BUILDING = contextvars.ContextVar("BUILDING", default="")


class NoSuchMethod(UserError, AttributeError):
    """A method that the task of a run does not have."""


@dataclasses.dataclass
class Run:
    """A restored model, with the methods of its task.

    `variables` are those of evaluation: the moving average where the run kept one.
    """
    config: ConfigDict
    task: Task
    variables: dict
    step: int
    metrics: dict

    @property
    def params(self):
        return self.variables["params"]

    @property
    def model(self):
        return self.task.model

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of a classifier's logits."""
        return self.task.source.class_names

    def predict(self, inputs) -> Any:
        """Return the task's outputs, as numpy-compatible arrays: logits (B, C) of a classifier.

        inputs  arrays as the data set stores them, or a list of what a person has: files of
                pictures or PIL images, texts. A model of several inputs takes a dict of entries.
                Texts become texts where the task is from text to text
        """
        if isinstance(self.task.predict, str):
            raise UserError(f"run.predict: {self.task.predict}")
        encoded = self.encoded(inputs)
        outputs = self._outputs(self.variables, encoded)
        detokenize = self.task.source.detokenize
        return detokenize(outputs) if detokenize and encoded is not inputs else outputs

    def features(self, inputs) -> dict:
        """Return the model's features, {name: array (B, ...)}: "pooled" (B, D) goes to its head."""
        if "features" not in inspect.signature(type(self.model).__call__).parameters:
            raise UserError(f"run.features: the model {type(self.model).__name__} does not give "
                            "its features")
        return self._features(self.variables, self.encoded(inputs))

    def apply(self, inputs, **kwargs):
        """Return the model's own output for inputs as a loss has them: logits (B, C).

        inputs  preprocessed as this run's are: batch["image"]. A model of several takes a dict
        kwargs  further arguments of the model: features=True also returns its features
        """
        like = {name: x.dtype for name, x in self.task.source.example.items()
                if hasattr(x, "dtype")}
        if wrong := other_kind(self.task, inputs, like):
            raise UserError(f"run.apply: expected preprocessed {wrong}; for inputs as the data set "
                            "stores them call run.predict or run.features")
        inputs = jax.tree.map(jnp.asarray, inputs)
        return self.task.run_model(self.variables, inputs, **kwargs)

    def encoded(self, inputs):
        """Return arrays as the data set stores them, for those or for files, images and texts."""
        listed = [inputs] if is_for_a_person(inputs) else inputs
        if not isinstance(listed, (list, tuple)) or not listed or \
                not all(map(is_for_a_person, listed)):
            if wrong := other_kind(self.task, inputs, self.task.source.stored):
                raise UserError(f"this run takes {wrong}: pixels or tokens as the data set stores "
                                "them; for what is preprocessed already, as batch[...] in a loss, "
                                "call run.apply")
            return inputs
        encode = getattr(self.task.source, "encode", None)
        if encode is None:
            raise UserError(f"this run's inputs are arrays as its data set stores them, found "
                            f"{type(listed[0]).__name__}")
        return encode(listed)

    def __getattr__(self, name: str):
        """Return a method of the task, bound to the variables."""
        if name.startswith("_") or name in ("task", "variables"):  # while it is made or copied
            raise AttributeError(name)
        methods = {**old_names.methods(self.task), **self.task.methods}
        if name not in methods:
            offers = ", ".join(["predict", "features", *methods, "apply"])
            raise NoSuchMethod(f"run.{name}: this run ({self.config.task or 'its own task'}) has "
                               f"no {name}; it offers {offers}")
        return functools.partial(methods[name], self.variables)

    def __dir__(self):
        return [*super().__dir__(), *self.task.methods]

    @functools.cached_property
    def _outputs(self):
        return jax.jit(self.task.outputs)

    @functools.cached_property
    def _features(self):
        @jax.jit
        def features(variables, inputs):
            return self.task.run_model(variables, self.task.prepared(inputs), features=True)[1]
        return features


def is_for_a_person(x) -> bool:
    """Return whether an input is a text, a file or an image of PIL's."""
    return isinstance(x, (str, os.PathLike)) or hasattr(x, "convert")


def other_kind(task: Task, inputs, like: dict) -> str:
    """Return "'image' of uint8, found float32" if floats are given for integers, or the reverse.

    like  {entry: dtype}, of the entries that are known
    """
    entries = {task.inputs: inputs} if isinstance(task.inputs, str) else inputs
    for name, x in entries.items() if isinstance(entries, Mapping) else ():
        kinds = {jnp.issubdtype(dtype, jnp.floating)
                 for dtype in (getattr(x, "dtype", None), like.get(name)) if dtype is not None}
        if len(kinds) == 2:
            return f"{name!r} of {like[name]}, found {x.dtype}"
    return ""


class AbsentRun:
    """A run that a restored run's task restores, and that is not here: an error when it is used.

    A student predicts without its teacher.
    """

    def __init__(self, error: UserError):
        self._error = error

    def __getattr__(self, name: str):
        if name.startswith("_"):  # Python's own questions
            raise AttributeError(name)
        raise self._error


@contextlib.contextmanager
def building(path):
    """Build the task of the run at `path`, and name what it needs beside its checkpoint."""
    before = BUILDING.set(str(path))
    try:
        yield
    except ImportError as error:
        raise UserError(f"{path}: its task file imports what is not here ({error}); install it, or "
                        "add its folder to PYTHONPATH") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: its task file reads {error.filename!r}, which is not here; put "
                        "it there") from error
    finally:
        BUILDING.reset(before)


def restore(path, which: str = "newest", data: dict | None = None,
            trust: bool | None = None) -> Run:
    """Return the run at `path`, its newest or "best" checkpoint, on this machine's default device.

    data   changes to config.data: {"data_dir": ...} where the data is elsewhere,
           {"test": "test[:1000]"} for another part
    trust  whether code that it holds or names may run; None: if it is on this machine

    The task of a run may restore another run, as its teacher. If that is not here, all works that
    does not use it.
    """
    from karpjax.run import checkpoint  # here: Orbax takes a sixth of a second to import
    check_platform()
    try:
        folder = checkpoint.find(path, which)
    except checkpoint.NoCheckpoint as error:
        if not BUILDING.get():
            raise
        return AbsentRun(UserError(
            f"{BUILDING.get()}: this needs the run that its task restores, {str(path)!r}, which is "
            f"not here: put it at {checkpoint.absolute(path)}, or predict without it ({error})"))
    meta = checkpoint.read_meta(folder)
    check_trust(path, meta, trust, data)
    config, task_file = ConfigDict(meta["config"]), meta["task"]
    if data:
        config.data = ConfigDict({**config.data.to_dict(), **data})
    record = {"path": task_file["path"], "text": task_file["text"]}
    with building(path):
        module, _ = load_task_module(task_file["name"], record)
        task = build_task(with_description(config, meta.get("source")), module)
    check_tokens(path, meta, task.source.spec)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    params, model_state = evaluated(meta)
    tree = checkpoint.load(folder, on_default_device(stored_as(variables, meta)))
    if params == "ema" and model_state == "model_state" and tree[model_state]:
        warnings.warn(f"{folder}: {LIVE_STATISTICS}", stacklevel=2)
    variables = {"params": tree[params], **tree[model_state], **eval_state_of(folder, task.source)}
    return Run(config, task, variables, meta["step"], meta["metrics"] or {})


def stored_as(variables: dict, meta: dict) -> dict:
    """Return variables as evaluation sees them, by their places in a checkpoint of this meta."""
    network = {name: part for name, part in variables.items() if name != "source"}
    source = {"source": variables["source"]} if "source" in variables else {}
    return {**dict(zip(evaluated(meta), split_variables(network), strict=True)), **source}


def eval_state_of(folder, source) -> dict:
    """Return {"source": the entries of its state that evaluation sees}, from a checkpoint.

    A rollout's are the running statistics of observations.
    """
    if not source.eval_state:
        return {}
    from karpjax.run import checkpoint
    state = jax.eval_shape(source.init, jax.random.key(0))
    wanted = {"source": {name: state[name] for name in source.eval_state}}
    loaded = checkpoint.load_named(folder, by_name(on_default_device(wanted)))
    return jax.tree.map_with_path(lambda path, _: loaded[path_name(path)], wanted)


def with_description(config: ConfigDict, description: dict | None) -> ConfigDict:
    """Return the config as the task's build sees it: with the data's shapes, if it is elsewhere."""
    if not description or "data" not in config:
        return config
    return ConfigDict({**config.to_dict(),
                       "data": {**config.data.to_dict(), "described": description}})


def check_tokens(path, meta: dict, spec: dict) -> None:
    """Check that a run's tokenizer is that of config.data: other tokens mean nothing to it."""
    was, now = (meta.get("source") or {}).get("fingerprint"), spec.get("fingerprint")
    if was and now and was != now:
        raise UserError(f"{path} was trained on the tokens of another tokenizer ({was[:12]}) than "
                        f"config.data ({now[:12]}); prepare the texts with the tokenizer.json in "
                        "its workdir: python -m karpjax.prepare --tokenizer=FILE")


def check_data(config, meta: dict, spec: dict) -> None:
    """Check that a run goes on with the data that it began with, wherever it lies now."""
    was, data = meta.get("source") or {}, config.get("data", {})
    if was.get("set") and spec.get("set") and \
            not same_pictures(was["set"], data.dir, data.get("data_dir", "")):
        raise UserError(f"config.data.dir = {data.dir!r}: its pictures have changed since "
                        "this run began; put them back, or use a new --workdir")
    if "content" in was and "content" in spec:
        if was["content"] != spec["content"]:
            raise UserError("config.data: the data has changed since this run began, its content "
                            f"is {spec['content'][:12]}, expected {was['content'][:12]}; put it "
                            "back, or use a new --workdir")
        return
    moved = settings.differences({"data": meta["config"].get("data", {})},
                                 {"data": config.to_dict().get("data", {})})
    if moved:
        raise UserError(f"the data moved, and its content was not kept: {'; '.join(moved)}; put it "
                        "back, or use a new --workdir")


def on_default_device(tree):
    """Return the shapes of a tree's arrays, placed on the default device."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)
