"""Multi30k, English to German: one long run, two short ones, what no network does, and PyTorch.

    python experiments/multi30k/run.py --workdir=runs/multi30k --torch_python=PATH
    python experiments/multi30k/run.py --quick --log=FILE      # without PyTorch: that ours runs

Reads the captions from the shared data ($KARPJAX_TEST_DATA, ../shared/data by default) and prepares
them in the workdir. Parts, each on two cores, alone:

    floor    the source as it is, and the nearest training caption's reference, a minute
    short    configs/translate_multi30k.py, 2 seeds of 2,000 steps
    long     the same, one seed of 8,000 steps
    peer     configs/translate_multi30k.py:marian here and Hugging Face's MarianMTModel, same first
             weights, batches and rates, 2 seeds of 500 steps, in turns

Choices are made on the validation captions. The checkpoint of the best validation BLEU translates
the three test sets, once, with 5 beams. results.jsonl gets a line a run and test set.
"""
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402

from experiments.multi30k.floor import neighbours  # noqa: E402
from experiments.multi30k.peer import peer  # noqa: E402
from experiments.runs import SHARED, command_of_parts, kept, trained  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.datasets.documents import read_lines  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.evaluate import run_with  # noqa: E402
from karpjax.generation.scores import scores  # noqa: E402
from karpjax.run.evaluator import make_evaluator  # noqa: E402

LANGUAGES = ["en", "de"]
TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco")
# Reported elsewhere: of tokenised lowercased text, and so in no row with ours (Wu et al. 2021).
PUBLISHED = {"Transformer-tiny, BLEU of tokenised lowercased text": dict(
    zip(TESTS, (41.02, 33.4, 29.9), strict=True))}
QUICK = {"steps": 4, "eval_every": 4, "save_every": 4, "data.batch_size": 4, "model.layers": 1,
         "model.width": 16, "model.heads": 2, "optimizer.learning_rate.warmup_steps": 1,
         "data.validation": "val[:6]"}


def captions(workdir: pathlib.Path, quick: bool) -> tuple[pathlib.Path, str]:
    """Return the folder of the captions, and the data_dir of the sets that are made of them.

    In multi30k_en_de training captions share rows, in multi30k_apart each has its own.
    """
    folder, data_dir = workdir / "captions", workdir / "tfds"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", *TESTS):  # not the test of 2018, whose captions are longer
        for language in LANGUAGES:
            lines = read_lines(SHARED / "multi30k" / f"{split}.{language}.gz")
            lines = lines[:40] if quick else lines[:-1]     # after the last line end is nothing
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    for name, pack in (("multi30k_en_de", True), ("multi30k_apart", False)):
        if not (data_dir / name).exists():
            prepare("pairs", folder, name, str(data_dir), languages=LANGUAGES, pack=pack,
                    length=256 if quick else 64, vocabulary=300 if quick else 8192)
    return folder, str(data_dir)


def lines_of(folder: pathlib.Path, split: str) -> list[list[str]]:
    """Return the lines of both languages."""
    return [read_lines(folder / f"{split}.{language}")[:-1] for language in LANGUAGES]


def floor(log, options, workdir) -> None:
    """Log the scores of what no network makes."""
    folder, _ = captions(workdir, options.quick)
    train = lines_of(folder, "train")
    for split in TESTS[:1] if options.quick else TESTS:
        sources, references = lines_of(folder, split)
        for name, texts in (("source", sources), ("neighbour", neighbours(*train, sources))):
            log({"part": "floor", "of": name, "test": split, **scored(texts, references)})


def scored(texts: list[str], references: list[str]) -> dict:
    """Return the scores of translations, their intervals and signatures."""
    values, interval, signatures = scores(texts, references)
    return {**values, "interval_95": interval, "signatures": signatures}


def runs(log, options, workdir, part: str, seeds: tuple[int, ...], steps: int) -> None:
    """Train from several seeds, and translate the test sets with the best checkpoint of each."""
    captions_in, data_dir = captions(workdir, options.quick)
    own = {"steps": steps, **(QUICK if options.quick else {}), "data.data_dir": data_dir,
           "data.test": ""}
    for seed in seeds[:1] if options.quick else seeds:
        folder = workdir / f"{part}_{seed}"
        log({"part": part, "seed": seed, **trained("translate_multi30k", folder, seed=seed, **own)})
        for split in TESTS[:1] if options.quick else TESTS:
            row = kept(workdir / f"{folder.name}_{split}.json", functools.partial(
                translated, folder, split, lines_of(captions_in, split)[1], options.quick))
            log({"part": part, "seed": seed, "test": split, **row})


def translated(run_folder: pathlib.Path, split: str, references: list[str], quick: bool) -> dict:
    """Return the metrics of a split by the best checkpoint, and the scores of its translations.

    The references are the captions as they were written, not as their tokens have them.
    """
    run, name = run_with(str(run_folder), f"{split}[:6]" if quick else split, "best")
    mesh = make_mesh(devices=jax.devices()[:1])
    measured = make_evaluator(run.task, mesh).measure(run.variables, name)
    texts = run.task.source.detokenize(measured.rows["translation"])
    return {"step": run.step, **measured.metrics, **scored(texts, references[:len(texts)])}


def beside_pytorch(log, options, workdir) -> None:
    """Log a few steps here and in PyTorch, side by side."""
    peer(log, options, workdir, captions(workdir, options.quick)[1])


PARTS = {"floor": floor,
         "short": functools.partial(runs, part="short", seeds=(1, 2), steps=2000),
         "long": functools.partial(runs, part="long", seeds=(0,), steps=8000),
         "peer": beside_pytorch}


if __name__ == "__main__":
    command_of_parts(PARTS, HERE / "results.jsonl", BLEU=PUBLISHED)
