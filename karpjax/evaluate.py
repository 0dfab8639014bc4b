"""Evaluation: exact means over a split, whatever the batch size or number of devices.

    python -m karpjax.evaluate --workdir=DIR --split=test [--which=best]
    python -m karpjax.evaluate --workdir=DIR --on='test[:1000]'       # any part of the run's data set, in TFDS's syntax
"""
import math

import jax

from karpjax import sharding
from karpjax.metrics import plain
from karpjax.sources.source import Described
from karpjax.step import PRECISIONS
from karpjax.task import cast_floating, split_variables


def make_evaluator(task, mesh, precision: str = "fp32"):
    """evaluate(variables, split) -> {"loss": ..., metric: ...}; compiled once, for all splits."""

    @jax.jit
    def program(variables, batch):
        batch = sharding.constrain_batch(mesh, task.source.prepare(batch))
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


def main(argv):
    from karpjax import cli
    from karpjax.restore import restore
    options = cli.parse(argv, __doc__, workdir=str, split="test", on="", which="newest")
    run = restore(options.workdir, which=options.which, data={"test": options.on} if options.on else None)
    source, split = run.task.source, "test" if options.on else options.split
    if isinstance(source, Described):
        raise source.missing
    if split not in source.splits:
        raise cli.UserError(f"--split={split}: this run has {', '.join(source.splits) or 'none'}; another part of its data "
                            "set is evaluated by --on, as in --on='train[:1000]'")
    mesh = sharding.make_mesh(devices=jax.devices()[:math.gcd(source.batch_size, jax.device_count())])
    variables = sharding.put(run.variables, sharding.replicated(mesh))
    found = make_evaluator(run.task, mesh, run.config.precision)(variables, split)
    cli.print_json({"step": run.step, **{f"{options.on or split}/{name}": plain(value) for name, value in found.items()}})


if __name__ == "__main__":
    from karpjax import cli
    cli.run(main)
