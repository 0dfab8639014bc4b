"""What a run shows while it trains: clocks, and the progress bar."""
import time

import jax
from tqdm import tqdm


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
