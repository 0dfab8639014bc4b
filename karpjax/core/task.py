"""A task: what is learned (model), from what (source), and how well (loss). One file each.

    def build(config):                # in karpjax/tasks/NAME.py, your module, or the config file
        model, source = ..., ...
        def loss(params, model_state, batch, key):      # pure; key is None in evaluation
            logits, model_state = karpjax.apply(model, params, model_state, batch["image"], key)
            nll = ...                                                                   # (B,)
            return {"nll": karpjax.mean(nll, batch["weight"])}, {}, model_state
        return karpjax.Task(model, source, loss)
"""
from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from karpjax.core import old_names
from karpjax.core.errors import UserError, check_keys
from karpjax.core.trees import cast_floating, split_variables

# Names of a restored run that a method must not take.
RESERVED = ("predict", "features", "params", "config", "step", "variables", "model", "task",
            "metrics", "encoded", "apply", "class_names")


@old_names.old_attributes(start="init_from_data")
@dataclasses.dataclass(frozen=True)
class Task:
    """Everything that the loop needs to know about a task.

    model      a Linen module, called as model(inputs, train=bool)
    source     where batches come from (karpjax.sources.Source)
    loss       (params, model_state, batch, key) -> (losses, metrics, model_state). Losses and
               metrics are dicts of (total, count) pairs, see `karpjax.mean`. The objective is the
               sum over `losses` of total / count.
    evaluate   (variables, batch) -> {name: mean | total | rows}, see karpjax/core/metric.py.
               Default: the loss with key=None: its losses, their sum "loss", and its metrics.
               Or {split: evaluate}, with "" for the other splits: one may be worth more time.
    summarize  (totals, rows) -> {name: float}, on the host once a split: whatever is no mean. Both
               are dicts by the names of `evaluate`; rows lack those gathered at the end alone. A
               dict in place of a float, a value or text a class, stands in summary.json alone, for
               the last split.
    pictures   (totals, rows, split) -> pictures as of `show`, on the host at the end of a run, from
               its last evaluation. Here are the rows that were gathered at the end alone.
    show       (variables, prepared batch) -> {"name.png": (H, W, 3) in 0 to 1 or a figure of
               matplotlib's, "name.gif": several, "name.txt": text}: what the model makes of a few
               examples. The loop writes them when the run ends.
    inputs     the batch entry that the model reads, or (batch) -> {name: argument of the model}
    predict    (variables, prepared inputs) -> outputs, for `karpjax.restore(...).predict`. The
               inputs are those of one entry, or a dict where `inputs` is a function. Default: the
               model's output. A text: why there is none, for the user who asks.
    methods    {"act": (variables, ...) -> ...}, called as `karpjax.restore(...).act(...)`
    init_from_data  () -> {"whiten/kernel": array}: parameters computed from the data, over those of
               `model.init`
    derived    (batch) -> {name: argument of the model} beside the entry `inputs`, made of it
    whole_batch   False: the loss may be over pairs of examples, and micro-batches (accumulate) and
               devices (pmap) are batches of their own. True: such a run is refused at its start
    """
    model: nn.Module
    source: Any
    loss: Callable
    evaluate: Callable | Mapping[str, Callable] | None = None
    predict: Callable | str | None = None
    inputs: str | Callable = "image"
    init_from_data: Callable | None = None
    show: Callable | None = None
    summarize: Callable | None = None
    pictures: Callable | None = None
    methods: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    derived: Callable = lambda batch: {}
    whole_batch: bool = True

    def __post_init__(self):
        if taken := sorted(set(self.methods) & set(RESERVED)):
            raise UserError(f"Task.methods: {', '.join(taken)}: expected names that a restored run "
                            f"does not have ({', '.join(RESERVED)}); rename the method")

    def init(self, key) -> dict:
        """Return model variables {"params": ..., "batch_stats": ...} for one example."""
        args, kwargs = self.arguments(jax.tree.map(jnp.asarray, self.source.example))
        check_call(self.model, args, {"train": False, **kwargs})
        variables = self.model.init({"params": key}, *args, train=False, **kwargs)
        if self.init_from_data is None:
            return variables
        params = traverse_util.flatten_dict(variables["params"], sep="/")
        given = self.init_from_data()
        check_keys(given, params, "Task.init_from_data")
        params |= jax.tree.map(jnp.asarray, given)
        return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}

    def arguments(self, batch: dict) -> tuple[tuple, dict]:
        """Return (args, kwargs) of the model for a prepared batch, by `inputs`."""
        if isinstance(self.inputs, str):
            if self.inputs not in batch:
                raise UserError(f"Task.inputs = {self.inputs!r}: expected an entry of a batch, "
                                f"found {', '.join(batch)}; give karpjax.Task(..., inputs=NAME)")
            return (batch[self.inputs],), self.derived(batch)
        return (), self.inputs(batch)

    def prepared(self, raw):
        """Return raw inputs, an array or a dict of entries by `inputs`, as the model reads them."""
        if isinstance(self.inputs, str):
            return self.source.preprocess({self.inputs: raw})[self.inputs]
        return self.source.preprocess(raw)

    def outputs(self, variables: dict, raw):
        """Return outputs for inputs as stored in the data set: predict's, else the model's."""
        return (self.predict or self.run_model)(variables, self.prepared(raw))

    def run_model(self, variables: dict, inputs, **kwargs):
        """Return the model's own output for prepared inputs.

        kwargs  further arguments of the model, as features=True
        """
        batch = {self.inputs: inputs} if isinstance(self.inputs, str) else inputs
        args, own = self.arguments(batch)
        params, model_state = split_variables(variables)
        model_state.pop("source", None)  # a rollout's, not the network's
        return apply(self.model, params, model_state, *args, **own, **kwargs)[0]


