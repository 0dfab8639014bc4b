"""Evaluate a run: exact means over a split, on any number of devices.

    karpjax evaluate --workdir=DIR --split=test [--which=best]
    karpjax evaluate --workdir=DIR --split='test[:1000]'
    karpjax evaluate --workdir=gs://... --trust     its task file, which is code, may run here

--split: a split that the run evaluates, or any part of its data set in TFDS's syntax.
Also as python -m karpjax.evaluate.
"""
import math

import jax

from karpjax.core import old_names, sharding
from karpjax.core.errors import UserError
from karpjax.core.files import plain
from karpjax.run import cli
from karpjax.run.evaluator import make_evaluator
from karpjax.run.restore import Run, restore
from karpjax.sources.source import SpecOnly


def main(argv):
    if any(flag.lstrip("-").split("=")[0] == "on" for flag in argv if flag.startswith("-")):
        raise UserError("--on is called --split now, as in --split='test[:1000]'; rename it")
    options = cli.parse(argv, __doc__, workdir=str, split="test", which="newest",
                        trust=False)
    run, split = run_with(options.workdir, options.split, options.which, options.trust or None)
    chips = math.gcd(run.task.source.batch_size, jax.device_count())
    mesh = sharding.make_mesh(devices=jax.devices()[:chips])
    variables = sharding.put(run.variables, sharding.replicated(mesh))
    metrics = make_evaluator(run.task, mesh, run.config.precision)(variables, split)
    cli.print_json({"step": run.step, **{f"{options.split}/{name}": plain(value)
                                         for name, value in metrics.items()}})


def run_with(workdir: str, split: str, which: str, trust=None) -> tuple[Run, str]:
    """Return the restored run, and the name that `split` has in its source."""
    run = restore(workdir, which=which, trust=trust)
    if isinstance(run.task.source, SpecOnly):
        raise run.task.source.error
    if split in run.task.source.splits:
        return run, split
    data = run.config.get("data", {})
    if not data.get("name") and not data.get("dir"):
        known = ", ".join(run.task.source.splits) or "none"
        raise UserError(f"--split={split}: this run has {known}, "
                        "and its data is no set of TFDS's to take another part of")
    # The part stands in as the test split.
    return restore(workdir, which=which, data={"test": split}, trust=trust), "test"


__getattr__ = old_names.attributes("evaluate")

if __name__ == "__main__":
    cli.run(main)
