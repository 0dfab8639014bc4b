"""IMDB: masked modelling on its reviews alone, then sentiment from 1 %, 10 % and 90 % of the
labels, scratch beside pretrained.

    python experiments/imdb/run.py --workdir=runs/imdb               # mini: 2.5 hours of 2 cores
    python experiments/imdb/run.py --workdir=runs/imdb --size=tiny   # an hour and a half
    python experiments/imdb/run.py --workdir=runs/imdb --size=small  # for a GPU: some minutes
    python experiments/imdb/run.py --quick --log=/tmp/quick.jsonl

Reads the reviews from the shared data ($KARPJAX_TEST_DATA, ../shared/data by default) and prepares
them in the workdir. Trains configs/imdb_mlm.py once, and configs/imdb_sentiment.py from it and from
scratch. The learning rate is that of SIZES. If it names several, each share and start takes the one
that is best on the validation reviews with seed 0.

Seed i of a share of p % is trained on the i-th p % of the training reviews. The last tenth of them
is for validation. The test split is evaluated once for each run, at its end, and never to choose a
rate. SIZE.jsonl gets a line for each run, then mean and deviation for each share and start. A
second start continues where the first stopped. --quick: a few steps on a few reviews, for tests.
"""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import SHARED, Log, command, trained  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.datasets.tfds import prepared_builder  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

SHARES = {1: 3, 10: 3, 90: 1}                            # % of the training reviews: seeds
# A review is cut to the length of a packed row: no positions that pretraining never saw (tiny, run
# first, has twice as many).
TINY = dict(model=dict(layers=2, width=128, heads=2), packed=128, length=256,
            rates=dict.fromkeys(SHARES, (1e-3,)),
            steps={1: 40, 10: 300, 90: 1200}, pretraining={}, common={})
# tokens of a row, packed and of a review; rates and steps for each share; what differs from the
# configs
SIZES = {
    "tiny": TINY,
    # Fitted to two and a half hours of 2 cores: a third of a pass, in small batches (as many rows a
    # second as large ones, and four times the steps), with the 80/10/10 that
    # experiments/masked_ablation found best; a fifth of the test reviews.
    "mini": {**TINY, "model": dict(layers=4, width=256, heads=4), "length": 128,
             "rates": {1: (3e-4, 1e-3), 10: (1e-3,), 90: (1e-3,)},
             "steps": {1: 40, 10: 200, 90: 500}, "evaluations": 1,
             "pretraining": {"steps": 4000, "data.batch_size": 16, "replace": True,
                             "eval_every": 2000, "save_every": 500},
             "test": "test[:20%]"},
    "small": dict(model=dict(layers=4, width=512, heads=8), packed=512, length=512,
                  # 14, 5, 3 epochs
                  rates={1: (3e-4, 1e-3), 10: (3e-4, 1e-3), 90: (3e-4,)},
                  steps={1: 100, 10: 400, 90: 2100},
                  # 6 passes
                  pretraining={"steps": 2000, "data.batch_size": 128},
                  common={"precision": "bf16"})}
STARTS = ("scratch", "pretrained")
QUICK = {"steps": 3, "eval_every": 3, "save_every": 3, "data.batch_size": 4,
         "optimizer.learning_rate.warmup_steps": 1}


