"""Flows on the digits and on Fashion-MNIST: samples scored beside pictures that no flow made.

    python experiments/flow/run.py --workdir=runs/flow --parts digits
    python experiments/flow/run.py --workdir=runs/flow --torch_python=PATH
    python experiments/flow/run.py --quick --log=FILE          # a few steps, on the digits alone

Fashion-MNIST is Debian's package dataset-fashion-mnist, in FASHION_MNIST where its files are not in
their usual place. Parts, each on two cores, alone:

    digits    configs/flow_digits.py, 3 seeds of some minutes, and floors
    fashion   configs/flow_fashion.py, two hours, and floors
    curves    of that run: scores over evaluations of the network, and over guidance; curves.png
    finetune  a flow of nine classes of Fashion-MNIST learns the tenth from 500 pictures, beside
              one from scratch, in equal steps
    peer      torchcfm's U-Net in PyTorch, on the same pictures for the seconds of "fashion"

Scores are of samples of the test pictures' classes, one each, or EACH of the few digits. Their
networks are two classifiers: features of seed 0, and the asked class by seed 1, which sees no
feature of the first. Choices are made on validation pictures. results.jsonl gets a line a score.
"""
import functools
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from experiments.flow.floors import (  # noqa: E402
    by_class, joint_normal, nearest_to_noise, pixel_normal)
from experiments.runs import command_of_parts, kept, trained  # noqa: E402
from karpjax import restore  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.run.pictures import write  # noqa: E402
from karpjax.tasks.flow import to_stored  # noqa: E402
from karpjax.tasks.flow_scores import scores  # noqa: E402

PACKAGE = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
SEEDS, EACH = 3, 10                    # runs of the digits; samples of each test digit
STEPS, GUIDANCES = 20, (1.0, 1.5, 2.0, 3.0, 5.0)
EVALUATIONS, CURVE = (5, 9, 21, 49, 99), 2000        # odd: Heun's are 2 steps - 1
TENTH, FEW, SHOTS = 9, 500, 1000       # the class to learn, of so many pictures, scored by so many
QUICK = {"steps": 4, "eval_every": 4, "save_every": 4, "data.batch_size": 16,
         "optimizer.learning_rate.warmup_steps": 1}
QUICK_FLOW = {**QUICK, "model.layers": 1, "model.width": 32, "model.heads": 2}


class Family:
    """A flow's config, its pictures, and the two classifiers that score it.

    name   "digits" or "fashion"
    """

    def __init__(self, name: str, options, workdir: pathlib.Path):
        self.quick, self.workdir = options.quick, workdir
        self.data = {} if name == "digits" else {"data.data_dir": fashion(workdir)}
        self.config = f"flow_{name}"
        self.classifier = "digits_cnn" if name == "digits" else "fashion_mnist"
        self.each = EACH if name == "digits" else 1

    @functools.cached_property
    def networks(self) -> dict[str, str]:
        """The workdirs of the classifiers, trained if they are not."""
        quick = {**QUICK, "model.width": 8} if self.quick else {}
        folders = [self.workdir / f"{self.classifier}_{seed}" for seed in (0, 1)]
        for seed, folder in enumerate(folders):
            trained(self.classifier, folder, seed=seed, **self.data, **quick)
        return dict(zip(("features", "judge"), map(str, folders), strict=True))

    def flow(self, folder: str, **own) -> dict:
        """Return the summary of a run of the flow, trained if it is not."""
        own = {**self.data, **own, **(QUICK_FLOW if self.quick else {})}
        return trained(self.config, self.workdir / folder, **own)

    def scorer(self, folder: str, **own):
        """Return (a restored flow, the scores of pictures of its data)."""
        run = restore(str(self.workdir / folder))
        sampler = run.task.methods["generate"].__self__
        return run, scores({**self.networks, **own}, run.task.source, sampler,
                           to_stored(run.config.data))


def fashion(workdir: pathlib.Path) -> str:
    """Return the data_dir in which Fashion-MNIST is prepared."""
    if not (workdir / "tfds" / "fashion_mnist").exists():
        prepare("idx", PACKAGE, "fashion_mnist", str(workdir / "tfds"))
    return str(workdir / "tfds")


def test_rows(run, most: int) -> dict:
    """Return the first test pictures and their classes."""
    source = run.task.source
    count = sum(int(batch["weight"].sum()) for batch in source.eval_batches("test"))
    rows = source.rows("test", range(min(count, most)))
    return {"data": rows["image"], "label": np.asarray(rows["label"], np.int32)}


