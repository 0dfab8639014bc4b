"""Which slices and batch sizes fit: rows of a table, and a plot."""
from collections.abc import Callable, Iterator
import copy

from karpjax.core.errors import UserError
from karpjax.precompile.compile import precompile

LARGEST = "largest"
HEAD = (f"{'topology':<12}{'chips':>6}{'batch':>10}{'a chip':>10}{'memory':>16}{'fits':>6}"
        f"{'a step':>14}{'a chip':>20}")


def compiled(options, topology: str, batch: int) -> dict:
    """Return a row of the table: the config on that slice, with that global batch.

    The batch of a rollout is its environments.
    """
    config = copy.deepcopy(options.config)
    config.data[batch_key(config)] = batch
    report = precompile(config, options.task_file, topology)
    step = report.get("step")
    return {"topology": topology, "chips": report["chips"], "batch": batch,
            "fits": report["fits"], "usable": report["usable"],
            "memory": sum(report["memory"].values()) if "memory" in report else None,
            "ms": 1000 * step["seconds"] if step else None,
            "per_second": step["examples"] / step["seconds"] / report["chips"] if step else None}


def batch_key(config) -> str:
    """Return the key of config.data that holds the batch size."""
    key = next((key for key in ("batch_size", "num_envs") if key in config.data), None)
    if not key:
        raise UserError("expected config.data.batch_size or config.data.num_envs to vary, "
                        f"found {sorted(config.data)}")
    return key


def until_it_turns(row_of: Callable[[int], dict], batch: int) -> Iterator[dict]:
    """Yield rows of doubled batches while they fit, or of halved ones while they do not.

    The last row is the one that differs.
    """
    first = row_of(batch)
    yield first
    while True:
        batch = batch * 2 if first["fits"] else batch // 2
        try:
            row = row_of(batch)
        except UserError as error:  # chips do not divide it, or the data has fewer rows
            print(f"no batch of {batch}: {error}")
            return
        yield row
        if row["fits"] != first["fits"]:
            return


def line(row: dict) -> str:
    """Return a row as text, under HEAD."""
    memory = with_unit(row["memory"] and row["memory"] / 2**20, "MiB")
    time = with_unit(row["ms"], "ms")
    speed = with_unit(row["per_second"], "/s")
    fits = "yes" if row["fits"] else "no"
    a_chip = row["batch"] // row["chips"]
    return (f"{row['topology']:<12}{row['chips']:>6}{row['batch']:>10}{a_chip:>10}{memory:>16}"
            f"{fits:>6}{time:>14}{speed:>20}")


def with_unit(number: float | None, unit: str) -> str:
    """Return a number with its unit, "-" for None."""
    return "-" if number is None else f"{number:,.2f} {unit}"


def draw(rows: list[dict], file: str) -> None:
    """Plot memory, and examples a second and chip, by the batch a chip.

    Each slice is a line; the dashed line is the memory that its chips have.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 4), layout="constrained")
    memory, speed = figure.subplots(1, 2)
    for topology in dict.fromkeys(row["topology"] for row in rows):
        known = [row for row in rows if row["topology"] == topology and row["memory"] is not None]
        if known:
            each = [row["batch"] / row["chips"] for row in known]
            gibibytes = [row["memory"] / 2**30 for row in known]
            per_second = [row["per_second"] or float("nan") for row in known]
            drawn, = memory.plot(each, gibibytes, marker="o", label=topology)
            color = drawn.get_color()
            memory.axhline(known[0]["usable"] / 2**30, color=color, linestyle="--", linewidth=0.8)
            speed.plot(each, per_second, marker="o", color=color)
    memory.set(ylabel="GiB a chip", yscale="log")
    speed.set(ylabel="examples a second and chip, at most")
    for axes in (memory, speed):
        axes.set_xlabel("batch a chip")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    memory.legend(frameon=False)
    figure.savefig(file)
