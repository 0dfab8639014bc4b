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


# ---------------------------------------------------------------- of detection and segmentation

def boxes(images, truth: list[dict], found: list[dict], names: list[str]):
    """Return a figure of pictures (N, H, W, 3) in 0 to 1: the truth above, what is found below.

    truth, found   {"boxes": (M, 4), "labels": (M,)} a picture, with "scores" of what is found
    """
    figure, grid = panels(images, ("truth", "found"))
    for line, listed in zip(grid, (truth, found), strict=True):
        for axes, image, objects in zip(line, images, listed, strict=True):
            axes.imshow(image)
            scores = objects.get("scores", [None] * len(objects["labels"]))
            for (x1, y1, x2, y2), label, score in zip(objects["boxes"], objects["labels"], scores,
                                                      strict=True):
                colour = colour_of(label)
                # a pixel's middle is a whole number to matplotlib
                axes.plot([x1 - .5, x2 - .5, x2 - .5, x1 - .5, x1 - .5],
                          [y1 - .5, y1 - .5, y2 - .5, y2 - .5, y1 - .5], color=colour, linewidth=1)
                text = names[label] if score is None else f"{names[label]} {score:.2f}"
                axes.text(x1, y1, text, fontsize=6, color="black", va="bottom",
                          bbox=dict(facecolor=colour, edgecolor="none", pad=0.5))
    return figure


def masks(images, truth, predicted, names: list[str]):
    """Return a figure of pictures (N, H, W, 3) in 0 to 1: alone, with the truth, as predicted.

    truth, predicted   (N, H, W) of classes; a pixel beyond the names has none and is black
    """
    figure, grid = panels(images, ("picture", "truth", "predicted"))
    colours = np.array([*map(colour_of, range(len(names))), (0, 0, 0)])                # (K + 1, 3)

    def coloured(classes):
        return colours[np.minimum(classes, len(names))]
    for line, shown in zip(grid, (images, coloured(truth), coloured(predicted)), strict=True):
        for axes, image in zip(line, shown, strict=True):
            axes.imshow(image, interpolation="nearest")
    there = np.unique(np.concatenate([truth.ravel(), predicted.ravel()]))
    for place, label in enumerate(there[there < len(names)]):
        figure.text(0.01 + 0.98 * place / max(1, len(there)), 0.005, names[label], fontsize=8,
                    bbox=dict(facecolor=colour_of(label), edgecolor="none", pad=1))
    return figure


def panels(images, titles: tuple[str, ...]):
    """Return a figure and its axes: a line a title, a column a picture (N, H, W, 3)."""
    from matplotlib.figure import Figure
    (N, H, W), lines = np.shape(images)[:3], len(titles)
    side = 2.6 / max(H, W)                                                 # inches a pixel
    figure = Figure(figsize=(N * W * side + 0.3, lines * H * side + 0.4))
    grid = figure.subplots(lines, N, squeeze=False)
    figure.subplots_adjust(left=0.3 / figure.get_figwidth(), right=1, top=1, wspace=0.03,
                           bottom=0.3 / figure.get_figheight(), hspace=0.03)
    for title, line in zip(titles, grid, strict=True):
        for axes in line:
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title)
    return figure, grid


def colour_of(label: int) -> tuple[float, float, float]:
    """Return the colour of a class, in which neighbours by number differ most."""
    import colorsys
    return colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.55 + 0.35 * (label % 2),
                               0.95 - 0.25 * (label % 3 == 2))


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