def samples(run, scorer, labels, **options) -> np.ndarray:
    """Return samples (n, H, W, C) of these classes, as the data set stores pictures."""
    options = {"steps": STEPS, "guidance": 1.0, "method": "heun", "interval": (0.0, 1.0), **options}
    return np.asarray(scorer.to_stored(run.task.methods["generate"].__self__.made(
        run.variables, labels, **options)))


def scored(scorer, pictures, rows, each: int = 1) -> dict:
    """Return the scores of pictures (n each, H, W, C), `each` for every test row."""
    pictures = pictures.reshape(-1, each, *pictures.shape[1:])
    return scorer.summarize({}, {"made": {"pictures": pictures, **rows}})


def floors(log, family: Family, folder: str, part: str, most: int) -> None:
    """Log the scores of normals, of copies, and of the data's own halves."""
    run, scorer = family.scorer(folder)
    rows, source, rng = test_rows(run, most), run.task.source, np.random.default_rng(0)
    seen = source.rows("train", range(source.num_examples))
    image, label = seen["image"], np.asarray(seen["label"])
    wanted = rows["label"].repeat(family.each)
    n = len(wanted)
    half = rng.permutation(len(image))
    made = {"normal pixels": lambda: pixel_normal(image, n, rng),
            "normal picture": lambda: joint_normal(image, n, rng),
            "normal picture of the class":
                lambda: by_class(joint_normal, image, label, wanted, rng),
            "training picture nearest to noise": lambda: nearest_to_noise(image, n, rng)}
    for name, make in made.items():
        row = kept(family.workdir / f"{folder}_{name.replace(' ', '_')}.json",
                   lambda make=make: scored(scorer, make(), rows, family.each))
        log({"part": part, "made by": name, **row})
    # its class agreement is the judge's own accuracy
    row = kept(family.workdir / f"{folder}_test.json", lambda: scored(scorer, rows["data"], rows))
    log({"part": part, "made by": "test pictures", **row})
    row = kept(family.workdir / f"{folder}_halves.json",
               lambda: {"FD": distance(scorer, image[half[::2]], image[half[1::2]])})
    log({"part": part, "made by": "one half of the training pictures, beside the other", **row})


def distance(scorer, some, others) -> float:
    """Return the Frechet distance of two sets of pictures."""
    from karpjax.generation.fidelity import frechet_distance, moments
    return frechet_distance(*(moments(scorer.extractor.outputs(x)) for x in (some, others)))


def of_run(family: Family, folder: str, most: int, **options) -> dict:
    """Return the scores of a run's samples."""
    run, scorer = family.scorer(folder)
    rows, name = test_rows(run, most), "_".join(map(str, options.values()))

    def make():
        started = time.perf_counter()
        made = samples(run, scorer, rows["label"].repeat(family.each), **options)
        return {"sampling_s": time.perf_counter() - started,
                **scored(scorer, made, rows, family.each)}
    return {**options, **kept(family.workdir / f"{folder}_{name}.json", make)}


def digits(log, options, workdir) -> None:
    family = Family("digits", options, workdir)
    for seed in range(1 if options.quick else SEEDS):
        folder = f"digits_{seed}"
        summary = family.flow(folder, seed=seed)
        log({"part": "digits", "seed": seed, **summary})
        for guidance in (1.0, 2.0):
            log({"part": "digits", "seed": seed,
                 **of_run(family, folder, 20 if options.quick else 10_000, guidance=guidance)})
    floors(log, family, "digits_0", "digits", 20 if options.quick else 10_000)


def large(options, workdir) -> tuple[Family, int]:
    """Return Fashion-MNIST's flow and the number of its samples, in short forms the digits'."""
    return (Family("digits" if options.quick else "fashion", options, workdir),
            20 if options.quick else 10_000)


def of_fashion(log, options, workdir) -> None:
    family, most = large(options, workdir)
    log({"part": "fashion", **family.flow("fashion")})
    log({"part": "fashion", **of_run(family, "fashion", most)})
    log({"part": "fashion", **of_run(family, "fashion", most, guidance=2.0)})
    floors(log, family, "fashion", "fashion", most)


def curves(log, options, workdir) -> None:
    """Log scores over evaluations and over guidance, and draw them."""
    family, most = large(options, workdir)
    family.flow("fashion")
    most = min(most, CURVE)
    over = {}
    for method in ("euler", "heun"):
        for count in EVALUATIONS[:2] if options.quick else EVALUATIONS:
            steps = count if method == "euler" else (count + 1) // 2
            row = of_run(family, "fashion", most, steps=steps, method=method)
            log({"part": "curves", "evaluations": count, **row})
            over.setdefault(method, []).append((count, row["FD"]))
    for guidance in GUIDANCES[:2] if options.quick else GUIDANCES:
        row = of_run(family, "fashion", most, steps=STEPS, guidance=guidance)
        log({"part": "curves", **row})
        for name in ("FD", "class_agreement"):
            over.setdefault(name, []).append((guidance, row[name]))
    draw(over, workdir / "curves.png" if options.quick else HERE / "curves.png", most)