def sets(workdir: pathlib.Path, size: dict, quick: bool) -> str:
    """Return the data_dir of two sets: all texts except the test reviews, packed, and the labelled
    ones by its tokenizer."""
    raw = workdir / "raw" / "imdb"
    data_dir = str(workdir / f"tfds_{size['packed']}_{size['length']}")
    if not raw.exists():
        subprocess.run([sys.executable, SHARED / "unpack.py", "imdb", "--to", workdir / "raw"],
                       check=True)
        for file in raw.glob("*.jsonl") if quick else ():
            file.write_text("".join(line + "\n" for line in file.read_text().split("\n")[:600:3]))
    if not pathlib.Path(data_dir, "imdb_packed").exists():
        prepare("text", raw, "imdb_packed", data_dir, length=size["packed"],
                vocabulary=300 if quick else 8192, lowercase=True,
                pack=True, without=str(raw / "test.jsonl"))
    if not pathlib.Path(data_dir, "imdb").exists():
        tokenizer = workdir / f"tokenizer_{size['packed']}.json"
        tokenizer.write_text(prepared_builder("imdb_packed", data_dir).info.metadata["tokenizer"])
        prepare("text", raw, "imdb", data_dir, length=size["length"], tokenizer_file=str(tokenizer),
                vocabulary=0)
    return data_dir


def study(options, workdir: pathlib.Path):
    size = SIZES[options.size]
    data_dir = sets(workdir, size, options.quick)
    common = {**{f"model.{name}": value for name, value in size["model"].items()}, **size["common"],
              "data.data_dir": data_dir,
              **(QUICK if options.quick else {})}
    log = Log(options.log or HERE / f"{options.size}.jsonl")
    # other steps are other runs
    name = f"{options.size}_{options.steps}" if options.steps else options.size
    pretraining = workdir / f"{name}_mlm"
    if "pretrained" in options.starts:
        log({"run": "mlm", **trained("imdb_mlm", pretraining, **{
            **size["pretraining"], **common, **({"data.batch_size": 8} if options.quick else {}),
            **({"steps": options.steps} if options.steps else {})})})

    def sentiment(share: int, start: str, seed: int, rate: float, folder: str, **own) -> dict:
        steps = 3 if options.quick else size["steps"][share]
        return trained("imdb_sentiment", workdir / folder, **{
            **common, "data.train": f"train[{seed * share}%:{(seed + 1) * share}%]", "steps": steps,
            "eval_every": steps // size.get("evaluations", 2),
            "optimizer.learning_rate.peak_value": rate,
            "optimizer.learning_rate.warmup_steps": max(1, steps // 10),
            "data.test": size.get("test", "test"), "seed": seed,
            "init_from": str(pretraining) if start == "pretrained" else "", **own})

    for share in options.shares:
        rates = {}
        for start in options.starts:
            tried = {rate: sentiment(share, start, 0, rate, f"{name}_{share}_{start}_rate_{rate:g}",
                                     **{"data.test": ""})
                     for rate in size["rates"][share]} if len(size["rates"][share]) > 1 else {
                size["rates"][share][0]: {}}
            rates[start] = max(tried, key=lambda rate: tried[rate].get("validation/accuracy", 0.0))
            for rate, summary in tried.items() if len(tried) > 1 else ():
                log({"run": "rate", "share": share, "start": start, "rate": rate, **summary})
        seeds = 1 if options.quick else SHARES[share]
        summaries = {start: [] for start in options.starts}
        for seed in range(seeds):
            for start in options.starts:
                summaries[start].append(sentiment(share, start, seed, rates[start],
                                                  f"{name}_{share}_{start}_{seed}"))
                log({"run": "sentiment", "share": share, "start": start, "seed": seed,
                     "rate": rates[start],
                     **summaries[start][-1]})
        for start in options.starts:
            metrics = over_seeds(summaries[start])
            log({"run": "sentiment", "share": share, "start": start, "seeds": seeds,
                 "metrics": metrics})
            print(f"{share} % of the labels, {start}\n{seeds_table(metrics)}", flush=True)


def arguments(parser):
    parser.add_argument("--size", default="mini", choices=SIZES)
    parser.add_argument("--steps", type=int, default=0,
                        help="of pretraining; 0: those of SIZES or the config")
    parser.add_argument("--shares", type=int, nargs="*", default=list(SHARES), choices=SHARES,
                        help="several processes may share the work, each with a --log of its own, "
                             "before one that collects; none: pretraining alone")
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS)


if __name__ == "__main__":
    command(study, "", arguments)
