"""Real image sets from fixed seeds: CIFAR-10 by the airbench recipe; what README's table of results says.

    python experiments/image_sets/run.py --workdir=runs/image_sets                                    # about an hour on 2 cores
    python experiments/image_sets/run.py --quick --log=/tmp/quick.jsonl

The sets must be prepared (python -m karpjax.prepare). One line a seed in results.jsonl: the run's own summary, with versions
and machine; then, of several seeds, mean and deviation of every metric. Started again, a run goes on where it stopped. --quick
takes a few steps of a small network on a small part of the data: for tests.
"""
import argparse
import importlib.util
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from karpjax.loop import train  # noqa: E402
from karpjax.sweep import over_seeds, table  # noqa: E402

CONFIGS = ("cifar10_airbench",)
QUICK = {"steps": 4, "eval_every": 4, "save_every": 4}


def config_of(name: str, seed: int, quick: bool):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.seed = seed
    if quick:
        config.update(QUICK)
        config.model.widths = (4, 8, 8)
        config.data.update({"batch_size": 32, "train": "train[:128]", "test": "test[:64]"})
    return config


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(CONFIGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workdir", default="", help="where a run that was stopped goes on; empty: nowhere")
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study(options, pathlib.Path(options.workdir or folder))


def study(options, workdir: pathlib.Path):
    names, log_file = options.only.split(","), pathlib.Path(options.log)
    rows = [json.loads(line) for line in log_file.read_text().splitlines()] if log_file.exists() else []
    for name in names:
        rows = [row for row in rows if row["config"] != name]  # those of the other configs stay
        summaries = []
        for seed in range(options.seeds):
            source = (ROOT / "configs" / f"{name}.py").read_text()
            summaries.append(train(config_of(name, seed, options.quick), workdir / f"{name}_{seed}",
                                   record={"path": f"configs/{name}.py", "text": source}))
            rows.append({"config": name, "seed": seed, **summaries[-1]})
            log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if options.seeds > 1:
            rows.append({"config": name, "seeds": options.seeds, "metrics": over_seeds(summaries)})
            log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}\n{table(over_seeds(summaries))}", flush=True)


if __name__ == "__main__":
    main()
