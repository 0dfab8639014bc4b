"""Pictures for a person to look at: curves of a run's metrics, and whatever a task shows."""
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import files

HIDDEN = ("skipped", "skipped_in_a_row", "examples_per_s", "data_wait")
NAMED = 25  # classes, at most, whose names and counts fit into a picture


def curves(rows: list[dict], path) -> None:
    """Draw one panel a metric name (loss, accuracy, ...), with one line a split."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state
    panels: dict[str, dict[str, list]] = {}
    for row in rows:
        for name, value in row.items():
            split, _, metric = name.rpartition("/")
            if name != "step" and metric not in HIDDEN and value is not None:
                panels.setdefault(metric, {}).setdefault(split, []).append((row["step"], value))
    if not panels:
        return
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    width, height = 4.5 * columns, 3.0 * lines                                        # inches
    figure = Figure(figsize=(width, height))
    # Margins by hand: matplotlib's search for them takes as long as all the drawing.
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.15 / width, wspace=0.2,
                           bottom=0.5 / height, top=1 - 0.35 / height, hspace=0.4)
    for i, (metric, series) in enumerate(sorted(panels.items())):
        axes = figure.add_subplot(lines, columns, i + 1, title=metric, xlabel="step")
        for split, points in series.items():
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3,
                      label=split or "schedule")
        axes.grid(alpha=0.3)
        axes.legend()
    write(figure, path)


# ------------------------------------------------------------------------ what a task shows

def show(task, variables, split: str, workdir) -> None:
    """Write what `Task.show` makes of the first batch of a split into the workdir."""
    batch = jax.tree.map(jnp.asarray, next(iter(task.source.eval_batches(split))))
    shown = task.show(jax.device_get(variables), task.source.preprocess(batch))
    write_all(shown, workdir)


def of_evaluation(task, measured: dict, workdir) -> None:
    """Write what `Task.pictures` makes of the last split that was measured into the workdir."""
    if task.pictures is not None and measured:
        split, last = list(measured.items())[-1]
        write_all(task.pictures(last.totals, last.rows, split), workdir)


def write_all(shown: dict, workdir) -> None:
    """Write {"name.png": picture, "name.gif": frames, "name.txt": text}."""
    for name, value in shown.items():
        write(value, epath.Path(workdir) / name)


def write(value, path) -> None:
    """Write a figure of matplotlib's, a picture (H, W, 3) in 0 to 1, frames or a text."""
    path = epath.Path(path)
    if isinstance(value, str):
        files.write_whole(path, value)
        return
    with path.open("wb") as file:
        if hasattr(value, "savefig"):
            value.savefig(file, format="png", dpi=100)
        elif path.suffix == ".gif":
            save_gif(file, value)
        else:
            from matplotlib.image import imsave
            imsave(file, value, format="png")


def save_gif(file, frames) -> None:
    """Write frames (H, W, 3) in 0 to 1, 30 a second."""
    from PIL import Image  # matplotlib has it
    first, *rest = [Image.fromarray((np.clip(frame, 0, 1) * 255).astype(np.uint8))
                    for frame in frames]
    first.save(file, format="gif", save_all=True, append_images=rest, duration=1000 // 30, loop=0)


# -------------------------------------------------------------------------- of classification

def confusion(counts, names: list[str], title: str):
    """Return a figure of a confusion matrix (C, C): each row as shares of its true class.

    Few classes have their names and counts in the picture; many are an image alone.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(counts) <= NAMED
    side = 2.2 + 0.42 * len(counts) if few else 8
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="predicted", ylabel="true")
    # Square roots: a class that is mistaken for another now and then must show.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if few:
        upright = max(map(len, names)) <= 3
        axes.set_xticks(range(len(names)), names, rotation=0 if upright else 90)
        axes.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center",
                      color=colour, fontsize=8)
    return figure


def gallery(images, captions: list[str], title: str, columns: int = 6):
    """Return a figure of pictures (N, H, W, C) in 0 to 1, each with a caption."""
    from matplotlib.figure import Figure
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    images = images / max(images.max(), 1e-6)  # digits of 0 to 16 would be all but black
    width, height = max(4.8, 1.6 * columns), 2 * lines + 0.5                          # inches
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=12)
    # All on one axes, in inches: an axes for each picture takes four times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = (width - 1.6 * columns) / 2 + 1.6 * (i % columns) + 0.1
        top = 0.95 + 2 * (i // columns)
        tall, wide = 1.4 * np.array(image.shape[:2]) / max(image.shape[:2])
        left += (1.4 - wide) / 2
        grey = image.shape[-1] == 1
        axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=1, aspect="auto",
                    extent=(left, left + wide, top + tall, top))
        axes.text(left + wide / 2, top - 0.08, caption, ha="center", fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


# --------------------------------------------------------------------------------- of language

def attention(panels: list[tuple]):
    """Return a figure of who looks at whom.

    panels   (probabilities (T, S), names of the T that look, names of the S that are looked at).
             What is behind the names is cut
    """
    from matplotlib.figure import Figure
    sizes = [(len(looking), len(seen)) for _, looking, seen in panels]
    width, height = 1.5 + 0.24 * max(s for _, s in sizes), sum(1.2 + 0.22 * t for t, _ in sizes)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False,
                           gridspec_kw={"height_ratios": [1 + t for t, _ in sizes]})[:, 0]
    for axes, (probabilities, looking, seen) in zip(grid, panels, strict=True):
        axes.imshow(probabilities[:len(looking), :len(seen)], cmap="Blues", vmin=0)
        axes.set_xticks(range(len(seen)), [*map(plain_text, seen)], rotation=90, fontsize=8)
        axes.set_yticks(range(len(looking)), [*map(plain_text, looking)], fontsize=8)
    return figure


def plain_text(name: str) -> str:
    """Return a token as matplotlib shows it: a line's end as \\n, a dollar sign as itself."""
    return repr(name)[1:-1].replace("$", r"\$")
