"""Shakespeare's characters: beside PyTorch in nanoGPT's CPU set-up, 20 minutes, 2 hours, a floor.

    python experiments/shakespeare/run.py --workdir=runs/shakespeare --torch_python=PATH
    python experiments/shakespeare/run.py --workdir=runs/shakespeare --parts floor twenty
    python experiments/shakespeare/run.py --quick --log=FILE      # without PyTorch: that ours runs

Parts, each on two cores, alone:

    floor    character n-grams, n = 3 to 6, 2 minutes: of nanoGPT's training part, and of ours
    peer     configs/gpt_shakespeare.py:nano_cpu here and in plain PyTorch (torch_gpt.py): the same
             first weights, batches and rates, 3 seeds, in turns of 100 steps
    twenty   configs/gpt_shakespeare.py, 3 seeds of 20 minutes
    long     configs/gpt_shakespeare.py:long, one seed of 2 hours

These runs train on nanoGPT's training part, whole. Choices were made before, on its last 5 %, with
runs that did not train on it. nanoGPT's validation part, our test split, is read whole, once a run,
at its end. results.jsonl gets a line a run, then means and deviations.
PyTorch may live in another Python.
"""
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import command_of_parts, trained  # noqa: E402
from experiments.shakespeare.ngram import nats_per_character  # noqa: E402
from experiments.shakespeare.peer import ALL, QUICK, peer  # noqa: E402
from karpjax.datasets.corpora import read_corpus  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

SEEDS = 3
# Reported elsewhere, on windows drawn at random: the README of karpathy/nanoGPT.
PUBLISHED = {"nanoGPT's CPU set-up": 1.88,
             "nanoGPT, 10.65M parameters, 3 minutes of an A100": 1.4697}


def floor(log, options, workdir) -> None:
    """Log the nats of n-grams, with and without the part that our runs hold out for choices."""
    text = read_corpus("shakespeare")[:20_000 if options.quick else None]
    train, test = text[:int(0.9 * len(text))], text[int(0.9 * len(text)):]
    for part in (train, train[:int(0.95 * len(train))]):
        for n in (3,) if options.quick else (3, 4, 5, 6):
            log({"part": "floor", "n": n, "characters": len(part),
                 "test/nll": round(nats_per_character(part, test, n), 4)})


def runs(log, options, workdir, part: str, form: str, seeds: int) -> None:
    """Train a form of the config from several seeds, and log their summaries and means."""
    summaries = []
    for seed in range(1 if options.quick else seeds):
        own = QUICK if options.quick else {}
        summaries.append(trained(f"gpt_shakespeare{form}", workdir / f"{part}_{seed}", seed=seed,
                                 **ALL, **own))
        log({"part": part, "seed": seed, **summaries[-1]})
    log({"part": part, "seeds": len(summaries), "metrics": over_seeds(summaries)})
    print(f"{part}\n{seeds_table(over_seeds(summaries))}", flush=True)


PARTS = {"floor": floor, "peer": functools.partial(peer, seeds=SEEDS),
         "twenty": functools.partial(runs, part="twenty", form="", seeds=SEEDS),
         "long": functools.partial(runs, part="long", form=":long", seeds=1)}


if __name__ == "__main__":
    command_of_parts(PARTS, HERE / "results.jsonl", **{"test/nll": PUBLISHED})
