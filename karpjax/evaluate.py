"""Evaluation: exact means over a split, whatever the batch size or number of devices.

    python -m karpjax.evaluate --workdir=DIR --split=test [--which=best]
    python -m karpjax.evaluate --workdir=DIR --on='test[:1000]'       # any part of the run's data set, in TFDS's syntax
"""
import math

import jax

from karpjax.core import old_names
from karpjax.core import sharding
from karpjax.core.files import plain
from karpjax.run.evaluator import make_evaluator
from karpjax.sources.source import SpecOnly


def main(argv):
    from karpjax.run import cli
    from karpjax.run.restore import restore
    options = cli.parse(argv, __doc__, workdir=str, split="test", on="", which="newest")
    run = restore(options.workdir, which=options.which, data={"test": options.on} if options.on else None)
    source, split = run.task.source, "test" if options.on else options.split
    if isinstance(source, SpecOnly):
        raise source.error
    if split not in source.splits:
        raise cli.UserError(f"--split={split}: this run has {', '.join(source.splits) or 'none'}; another part of its data "
                            "set is evaluated by --on, as in --on='train[:1000]'")
    mesh = sharding.make_mesh(devices=jax.devices()[:math.gcd(source.batch_size, jax.device_count())])
    variables = sharding.put(run.variables, sharding.replicated(mesh))
    found = make_evaluator(run.task, mesh, run.config.precision)(variables, split)
    cli.print_json({"step": run.step, **{f"{options.on or split}/{name}": plain(value) for name, value in found.items()}})


__getattr__ = old_names.attributes("evaluate")

if __name__ == "__main__":
    from karpjax.run import cli
    cli.run(main)
