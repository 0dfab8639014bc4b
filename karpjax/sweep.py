"""One experiment from several seeds: mean and standard deviation (of the sample, n - 1) of every final metric.

    python -m karpjax.sweep --config=configs/digits_cnn.py --seeds=5 --workdir=runs/sweep [--config.steps=500 ...]

Seeds 0 to n - 1 (config.seed is not read) train one after another in DIR/seed_I, each as karpjax.train would; --devices and
--distributed are as there. Stopped at any moment and started again, the sweep goes on where it stopped; seeds that are done
are read, not trained again. The table is printed, and written to DIR/sweep.json. Exit codes: see karpjax/run/cli.py.
"""
import json
import statistics

from etils import epath
import jax

from karpjax.core import old_names
from karpjax.core import files, settings
from karpjax.core.errors import UserError
from karpjax.run import cli
from karpjax.run.workdir import finished


def main(argv):
    options = cli.parse(argv, __doc__, config=True, workdir=str, seeds=5, devices=0, distributed=False)
    if options.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, found {options.seeds}")
    cli.start_jax(devices=options.devices, distributed=options.distributed)
    from karpjax.run.loop import fit
    workdir, summaries = epath.Path(options.workdir).expanduser(), []
    for seed in range(options.seeds):
        config = settings.canonical(options.config)
        config.seed, folder = seed, workdir / f"seed_{seed}"
        summaries.append(finished(folder, config) or fit(config, folder, task_file=options.task_file))
    found = over_seeds(summaries)
    print(table(found))
    if jax.process_index() == 0:
        files.write_whole(workdir / "sweep.json", json.dumps({"seeds": options.seeds, "steps": options.config.steps,
                                                                "metrics": found}, indent=2) + "\n")


def over_seeds(summaries: list[dict]) -> dict:
    """{metric: {"mean", "sd", "values"}} of the final metrics, those named "split/metric"; null where a value is missing."""
    found = {}
    for name in (name for name in summaries[0] if "/" in name):
        values = [summary.get(name) for summary in summaries]
        whole = None not in values
        found[name] = {"mean": statistics.fmean(values) if whole else None,
                       "sd": statistics.stdev(values) if whole and len(values) > 1 else None, "values": values}
    return found


def table(found: dict) -> str:
    width = max(map(len, found), default=6)
    number = lambda x: f"{'-' if x is None else format(x, '.4f'):>10}"
    seeds = len(next(iter(found.values()))["values"]) if found else 0
    lines = [f"{'metric':<{width}}  {'mean':>10}{'sd':>10}  " + "".join(f"{f'seed {i}':>10}" for i in range(seeds))]
    lines += [f"{name:<{width}}  {number(row['mean'])}{number(row['sd'])}  " + "".join(map(number, row["values"]))
              for name, row in found.items()]
    return "\n".join(lines)


__getattr__ = old_names.attributes("sweep")

if __name__ == "__main__":
    cli.run(main)
