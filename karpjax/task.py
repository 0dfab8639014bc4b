"""A task: what is learned (model), from what (source), and how well (loss). One file each; the step is shared.

    def build(config):                                  # in karpjax/tasks/NAME.py, your module, or the config file itself
        model, source = ..., ...
        def loss(params, model_state, batch, key):      # pure; key is None in evaluation
            logits, model_state = karpjax.apply(model, params, model_state, batch["image"], key)
            nll = ...                                                                             # (B,)
            return {"nll": karpjax.mean(nll, batch["weight"])}, {}, model_state
        return karpjax.Task(model, source, loss)
"""
from collections.abc import Callable
import dataclasses
import hashlib
import importlib
import inspect
import linecache
import sys
import types
from typing import Any

from flax import linen as nn, traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.errors import UserError, check_keys

Pair = tuple[Float[Array, ""], Float[Array, ""]]  # (total, count): divided once, over the global batch


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything the loop needs to know of a task.

    model     a Linen module, called as model(inputs, train=bool)
    source    where batches come from (karpjax.sources.Source)
    loss      (params, model_state, batch, key) -> (losses, metrics, model_state); losses and metrics are dicts of
              (total, count) pairs, see `mean`. The objective is the sum over `losses` of total / count.
    evaluate  (variables, batch) -> metrics, pairs again. Default: the loss with key=None: its losses, their sum "loss", and
              its metrics.
    predict   (variables, prepared inputs) -> outputs, for `karpjax.restore(...).predict`. Default: the model's output.
    inputs    the batch entry the model reads; it also gives the shapes for `model.init`.
    start     () -> {"whiten/kernel": array}: parameters that the data gives, over those of `model.init`
    show      (variables, prepared batch) -> {"name.png": (H, W, 3) in 0 to 1, "name.gif": several, "name.txt": text}: what the
              model makes of a few examples, for a person to look at; in the workdir when the run ends.
    """
    model: nn.Module
    source: Any
    loss: Callable
    evaluate: Callable | None = None
    predict: Callable | None = None
    inputs: str = "image"
    start: Callable | None = None
    show: Callable | None = None

    def init(self, key) -> dict:
        """Model variables {"params": ..., "batch_stats": ...} for one example of the source."""
        inputs = jax.tree.map(jnp.asarray, self.source.example[self.inputs])
        variables = self.model.init({"params": key}, inputs, train=False)
        if self.start is None:
            return variables
        params, given = traverse_util.flatten_dict(variables["params"], sep="/"), self.start()
        check_keys(given, params, "Task.start")
        return {**variables, "params": traverse_util.unflatten_dict({**params, **jax.tree.map(jnp.asarray, given)}, sep="/")}

    def outputs(self, variables: dict, inputs):
        """What `predict` gives for raw inputs, as stored in the data set: predict's, else the model's output."""
        prepared = self.source.prepare({self.inputs: inputs})[self.inputs]
        if self.predict is not None:
            return self.predict(variables, prepared)
        return apply(self.model, *split_variables(variables), prepared)[0]


def split_variables(variables: dict) -> tuple[dict, dict]:
    """{"params": p, **model_state} -> (p, model_state)."""
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


def apply(model: nn.Module, params, model_state: dict, inputs, key=None, **kwargs):
    """Run a Linen module and return (outputs in float32, new model_state).

    With a key the module runs in training mode: dropout on, model_state (BatchNorm statistics) updated. Without one it is
    deterministic and model_state comes back as it went in. Floating inputs take the dtype of the parameters, so that the
    step's precision policy (bf16 parameters) reaches the network; labels and weights, which do not pass here, stay exact.
    """
    dtype = jnp.result_type(*[p for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.floating)])
    inputs = cast_floating(inputs, dtype)
    variables = {"params": params, **model_state}
    if key is None:
        outputs = model.apply(variables, inputs, train=False, **kwargs)
    else:
        outputs, new_state = model.apply(variables, inputs, train=True, rngs={"dropout": key},
                                         mutable=list(model_state), **kwargs)
        # Statistics are kept in their own precision, whatever the compute precision.
        model_state = jax.tree.map(lambda new, old: new.astype(old.dtype), dict(new_state), model_state)
    return cast_floating(outputs, jnp.float32), model_state


def mean(values: Float[Array, "B *rest"], weight: Float[Array, "*leading"] | None = None) -> Pair:
    """(total, count) of per-example (or per-token) values; the step turns it into a mean over the *global* batch.

    weight has the leading axes of values: (B,) weighs examples, (B, T) tokens; None counts every element once.
    """
    weight = jnp.ones(values.shape) if weight is None else weight
    if weight.shape != values.shape[:weight.ndim]:
        raise UserError(f"karpjax.mean: expected a weight with the leading axes of the values {values.shape}, "
                        f"found {weight.shape}; give one weight an example, (B,), or an element, {values.shape}")
    weight = jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim)), values.shape)
    # A weight of 0 removes an example even if its value is inf or nan (padding).
    return jnp.sum(jnp.where(weight == 0, 0.0, values * weight)), jnp.sum(weight).astype(jnp.float32)


def cast_floating(tree, dtype):
    """Cast the floating leaves of a tree; integers, booleans and keys stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def load_task_module(name: str, source: dict | None = None):
    """The module that defines `build(config)`, and the record of it that goes into checkpoints.

    name    "" with `source` = {"path", "text"}: that text (a config file that also holds its task);
            "my_package.my_task": that module; "classify": karpjax.tasks.classify.
    Returns (module, {"name", "path", "text"}); text is None for the tasks that ship with karpjax. Given a record from
    a checkpoint, the task is built from its text, also where the file no longer exists.
    """
    if source is not None and source.get("text"):
        return module_from_text(source["path"], source["text"]), {"name": name, **source}
    full_name = name if "." in name else f"karpjax.tasks.{name}"
    if not name:
        raise UserError("config.task is empty and the config file has no build(config); name a task, as in "
                        "config.task = 'classify' or 'my_package.my_task', or define build(config) beside get_config")
    try:
        module = importlib.import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name and full_name.startswith(error.name):
            raise UserError(f"config.task = {name!r}: no module {full_name}; "
                            "a name with a dot is a module on PYTHONPATH, one without is in karpjax/tasks") from error
        raise
    except SyntaxError as error:
        raise UserError(f"config.task = {name!r}: {error.filename}:{error.lineno}: {error.msg}") from error
    if full_name.startswith("karpjax."):
        return module, {"name": name, "path": None, "text": None}
    return module, {"name": name, "path": inspect.getsourcefile(module), "text": inspect.getsource(module)}


def module_from_text(path: str, text: str):
    """Execute a task file's text as a module. It runs with your rights: restore only checkpoints you trust."""
    name = "karpjax_task_" + hashlib.sha256(text.encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    linecache.cache[path] = (len(text), None, text.splitlines(True), path)  # tracebacks show the lines
    try:
        code = compile(text, path, "exec")
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    sys.modules[name] = module  # dataclasses and Linen look their module up
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def build_task(config, module) -> Task:
    """Call module.build(config) and check what it returns."""
    if not hasattr(module, "build"):
        raise UserError(f"{module.__file__}: no build(config) in it; define build(config) -> karpjax.Task, "
                        "or name another task in config.task")
    task = module.build(config)
    if not isinstance(task, Task):
        raise UserError(f"{module.__file__}: build(config) returned {type(task).__name__}, expected a karpjax.Task")
    return task