def draw(over: dict, path, n: int) -> None:
    """Draw the curves: FD over evaluations, and both scores over guidance."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for method in ("euler", "heun"):
        left.plot(*zip(*over[method], strict=True), marker="o", label=method)
    left.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="FD",
             title=f"{n} samples, unguided")
    left.legend()
    for axes, name in ((middle, "FD"), (right, "class_agreement")):
        axes.plot(*zip(*over[name], strict=True), marker="o")
        axes.set(xlabel="guidance", title=f"{name.replace('_', ' ')}, {STEPS} steps of Heun")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    write(figure, path)


def finetune(log, options, workdir) -> None:
    """Log what is learned of a class from few pictures, after nine others and from nothing."""
    family, _ = large(options, workdir)
    family.flow("fashion")
    source = restore(str(workdir / "fashion")).task.source
    seen = source.rows("train", range(source.num_examples))
    tenth = np.asarray(seen["label"]) == TENTH
    few = np.flatnonzero(tenth)[:FEW]
    parts = {"nine": np.flatnonzero(~tenth), "tenth": few}
    for name, rows in parts.items():
        write_set(workdir, f"flow_{name}", seen["image"][rows], np.asarray(seen["label"])[rows])
    sets = {name: {"data.name": f"flow_{name}", "data.data_dir": str(workdir / "tfds"),
                   "data.train": "train", "data.validation": "", "data.test": "", "best": ""}
            for name in parts}
    steps = {} if options.quick else {"steps": 2500}
    family.flow("nine", **sets["nine"], **steps)
    short = {} if options.quick else {
        "steps": 500, "optimizer.learning_rate.warmup_steps": 50, "eval_every": 500}
    for name, start in (("after nine", str(workdir / "nine")), ("from scratch", "")):
        folder = name.replace(" ", "_")
        family.flow(folder, **sets["tenth"], **short, init_from=start)
        row = kept(workdir / f"{folder}_scores.json",
                   functools.partial(of_class, family, folder, seen["image"][tenth]))
        log({"part": "finetune", "from": name, **row})


def of_class(family: Family, folder: str, real: np.ndarray) -> dict:
    """Return the scores of samples of the tenth class, beside all its pictures."""
    run, _ = family.scorer("fashion")
    _, scorer = family.scorer("fashion")
    tuned = restore(str(family.workdir / folder))
    n = 20 if family.quick else SHOTS
    made = samples(tuned, scorer, np.full(n, TENTH, np.int32))
    agreed = scorer.judge.outputs(made).argmax(-1) == TENTH
    return {"FD": distance(scorer, made, real), "class_agreement": float(agreed.mean()),
            "samples": n, "reference": len(real)}


def write_set(workdir: pathlib.Path, name: str, images, labels) -> None:
    """Write pictures and labels as a data set, unless it is there."""
    if not (workdir / "tfds" / name).exists():
        file = workdir / f"{name}.npz"
        np.savez(file, x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
        prepare("npz", file, name, str(workdir / "tfds"),
                classes=[str(label) for label in range(10)])


def peer(log, options, workdir) -> None:
    """Log the scores of torchcfm's U-Net, trained for the seconds that ours took."""
    if not options.torch_python:
        print("peer: left out, as there is no --torch_python", flush=True)
        return
    family, most = large(options, workdir)
    summary = family.flow("fashion")
    run, scorer = family.scorer("fashion")
    rows, source = test_rows(run, most), run.task.source
    seen = source.rows("train", range(source.num_examples))
    inputs, outputs = workdir / "peer_inputs.npz", workdir / "peer_samples.npz"
    seconds = 5.0 if options.quick else summary["seconds"]["train"]
    if not outputs.exists():
        np.savez(inputs, image=seen["image"], label=seen["label"], wanted=rows["label"])
        subprocess.run([options.torch_python, HERE / "torch_cfm.py", inputs, outputs, str(seconds)],
                       check=True)
    with np.load(outputs) as found:
        made, facts = found["samples"], {name: found[name].item() for name in found
                                         if name != "samples"}
    log({"part": "peer", **facts, **scored(scorer, made, rows)})


PARTS = {"digits": digits, "fashion": of_fashion, "curves": curves, "finetune": finetune,
         "peer": peer}


if __name__ == "__main__":
    command_of_parts(PARTS, HERE / "results.jsonl")
