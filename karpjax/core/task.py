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
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from karpjax.core import old_names
from karpjax.core.errors import check_keys
from karpjax.core.trees import cast_floating, split_variables


@old_names.old_attributes(start="init_from_data")
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
    init_from_data  () -> {"whiten/kernel": array}: parameters that the data gives, over those of `model.init`
    show      (variables, prepared batch) -> {"name.png": (H, W, 3) in 0 to 1, "name.gif": several, "name.txt": text}: what the
              model makes of a few examples, for a person to look at; in the workdir when the run ends.
    """
    model: nn.Module
    source: Any
    loss: Callable
    evaluate: Callable | None = None
    predict: Callable | None = None
    inputs: str = "image"
    init_from_data: Callable | None = None
    show: Callable | None = None

    def init(self, key) -> dict:
        """Model variables {"params": ..., "batch_stats": ...} for one example of the source."""
        inputs = jax.tree.map(jnp.asarray, self.source.example[self.inputs])
        variables = self.model.init({"params": key}, inputs, train=False)
        if self.init_from_data is None:
            return variables
        params, given = traverse_util.flatten_dict(variables["params"], sep="/"), self.init_from_data()
        check_keys(given, params, "Task.init_from_data")
        return {**variables, "params": traverse_util.unflatten_dict({**params, **jax.tree.map(jnp.asarray, given)}, sep="/")}

    def outputs(self, variables: dict, inputs):
        """What `predict` gives for raw inputs, as stored in the data set: predict's, else the model's output."""
        prepared = self.source.preprocess({self.inputs: inputs})[self.inputs]
        if self.predict is not None:
            return self.predict(variables, prepared)
        return apply(self.model, *split_variables(variables), prepared)[0]


Task.__init__ = old_names.old_keywords(start="init_from_data")(Task.__init__)


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
