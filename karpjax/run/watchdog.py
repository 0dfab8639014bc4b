"""The watchdog: ends a run that hangs, and names the process that is stuck.

If one of several processes stops, the others would wait for it in a collective, for ever and
without a word. So every process writes WORKDIR/beats/process_I.json every few seconds, from a
thread of its own: a count, and what the loop does. If the loop makes no progress for
config.hang_timeout seconds, except while some process compiles, the process prints the stack of
each of its threads, which process has been silent and what was running, and exits with code 4.

A file that stays as it is belongs to a process that is dead or stopped. So clocks need not agree,
and the network, which may be what hangs, is not used.
"""
import contextlib
import faulthandler
import json
import os
import sys
import threading
import time

from etils import epath

CODE = 4
COMPILING = "compiling"


class Watchdog:
    """The watchdog of one process: call beat("step 16") again and again, then close().

    after  seconds without a beat after which the process ends; 0: never
    """

    def __init__(self, workdir, after: float, process: int = 0, processes: int = 1):
        self.folder, self.after = epath.Path(workdir) / "beats", after
        self.process, self.processes = process, processes
        self.every = min(10.0, after / 8)
        self.doing, self.since, self.beats, self.waited = "starting", time.monotonic(), 0, 0.0
        self.heard = {}                       # process: (its last message, when it was new here)
        self.closing = threading.Event()
        self.thread = None
        if after:
            self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self.thread.start()

    def close(self) -> None:
        """Stop watching, and remove this process's file."""
        self.closing.set()
        if self.thread:
            self.thread.join()
            with contextlib.suppress(OSError):
                self.file(self.process).unlink()

    def beat(self, doing: str, waited: float = 0.0) -> None:
        """Start the clock again.

        doing   what the loop does now, in words
        waited  seconds so far that this process's devices have waited for its data
        """
        self.doing, self.since = doing, time.monotonic()
        self.waited = max(waited, self.waited)

    def slowest(self) -> tuple[int, float] | None:
        """Return (process, seconds) of the host that the devices have waited for longest.

        All processes wait with it. None for a single process, or without a watch. A chip that is
        slow does not show.
        """
        if not self.thread or self.processes == 1:
            return None
        waited = {self.process: self.waited}
        waited |= {i: message.get("waited", 0.0) for i, (message, _) in list(self.heard.items())}
        return max(waited.items(), key=lambda each: each[1])

    # ------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while not self.closing.wait(self.every):
            # A file half-written, a bucket out of reach: next time.
            with contextlib.suppress(OSError, ValueError):
                self.beats += 1
                message = {"beat": self.beats, "doing": self.doing, "waited": round(self.waited, 3)}
                self.file(self.process).write_text(json.dumps(message))
                self._listen()
            stuck = time.monotonic() - self.since > self.after
            if stuck and not any(doing.startswith(COMPILING) for doing in self.alive().values()):
                self._give_up()

    def _listen(self) -> None:
        for other in range(self.processes):
            if other != self.process and self.file(other).exists():
                message = json.loads(self.file(other).read_text())
                if message != self.heard.get(other, (None, 0))[0]:
                    self.heard[other] = message, time.monotonic()

    def alive(self) -> dict[int, str]:
        """Return {process: what it does} of this process, and of those heard of lately."""
        lately = time.monotonic() - max(4 * self.every, self.after / 2)
        others = {i: message["doing"] for i, (message, when) in self.heard.items() if when > lately}
        return {self.process: self.doing, **others}

    def _give_up(self) -> None:
        silent = sorted(set(range(self.processes)) - set(self.alive()))
        lines = [f"process {self.process}: nothing new for {self.after:g} s (config.hang_timeout) "
                 f"since {self.doing!r}"]
        for i in silent:
            message, when = self.heard.get(i, ({"doing": "never heard of"}, self.since))
            silence = time.monotonic() - when
            lines.append(f"process {i} is dead or stopped: silent for {silence:.0f} s, "
                         f"last at {message['doing']!r}")
        if not silent:
            lines += [f"process {i} is alive, at {doing!r}"
                      for i, doing in sorted(self.alive().items()) if i != self.process]
        with contextlib.suppress(OSError):                        # a notebook's stderr is no file
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        print(f"karpjax: error: hung: {'; '.join(lines)}; the stacks are above",
              file=sys.stderr, flush=True)
        os._exit(CODE)                                            # the main thread cannot be asked

    def file(self, process: int):
        return self.folder / f"process_{process}.json"
