"""Pictures for a person to look at: curves of a run's metrics, and what a task shows of its examples."""
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import files

HIDDEN = ("skipped", "skipped_in_a_row", "examples_per_s", "data_wait")


def curves(rows: list[dict], path) -> None:
    """One panel a metric name (loss, accuracy, ...), one line a split."""
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
    figure = Figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
    for i, (metric, series) in enumerate(sorted(panels.items())):
        axes = figure.add_subplot(lines, columns, i + 1, title=metric, xlabel="step")
        for split, points in series.items():
            axes.plot(*zip(*points), marker="o" if len(points) < 30 else None, markersize=3, label=split or "schedule")
        axes.grid(alpha=0.3)
        axes.legend()
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=100)


def show(task, variables, split: str, workdir) -> None:
    """What `Task.show` makes of the first batch of a split, in the workdir."""
    from matplotlib.image import imsave
    batch = jax.tree.map(jnp.asarray, next(iter(task.source.eval_batches(split))))
    for name, found in task.show(jax.device_get(variables), task.source.preprocess(batch)).items():
        if name.endswith((".png", ".gif")):
            with (epath.Path(workdir) / name).open("wb") as file:
                imsave(file, found, format="png") if name.endswith(".png") else save_gif(file, found)
        else:
            files.write_whole(epath.Path(workdir) / name, found)


def save_gif(file, frames) -> None:
    """Frames (H, W, 3) in 0 to 1, 30 a second."""
    from PIL import Image  # matplotlib has it
    first, *rest = [Image.fromarray((np.clip(frame, 0, 1) * 255).astype(np.uint8)) for frame in frames]
    first.save(file, format="gif", save_all=True, append_images=rest, duration=1000 // 30, loop=0)
