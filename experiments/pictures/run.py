"""README's pictures: three short runs, and a strip of what they and the masked autoencoder show.

    python experiments/pictures/run.py --workdir=runs/pictures         # some minutes on two cores
    python experiments/pictures/run.py --quick --log=/tmp/quick.jsonl

Writes strip.png beside the log, which has one line a run. The digits run's curves.png,
confusion.png and metrics (digits_metrics.jsonl, which README quotes) lie there too. The last panel
of the strip shows three rows of experiments/mae/reconstructions.png, which that study's run left.
--quick: a few steps, for tests.
"""
import json
import pathlib
import shutil
import sys

from matplotlib.figure import Figure
from matplotlib.image import imread
import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import Log, command, config_of, trained  # noqa: E402
import karpjax  # noqa: E402

RUNS = {
    "digits_cnn": {"steps": 3, "eval_every": 3, "save_every": 3, "model.width": 4,
                   "optimizer.learning_rate.warmup_steps": 1},
    "ppo_cartpole": {"steps": 4, "data.minibatches": 1, "data.epochs": 1, "steps_per_dispatch": 2},
    "ppo_reacher": {"steps": 4, "data.minibatches": 1, "data.epochs": 1, "steps_per_dispatch": 2},
}
TIMES = (0, 4, 8, 12, 16, 49)                    # steps of the arm's episode
OF_DIGITS = ("curves.png", "confusion.png")      # as the run leaves them
GREEN, RED = "#2a7d3f", "#c0392b"
COLOURS = 256                                    # of a PNG's palette: half of the bytes


def study(options, workdir: pathlib.Path):
    log = Log(options.log)
    for name, quick in RUNS.items():
        overrides = quick if options.quick else {}
        log({"run": name, **trained(name, workdir / name, seed=0, **overrides)})
    folder = pathlib.Path(options.log).parent
    save(strip(workdir), folder / "strip.png")
    shutil.copyfile(workdir / "digits_cnn" / "metrics.jsonl", folder / "digits_metrics.jsonl")
    for name in OF_DIGITS:
        save_palette(Image.open(workdir / "digits_cnn" / name), folder / name)


def strip(workdir: pathlib.Path) -> Figure:
    """Return the four panels: digits, CartPole, the arm and the masked autoencoder."""
    figure = Figure(figsize=(10, 2.3), layout="constrained")
    parts = figure.subfigures(1, 4, width_ratios=(3, 2, 2, 2))
    digits(parts[0], karpjax.restore(workdir / "digits_cnn"))
    returns(parts[1], workdir / "ppo_cartpole" / "metrics.jsonl")
    parts[2].suptitle("arm to a point, PPO", fontsize=9)
    axes = parts[2].subplots()
    axes.imshow(overlay(frames(workdir / "ppo_reacher" / "episode.gif"), TIMES))
    axes.axis("off")
    reconstructions(parts[3])
    return figure


def digits(part, run) -> None:
    """Draw the first test digits with their predictions, then the wrong ones."""
    batches = list(run.task.source.eval_batches("test"))
    images, labels, weight = (np.concatenate([batch[name] for batch in batches])
                              for name in ("image", "label", "weight"))
    images, labels = images[weight > 0], labels[weight > 0]             # (N, 8, 8, 1), (N,)
    predicted = np.asarray(run.predict(images)).argmax(-1)
    right = predicted == labels
    part.suptitle(f"digits, CNN: {right.sum()} of {len(labels)} right", fontsize=9)
    wrong = np.flatnonzero(~right)[:7]
    order = np.concatenate([np.flatnonzero(right)[:21 - len(wrong)], wrong])
    for axes, i in zip(part.subplots(3, 7).flat, order, strict=False):
        axes.imshow(images[i, :, :, 0], cmap="gray_r")
        axes.set_title(predicted[i], fontsize=7, pad=1, color=GREEN if right[i] else RED)
        axes.axis("off")


def returns(part, file: pathlib.Path) -> None:
    """Draw the mean return of the last episodes against environment steps."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    points = [(row["step"], row["train/return"]) for row in rows
              if row.get("train/return") is not None]
    data = config_of("ppo_cartpole")[0].data
    per_step = data.num_envs * data.num_steps / (data.minibatches * data.epochs)
    axes = part.subplots()
    if points:
        steps, values = np.transpose(points)
        axes.plot(steps * per_step / 1000, values, color=GREEN)
    axes.axhline(475, color=RED, linestyle=":", linewidth=1)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("thousand environment steps", fontsize=7)
    part.suptitle("CartPole, PPO: return (475: solved)", fontsize=9)


def frames(file: pathlib.Path) -> list:
    """Return a GIF's frames, (H, W, 3) in 0 to 1."""
    with Image.open(file) as gif:
        every = []
        for i in range(gif.n_frames):
            gif.seek(i)
            every.append(np.asarray(gif.convert("RGB"), np.float32) / 255)
    return every


def overlay(every: list, times) -> np.ndarray:
    """Return frames on one canvas, the earlier the fainter, drawn dark on white."""
    count = len(every)
    chosen = [every[min(t * count // (times[-1] + 1), count - 1)] for t in times]
    strength = np.linspace(0.25, 1.0, len(chosen))
    return np.min([1 - s * (1 - frame) for s, frame in zip(strength, chosen, strict=True)], axis=0)


def reconstructions(part) -> None:
    """Draw three rows of what the masked autoencoder filled in."""
    part.suptitle("CIFAR-10, masked autoencoder", fontsize=9)
    rows = imread(HERE.parent / "mae" / "reconstructions.png")[:, :, :3]    # (256, 96, 3), 8 rows
    axes = part.subplots()
    axes.imshow(rows[96:192])
    axes.set_title("image      masked     filled in", fontsize=7, pad=2)
    axes.axis("off")


def save(figure: Figure, file: pathlib.Path) -> None:
    figure.savefig(file, dpi=100)
    save_palette(Image.open(file), file)


def save_palette(image: Image.Image, file: pathlib.Path) -> None:
    few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


if __name__ == "__main__":
    command(study, HERE / "results.jsonl")
