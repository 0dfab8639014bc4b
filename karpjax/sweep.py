"""Train one experiment from several seeds: mean and deviation of every metric.

    karpjax sweep --config=digits_cnn --seeds=5 --workdir=runs/sweep [--config.steps=500 ...]

Seeds 0 to n - 1 train one after another in DIR/seed_I, each as `karpjax train` would (config.seed
is not read). --devices and --distributed are as there. Stopped at any moment and started again, the
sweep goes on where it stopped; seeds that are done are read, not trained again. The deviation is
that of the sample (n - 1). The table is printed, and written to DIR/sweep.json.
Exit codes: see karpjax/run/cli.py. Also as python -m karpjax.sweep.
"""
import json

from etils import epath
import jax

from karpjax.core import files, old_names, settings
from karpjax.core.errors import UserError
from karpjax.run import cli
from karpjax.run.seeds import over_seeds, seeds_table
from karpjax.run.workdir import finished


def main(argv):
    options = cli.parse(argv, __doc__, config=True, workdir=str, seeds=5, devices=0,
                        distributed=False)
    if options.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, found {options.seeds}")
    cli.start_jax(devices=options.devices, distributed=options.distributed)
    from karpjax.run.loop import fit  # imports Orbax: after bad input is refused
    workdir = epath.Path(options.workdir).expanduser()
    summaries = []
    for seed in range(options.seeds):
        folder = workdir / f"seed_{seed}"
        config = settings.canonical(options.config)
        config.seed = seed
        summary = finished(folder, config) or fit(config, folder, task_file=options.task_file)
        summaries.append(summary)
    metrics = over_seeds(summaries)
    print(seeds_table(metrics))
    if jax.process_index() == 0:
        result = {"seeds": options.seeds, "steps": options.config.steps, "metrics": metrics}
        files.write_whole(workdir / "sweep.json", json.dumps(result, indent=2) + "\n")


__getattr__ = old_names.attributes("sweep")

if __name__ == "__main__":
    cli.run(main)
