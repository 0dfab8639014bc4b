"""The training state: one pytree, everything a run needs to go on, all of it in checkpoints."""

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree
import numpy as np

from karpjax.core.trees import path_name, split_variables


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and the run's key.

    step          batches seen, skipped ones included
    params        the network's parameters, float32
    model_state   its other variables (BatchNorm statistics), {} if it has none
    opt_state     the optimizer's
    ema           moving average of params, {} when off
    ema_state     that of model_state, {} when off: other weights have other statistics
    key           the run's PRNG key, constant: step s draws from fold_in(key, s)
    source        the source's state: data position, or environments and normalisers
    skipped       steps skipped because something was not finite: (in all, in a row)
    """
    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree
    ema_state: PyTree
    key: Array
    source: PyTree
    skipped: Int[Array, "2"]

    @classmethod
    def create(cls, variables: dict, optimizer, key: Array, source: PyTree = None,
               ema: bool = False) -> "TrainState":
        """Return the state at step 0 for a model's variables (the output of `model.init`)."""
        params, model_state = split_variables(variables)
        # The copy matters: the step donates its state, and two leaves of it must not be one buffer.
        averages = jax.tree.map(jnp.copy, (params, model_state)) if ema else ({}, {})
        return cls(jnp.int32(0), params, model_state, optimizer.init(params), *averages, key,
                   {} if source is None else source, jnp.zeros(2, jnp.int32))

    @property
    def variables(self) -> dict:
        """Model variables as trained, as a source (a rollout) sees them."""
        return {"params": self.params, **self.model_state}

    @property
    def eval_variables(self) -> dict:
        """Model variables for evaluation and prediction: the moving average if there is one."""
        return {"params": self.ema or self.params, **(self.ema_state or self.model_state)}


def init_state(task, optimizer, seed: int, ema: bool = False) -> TrainState:
    """Return the state at step 0: a pure function of the seed, for the caller to jit."""
    init_key, source_key, step_key = jax.random.split(jax.random.key(seed), 3)
    variables, source = task.init(init_key), task.source.init(source_key)
    return TrainState.create(variables, optimizer, step_key, source, ema)


def parameter_table(params: PyTree) -> str:
    """Return the parameters' names, shapes and counts, one a line, with the total."""
    rows = [(path_name(path), tuple(leaf.shape), int(np.prod(leaf.shape)))
            for path, leaf in jax.tree.leaves_with_path(params)]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {str(shape):<20} {count:>12,}" for name, shape, count in rows]
    total = sum(count for _, _, count in rows)
    return "\n".join([*lines, f"{'total':<{width}}  {'':<20} {total:>12,}"])
