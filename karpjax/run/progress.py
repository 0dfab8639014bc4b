"""Clocks and the progress bar of a run that trains."""
import time

import jax
from tqdm import tqdm


class Clock:
    """A stopwatch: `with clock:` adds the block's seconds to clock.seconds, live inside it."""

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
    """The progress bar: metrics, time of a step, device memory, the slowest process, tqdm's ETA.

    training   a clock of the time in steps (without compilation, evaluation, saving)
    waiting    a clock of the time waiting for data
    If standard error is no terminal, as on a pod, it is a line every half minute.
    """
    SHOWN = ("train/loss", "train/accuracy", "train/return", "time/examples_per_s")
    EVERY = 30.0  # seconds

    def __init__(self, steps: int, start: int, examples_per_step: float, training: Clock,
                 waiting: Clock):
        self.active = jax.process_index() == 0
        # None: off if standard error is not a terminal.
        self.bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True,
                        disable=None if self.active else True)
        self.examples_per_step, self.training, self.waiting = examples_per_step, training, waiting
        self.mark = (start, 0.0, 0.0)  # step, seconds, seconds of waiting at the last `rates`
        self.last_rates: dict = {}
        self.last_line = time.monotonic()

    def rates(self, step: int) -> dict:
        """Return examples/s and the share of time spent waiting for data.

        Both are since the last call at an earlier step.
        """
        now = (step, self.training.seconds, self.waiting.seconds)
        steps, seconds, wait = (new - old for new, old in zip(now, self.mark, strict=True))
        if steps:
            self.mark, seconds = now, max(seconds, 1e-9)
            rate = steps * self.examples_per_step / seconds
            self.last_rates = {"time/examples_per_s": round(rate, 1),
                               "time/data_wait": round(wait / seconds, 4)}
        return self.last_rates

    def show(self, step: int, row: dict, slowest: tuple[int, float] | None = None) -> None:
        """Move the bar to a step and show a row of metrics.

        slowest   a process, and the seconds that it has waited for data
        """
        shown = [f"{name.split('/')[1]} {row[name]:.4g}" for name in self.SHOWN
                 if isinstance(row.get(name), (int, float))]
        milliseconds = 1000 * self.examples_per_step / max(row["time/examples_per_s"], 1e-9)
        shown += [f"{milliseconds:.4g} ms a step", f"data wait {row['time/data_wait']:.0%}"]
        stats = jax.local_devices()[0].memory_stats() or {}  # None on a CPU
        if memory := stats.get("peak_bytes_in_use"):
            shown.append(f"device memory {memory / 2**30:.1f} GiB")
        if slowest:
            shown.append(f"slowest process {slowest[0]} ({slowest[1]:.1f} s of data wait)")
        self.bar.set_postfix_str(", ".join(shown), refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.disable and time.monotonic() - self.last_line > self.EVERY:
            self.last_line = time.monotonic()
            self.say(f"step {step}: {', '.join(shown)}")

    def say(self, line: str) -> None:
        """Print a line above the bar, on process 0."""
        if self.active:
            self.bar.write(line)

    def close(self) -> None:
        self.bar.close()
