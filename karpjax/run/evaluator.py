"""Evaluation: exact means over a split, whatever the batch size or number of devices."""
import jax

from karpjax.core import sharding
from karpjax.core.step import PRECISIONS
from karpjax.core.trees import cast_floating, split_variables


def make_evaluator(task, mesh, precision: str = "fp32"):
    """evaluate(variables, split) -> {"loss": ..., metric: ...}; compiled once, for all splits."""

    @jax.jit
    def program(variables, batch):
        batch = sharding.constrain_batch(mesh, task.source.preprocess(batch))
        params, model_state = split_variables(variables)
        params = cast_floating(sharding.constrain(params, sharding.replicated(mesh)), PRECISIONS[precision])
        if task.evaluate is not None:
            return {}, task.evaluate({"params": params, **model_state}, batch)
        losses, metrics, _ = task.loss(params, model_state, batch, None)
        return losses, metrics

    def evaluate(variables, split: str) -> dict[str, float]:
        sums = None
        for local in task.source.eval_batches(split):
            # Totals are added in float64 on the host: float32 loses counts beyond 16 million.
            part = jax.tree.map(float, jax.device_get(program(variables, sharding.put_batch(mesh, local))))
            sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
        losses, metrics = jax.tree.map(lambda pair: pair[0] / pair[1] if pair[1] else float("nan"), sums,
                                       is_leaf=lambda x: isinstance(x, tuple) and isinstance(x[0], float))
        return {**({"loss": sum(losses.values())} if losses else {}), **losses, **metrics}

    return evaluate
