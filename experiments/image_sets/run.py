"""Real image sets from fixed seeds: CIFAR-10 by the airbench recipe, and Fashion-MNIST. README's
results come from here.

    python experiments/image_sets/run.py --workdir=runs/image_sets  # an hour and a half on 2 cores
    python experiments/image_sets/run.py --quick --log=/tmp/quick.jsonl

The sets must be prepared (python -m karpjax.prepare). results.jsonl gets a line for each seed: the
run's own summary, with versions and machine. After several seeds follow mean and deviation of every
metric. A second start continues where the first stopped. If a config names no test split (its
choices were made on a validation split), the command karpjax.evaluate reads it, once. --quick takes
a few steps of a small network on a small part of the data, for tests.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.runs import config_of, trained  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

CONFIGS = ("cifar10_airbench", "fashion_mnist")
QUICK = {"steps": 4, "eval_every": 4, "save_every": 4, "model.widths": (4, 8, 8),
         "data.batch_size": 32,
         "data.train": "train[:128]"}


def evaluated(run: pathlib.Path, on: str) -> dict:
    """Return the command's output, and the command."""
    arguments = ["-m", "karpjax.evaluate", f"--workdir={run.resolve()}", f"--split={on}"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          check=True)
    metrics = json.loads(done.stdout.splitlines()[-1])
    return {"command": " ".join(["python", *arguments[:2], f"--workdir={run.name}", arguments[3]]),
            **metrics}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(CONFIGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workdir", default="",
                        help="where a run that was stopped goes on; empty: nowhere")
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study(options, pathlib.Path(options.workdir or folder))


def study(options, workdir: pathlib.Path):
    names, log_file = options.only.split(","), pathlib.Path(options.log)
    rows = [json.loads(line)
            for line in log_file.read_text().splitlines()] if log_file.exists() else []
    for name in names:
        rows = [row for row in rows if row["config"] != name]  # those of the other configs stay
        summaries = []
        for seed in range(options.seeds):
            run, test = workdir / f"{name}_{seed}", config_of(name)[0].data.test
            quick = {**QUICK, "data.validation": "",
                     "data.test": test and "test[:64]"} if options.quick else {}
            summaries.append(dict(trained(name, run, seed=seed, **quick)))
            if not test:
                summaries[-1] |= evaluated(run, "test[:64]" if options.quick else "test")
            rows.append({"config": name, "seed": seed, **summaries[-1]})
            log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if options.seeds > 1:
            rows.append({"config": name, "seeds": options.seeds, "metrics": over_seeds(summaries)})
            log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}\n{seeds_table(over_seeds(summaries))}", flush=True)


if __name__ == "__main__":
    main()
