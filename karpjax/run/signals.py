"""Signals that end a run early: it saves its state first."""
import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """SIGTERM, agreed on by all processes at one step.

    A single process takes Ctrl-C for it too. A second signal ends the process at once.
    """

    def __init__(self):
        self.received = False
        self.alone = jax.process_count() == 1  # with several, jax's own service listens and agrees
        self.before = {}
        # Python lets its main thread alone set handlers: a run in another takes no signals.
        if self.alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._receive)

    def _receive(self, number, frame):
        self.received = True
        self.restore()

    def agreed(self, step: int) -> bool:
        """Return whether to stop after this step: the same answer on every process."""
        return self.received if self.alone else multihost_utils.reached_preemption_sync_point(step)

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
