"""Labelled JSONL from scratch: 2,000 reviews of IMDB, cut to 64 tokens, by averaged n-grams, by
TF-IDF and logistic regression, and by the encoder.

    python experiments/labelled_texts/run.py --workdir=runs/labelled_texts     # 15 minutes
    python experiments/labelled_texts/run.py --quick --log=/tmp/quick.jsonl

The reviews come from the shared data ($KARPJAX_TEST_DATA, ../shared/data by default). Its first
2,000 training reviews are learned from, the next 8,000 are for choices, and all 25,000 test reviews
are read once by each model, at its end. configs/labelled_texts.py was chosen on those 8,000 too, in
some forty trials (README.md).

The set is prepared and the networks are trained by the commands of configs/README.md, each in a
process of its own. TF-IDF and logistic regression are those of scikit-learn with its defaults, in
NumPy and SciPy here, so that the study needs nothing more. They read the same 64 tokens, as words
again. Their n-grams, their counts (or 1 + log) and the penalty are chosen on the 8,000.
results.jsonl gets a row for each run, then mean and deviation over seeds. A second start continues
where the first stopped. --quick: a few steps on a few reviews, for tests.
"""
import collections
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg
import scipy.special

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.runs import SHARED, Log, command  # noqa: E402
from karpjax.datasets.tfds import metadata_of, open_split, prepared_builder  # noqa: E402
from karpjax.datasets.tokenizer import vocabulary_of  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

NAME, LENGTH, VOCABULARY = "reviews", 64, 16384
SPLITS = {"train": ("train", 0, 2000), "validation": ("train", 2000, 10_000),
          "test": ("test", 0, 25_000)}                       # of the lines of a file of the data
SEEDS = 3
ALL = ["--config.data.train=train", "--config.data.validation=validation"]   # no tenth held back
MODELS = {
    "labelled_texts": [*ALL, "--config.eval_every=300"],
    # The recipe of experiments/imdb for a tenth of the labels.
    "imdb_sentiment": [*ALL, "--config.model.layers=2", "--config.model.width=128",
                       "--config.model.heads=2", "--config.steps=300", "--config.eval_every=300",
                       "--config.optimizer.learning_rate.peak_value=0.001",
                       "--config.optimizer.learning_rate.warmup_steps=30", "--config.best="],
}
QUICK = ["--config.steps=3", "--config.eval_every=3",
         "--config.optimizer.learning_rate.warmup_steps=1"]
LONGEST, LOGARITHMS, PENALTIES = (1, 2), (False, True), (0.3, 1.0, 3.0, 10.0, 30.0)