Task.__init__ = old_names.old_keywords(start="init_from_data")(Task.__init__)


def check_call(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Raise UserError unless the model takes these arguments."""
    try:
        inspect.signature(type(model).__call__).bind(model, *args, **kwargs)
    except TypeError as error:
        given = ", ".join([*["inputs"] * len(args), *(f"{name}=..." for name in kwargs)])
        raise UserError(f"{type(model).__name__}.__call__: {error}; expected it to take ({given}): "
                        "give it these arguments, or correct Task.inputs") from error


def apply(model: nn.Module, params, model_state: dict, inputs=None, key=None, **kwargs):
    """Run a Linen module and return (outputs in float32, new model_state).

    With a key the module runs in training mode: dropout is on, and model_state (BatchNorm
    statistics) is updated. Without one it is deterministic and model_state comes back as it went
    in. A model of several inputs takes them by name: `apply(model, params, model_state, key=key,
    **inputs)`.

    Floating inputs take the dtype of the parameters, so that the step's precision policy (bf16
    parameters) reaches the network. Labels and weights, which do not pass here, stay exact.
    """
    floats = [p for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.floating)]
    dtype = jnp.result_type(*floats)
    if inputs is None:
        kwargs = {name: cast_input(value, dtype) for name, value in kwargs.items()}
    args = () if inputs is None else (cast_floating(inputs, dtype),)
    variables = {"params": params, **model_state}
    if key is None:
        outputs = model.apply(variables, *args, train=False, **kwargs)
    else:
        outputs, new_state = model.apply(variables, *args, train=True, rngs={"dropout": key},
                                         mutable=list(model_state), **kwargs)
        # Statistics are kept in their own precision, whatever the compute precision.
        model_state = jax.tree.map(lambda new, old: new.astype(old.dtype), dict(new_state),
                                   model_state)
    return cast_floating(outputs, jnp.float32), model_state


def cast_input(value, dtype):
    """Cast an input by name. One number an example stays: a flow's time has no digits to lose."""
    return jax.tree.map(lambda x: cast_floating(x, dtype) if getattr(x, "ndim", 0) > 1 else x,
                        value)
