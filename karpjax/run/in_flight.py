"""Dispatches whose metrics have not been fetched yet: the device runs ahead of the host."""
import collections

import jax


class InFlight:
    """A queue of dispatches, the oldest first.

    ahead  how many may wait in it while the loop dispatches the next
    """

    def __init__(self, mesh):
        # Not with several devices on the CPU: collective programs that are dispatched without
        # waiting starve each other of threads there, and the process aborts.
        self.ahead = 0 if jax.default_backend() == "cpu" and mesh.size > 1 else 2
        self.queue = collections.deque()  # (first step, metrics, bad batch), on the device

    def __len__(self) -> int:
        return len(self.queue)

    def add(self, first: int, values: dict, bad) -> None:
        """Append the dispatch after `first` steps: its metrics {name: (steps,)} and bad batch."""
        self.queue.append((first, values, bad))

    def pop(self) -> tuple[int, dict, dict]:
        """Wait for the oldest dispatch: (first, metrics on the host, bad batch)."""
        first, values, bad = self.queue.popleft()
        return first, jax.device_get(values), bad

    def done(self, fetched: int) -> int:
        """Return the number of steps that are done, `fetched` or more.

        On the CPU a fetch may end only when all in flight are done: those that are ready count.
        """
        flags = [(first, values["skipped_in_a_row"]) for first, values, _ in self.queue]
        return max([fetched, *(first + len(each) for first, each in flags if each.is_ready())])