def karpjax_command(name: str, *flags: str, data_dir: pathlib.Path) -> None:
    """Run a command of karpjax, with `data_dir` for its sets."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(data_dir)}
    subprocess.run([sys.executable, "-m", f"karpjax.{name}", *flags], cwd=ROOT, env=env, check=True)


def prepared(workdir: pathlib.Path, quick: bool) -> pathlib.Path:
    """Return the folder of data sets, in which the reviews are prepared by the README's command."""
    raw, folder, data_dir = (workdir / name for name in ("raw", "reviews", "sets"))
    if (data_dir / NAME).exists():
        return data_dir
    subprocess.run([sys.executable, SHARED / "unpack.py", "imdb", "--to", raw], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    for split, (file, start, stop) in SPLITS.items():
        lines = (raw / "imdb" / f"{file}.jsonl").read_text().split("\n")[start:stop]
        lines = lines[:100] if quick else lines
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
    karpjax_command("prepare", "--format=text", f"--from={folder}", f"--name={NAME}",
                    f"--length={LENGTH}", f"--vocabulary={400 if quick else VOCABULARY}",
                    "--lowercase", data_dir=data_dir)
    return data_dir


def trained(config: str, seed: int, workdir: pathlib.Path, data_dir: pathlib.Path,
            quick: bool) -> dict:
    """Return the summary of a run of the README's command, continued if it was stopped."""
    run = workdir / f"{config}_{seed}"
    flags = [f"--config=configs/{config}.py", f"--config.data.name={NAME}",
             *MODELS[config], *(QUICK if quick else ())]
    karpjax_command("train", *flags, f"--config.seed={seed}", f"--workdir={run}", data_dir=data_dir)
    return {"flags": flags, **json.loads((run / "summary.json").read_text())}


# --------------------------------------------------------------- TF-IDF and logistic regression

def words_of_rows(data_dir: pathlib.Path) -> dict:
    """Return {split: (documents as lists of words, labels 0 and 1)} of the prepared rows."""
    builder = prepared_builder(NAME, str(data_dir))
    vocabulary = vocabulary_of(metadata_of(builder)["tokenizer"])
    special = (vocabulary.pad, vocabulary.cls, vocabulary.sep)
    splits = {}
    for split in SPLITS:
        rows = list(open_split(builder, split))
        texts = [vocabulary.decode([token for token in row["tokens"] if token not in special])
                 for row in rows]
        words = [re.findall(r"\b\w\w+\b", text.lower()) for text in texts]     # scikit-learn's
        splits[split] = words, np.asarray([row["label"] for row in rows])
    return splits


def tf_idf(documents: list, longest: int, logarithm: bool, fitted: tuple | None = None) -> tuple:
    """Return the rows (N, V) of TF-IDF, each of length 1, and the fit: columns and their idf."""
    grams = [collections.Counter(" ".join(words[i:i + n]) for n in range(1, longest + 1)
                                 for i in range(len(words) - n + 1)) for words in documents]
    columns = fitted[0] if fitted else {
        gram: i for i, gram in enumerate(sorted({gram for each in grams for gram in each}))}
    found = [(row, columns[gram], count) for row, each in enumerate(grams)
             for gram, count in each.items() if gram in columns]
    rows, at, counts = map(np.asarray, zip(*found, strict=True))
    values = 1 + np.log(counts) if logarithm else counts.astype(float)
    x = scipy.sparse.csr_matrix((values, (rows, at)), (len(documents), len(columns)))
    # The smoothed form: as if one more document held every n-gram.
    idf = fitted[1] if fitted else 1 + np.log((1 + len(documents)) / (1 + np.bincount(at)))
    x = x @ scipy.sparse.diags(idf)
    norms = scipy.sparse.linalg.norm(x, axis=1)
    return scipy.sparse.diags(1 / np.maximum(norms, 1e-12)) @ x, (columns, idf)


def logistic_regression(x, labels, penalty: float) -> np.ndarray:
    """Return weights and bias that minimise |w|^2 / 2 + penalty * the sum of the log losses."""
    signs = 2.0 * labels - 1

    def objective(parameters):
        w, b = parameters[:-1], parameters[-1]
        margins = signs * (x @ w + b)
        slopes = -penalty * signs * scipy.special.expit(-margins)
        value = w @ w / 2 + penalty * np.logaddexp(0, -margins).sum()
        return value, np.append(w + x.T @ slopes, slopes.sum())
    done = scipy.optimize.minimize(objective, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B",
                                   options={"maxiter": 1000})
    return done.x


def accuracy(parameters, x, labels) -> float:
    """Return the share of right answers."""
    return float(((x @ parameters[:-1] + parameters[-1] > 0) == labels).mean())


def baseline(splits: dict) -> list[dict]:
    """Return a row for scikit-learn's defaults, and one for the choice on the validation split."""
    (texts, labels), tried = splits["train"], {}
    for longest, logarithm in itertools.product(LONGEST, LOGARITHMS):
        x, fitted = tf_idf(texts, longest, logarithm)
        rows = {split: tf_idf(splits[split][0], longest, logarithm, fitted)[0]
                for split in ("validation", "test")}
        for penalty in PENALTIES:
            tried[longest, logarithm, penalty] = logistic_regression(x, labels, penalty), rows

    def score(choice, split):
        parameters, rows = tried[choice]
        return accuracy(parameters, rows[split], splits[split][1])
    validation = {choice: score(choice, "validation") for choice in tried}
    best = max(validation, key=validation.get)
    names = {"defaults": (1, False, 1.0), "chosen": best}
    return [{"run": "tf_idf", "how": how, "ngrams": choice[0], "logarithm": choice[1],
             "penalty": choice[2], "validation/accuracy": validation[choice],
             "test/accuracy": score(choice, "test")} for how, choice in names.items()]


def study(options, workdir: pathlib.Path):
    data_dir, log = prepared(workdir, options.quick), Log(options.log)
    for row in baseline(words_of_rows(data_dir)):
        log(row)
    for config in MODELS:
        summaries = []
        for seed in range(1 if options.quick else SEEDS):
            summaries.append(trained(config, seed, workdir, data_dir, options.quick))
            log({"run": config, "seed": seed, **summaries[-1]})
        metrics = over_seeds(summaries)
        log({"run": config, "seeds": len(summaries), "metrics": metrics})
        print(f"{config}\n{seeds_table(metrics)}", flush=True)


if __name__ == "__main__":
    command(study, HERE / "results.jsonl")
