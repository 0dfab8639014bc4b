"""IMDB: masked modelling on its reviews alone, then sentiment from 1 %, 10 % and all of the labels, scratch beside pretrained.

    python experiments/imdb/run.py --workdir=runs/imdb                                   # mini: half a day on 2 cores
    python experiments/imdb/run.py --workdir=runs/imdb --size=tiny                       # an hour and a half
    python experiments/imdb/run.py --quick --log=/tmp/quick.jsonl

Reads the reviews from the shared data ($KARPJAX_TEST_DATA, ../shared/data by default), prepares them in the workdir, trains
configs/imdb_mlm.py once and configs/imdb_sentiment.py from it and from scratch, by one recipe, which was chosen on the
validation reviews of seed 0 (README.md).
Seed i of a share of p % is trained on the i-th p % of the training reviews; the last tenth of them is for validation. The test
split is evaluated once a run, at its end. A line a run in SIZE.jsonl; then mean and deviation for each share and start. Started
again it goes on where it stopped. --quick: a few steps on a few reviews, for tests.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.runs import trained  # noqa: E402
from karpjax.prepare import prepare  # noqa: E402
from karpjax.sweep import over_seeds, table  # noqa: E402

SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
SIZES = {"tiny": dict(layers=2, width=128, heads=2), "mini": dict(layers=4, width=256, heads=4)}
SHARES = {1: (3, 40), 10: (3, 300), 90: (1, 1200)}       # % of the training reviews: seeds, steps
RATE, STARTS = 1e-3, ("scratch", "pretrained")
QUICK = {"steps": 3, "eval_every": 3, "save_every": 3, "data.batch_size": 4, "optimizer.learning_rate.warmup_steps": 1}


def sets(workdir: pathlib.Path, quick: bool) -> tuple[str, pathlib.Path]:
    """(data_dir, folder of the reviews), the packed set prepared: all texts but those that are test reviews."""
    raw, data_dir = workdir / "raw" / "imdb", str(workdir / "tfds")
    if not raw.exists():
        subprocess.run([sys.executable, SHARED / "unpack.py", "imdb", "--to", workdir / "raw"], check=True)
        for file in raw.glob("*.jsonl") if quick else ():
            file.write_text("".join(line + "\n" for line in file.read_text().split("\n")[:600:3]))
    if not pathlib.Path(data_dir, "imdb_packed").exists():
        prepare("text", raw, "imdb_packed", data_dir, length=128, vocabulary=300 if quick else 8192, lowercase=True, pack=True,
                without=str(raw / "test.jsonl"))
    return data_dir, raw


def study(options, workdir: pathlib.Path):
    data_dir, raw = sets(workdir, options.quick)
    model = {f"model.{name}": value for name, value in SIZES[options.size].items()}
    common = {**model, "data.data_dir": data_dir, **(QUICK if options.quick else {})}
    log_file = pathlib.Path(options.log or HERE / f"{options.size}.jsonl")
    rows = []

    def log(row):
        rows.append(row)
        log_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = f"{options.size}_{options.steps}" if options.steps else options.size    # other steps are other runs
    pretraining = workdir / f"{name}_mlm"
    log({"run": "mlm", **trained("imdb_mlm", pretraining, **{**common, **({"data.batch_size": 8} if options.quick else {}),
                                                             **({"steps": options.steps} if options.steps else {})})})
    if not pathlib.Path(data_dir, "imdb").exists():
        prepare("text", raw, "imdb", data_dir, length=256, tokenizer_file=str(pretraining / "tokenizer.json"), vocabulary=0)
    for share in options.shares:
        seeds, steps = (1, 3) if options.quick else SHARES[share]
        summaries = {start: [] for start in STARTS}
        for seed in range(seeds):
            for start in STARTS:
                own = {"data.train": f"train[{seed * share}%:{(seed + 1) * share}%]", "steps": steps, "eval_every": steps // 2,
                       "optimizer.learning_rate.peak_value": RATE, "optimizer.learning_rate.warmup_steps": max(1, steps // 10),
                       "seed": seed, "init_from": str(pretraining) if start == "pretrained" else "",
                       "optimizer.layer_decay": options.layer_decay if start == "pretrained" else 1.0}
                summaries[start].append(trained("imdb_sentiment", workdir / f"{name}_{share}_{start}_{seed}",
                                                **{**common, **own}))
                log({"run": "sentiment", "share": share, "start": start, "seed": seed, **summaries[start][-1]})
        for start in STARTS:
            found = over_seeds(summaries[start])
            log({"run": "sentiment", "share": share, "start": start, "seeds": seeds, "metrics": found})
            print(f"{share} % of the labels, {start}\n{table(found)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="mini", choices=SIZES)
    parser.add_argument("--steps", type=int, default=0, help="of pretraining; 0: the config's own")
    parser.add_argument("--shares", type=int, nargs="+", default=list(SHARES), choices=SHARES)
    parser.add_argument("--layer_decay", type=float, default=1.0)
    parser.add_argument("--workdir", default="", help="where a study that was stopped goes on; empty: nowhere")
    parser.add_argument("--log", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study(options, pathlib.Path(options.workdir or folder).resolve())


if __name__ == "__main__":
    main()
