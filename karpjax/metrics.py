"""Metrics on disk: `metrics.jsonl`, one row a line, is the record; TensorBoard events are made from it.

A resumed run must leave the same file as one that never stopped: rows are on disk before the checkpoint that follows them,
and on restore the file is cut back to the checkpoint's step, so no row is there twice and none is lost. Everything that
depends on the clock is named "time/...".
"""
import json
import math
import shutil
import time

from etils import epath
import jax
import numpy as np
from tqdm import tqdm

from karpjax import tensorboard

NAME = "metrics.jsonl"


class Writer:
    """Appends rows {"step": ..., "train/loss": ...}. Only process 0 writes; the others keep quiet.

    upto   rows after this step are dropped (a fresh run: -1), as are a line torn by a kill and the final test row
    """

    def __init__(self, workdir, upto: int = -1):
        self.path, self.active = epath.Path(workdir) / NAME, jax.process_index() == 0
        # The test row is written after the last checkpoint, so it is always made again.
        self.rows = [row for row in read_rows(workdir)
                     if row["step"] <= upto and not any(name.startswith("test/") for name in row)]
        self.remote = "://" in str(self.path)  # object stores cannot append: rows go there with each flush
        if self.active:
            self._rewrite()
            # TensorBoard's writer knows local files only; metrics.jsonl has it all.
            self.board = None if self.remote else _Board(epath.Path(workdir) / "tensorboard", self.rows)

    def write(self, row: dict) -> None:
        self.rows.append({name: plain(value) for name, value in row.items()})
        if self.active and not self.remote:
            with open(self.path, "a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
            self.board.write(self.rows[-1])

    def flush(self) -> None:
        """All rows are on disk after this; the loop calls it before every save."""
        if self.active:
            self._rewrite() if self.remote else self.board.flush()

    def close(self) -> None:
        self.flush()
        if self.active and not self.remote:
            self.board.close()

    def _rewrite(self) -> None:
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Board:
    """TensorBoard events, written anew from the rows at every start."""

    def __init__(self, folder, rows):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.events = tensorboard.Events(folder)
        for row in rows:
            self.write(row)

    def write(self, row):
        self.events.write(row["step"], {name: value for name, value in row.items()
                                        if name != "step" and isinstance(value, (int, float))})

    def flush(self):
        self.events.flush()

    def close(self):
        self.events.close()


def read_rows(workdir) -> list[dict]:
    """The rows of a workdir's metrics.jsonl; a last line torn by a kill is left out."""
    path, rows = epath.Path(workdir) / NAME, []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def write_whole(path, text: str) -> None:
    """Write a file aside, then rename it: a kill leaves the old file or the new one, never half of it."""
    path = epath.Path(path)
    part = path.parent / (path.name + ".part")
    part.write_text(text)
    part.replace(path)


def plain(value):
    """A JSON value: numpy scalars to Python's, what is not finite to null (JSON has no nan)."""
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Clock:
    """`with clock:` adds the seconds of the block to clock.seconds (live inside the block)."""

    def __init__(self):
        self.total, self.start = 0.0, None

    @property
    def seconds(self) -> float:
        return self.total + (time.perf_counter() - self.start if self.start else 0.0)

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *exception):
        self.total, self.start = self.seconds, None


class Progress:
    """The progress bar: loss, accuracy or return, the time of a step, what a device holds, the slowest process, and tqdm's ETA.

    training, waiting   clocks of the time in steps (without compilation, evaluation, saving) and waiting for data
    Where standard error is no terminal, as on a pod, it is a line every half minute.
    """
    SHOWN, EVERY = ("train/loss", "train/accuracy", "train/return", "time/examples_per_s"), 30.0

    def __init__(self, steps: int, start: int, examples_per_step: float, training: Clock, waiting: Clock):
        self.active = jax.process_index() == 0
        # None: off where standard error is not a terminal.
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=None if self.active else True, dynamic_ncols=True)
        self.examples_per_step, self.training, self.waiting, self.mark = examples_per_step, training, waiting, (start, 0.0, 0.0)
        self.said, self.last = time.monotonic(), {}

    def rates(self, step: int) -> dict:
        """examples/s, and the share of the time spent waiting for data, since the last call with fewer steps done."""
        now = (step, self.training.seconds, self.waiting.seconds)
        steps, seconds, wait = (new - old for new, old in zip(now, self.mark))
        if steps:
            self.mark = now
            self.last = {"time/examples_per_s": round(steps * self.examples_per_step / max(seconds, 1e-9), 1),
                         "time/data_wait": round(wait / max(seconds, 1e-9), 4)}
        return self.last

    def show(self, step: int, row: dict, slowest: tuple[int, float] | None = None) -> None:
        """slowest: a process, and the seconds it has waited for data."""
        shown = [f"{name.split('/')[1]} {row[name]:.4g}" for name in self.SHOWN if isinstance(row.get(name), (int, float))]
        shown += [f"{1000 * self.examples_per_step / max(row['time/examples_per_s'], 1e-9):.4g} ms a step",
                  f"data wait {row['time/data_wait']:.0%}"]
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")  # None on a CPU
        shown += [f"device memory {memory / 2**30:.1f} GiB"] if memory else []
        shown += [f"slowest process {slowest[0]} ({slowest[1]:.1f} s of data wait)"] if slowest else []
        self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.disable and time.monotonic() - self.said > self.EVERY:
            self.said = time.monotonic()
            self.say(f"step {step}: {', '.join(shown)}")

    def say(self, line: str) -> None:
        if self.active:
            self.bar.write(line)

    def close(self) -> None:
        self.bar.close()
