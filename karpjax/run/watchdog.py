"""The hang detector: when one of several processes stops, the others wait for it in a collective, for ever and without a word.

Every process writes WORKDIR/beats/process_I.json every few seconds, from a thread of its own: a count, and what the loop does.
Where the loop does nothing new for config.hang_timeout seconds, compilation anywhere excepted, the process prints the stack
of each of its threads, says which process has not been heard of and what was running, and exits with code 4. A file that
stays as it is tells of a process that is dead or stopped; whose clock is right does not matter, and nothing is asked of the
network that hangs.
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
    """watch.beat("step 16"), again and again, from Watchdog(...) to watch.close(). after: seconds; 0: no watch."""

    def __init__(self, workdir, after: float, process: int = 0, processes: int = 1):
        self.folder, self.after, self.process, self.processes = epath.Path(workdir) / "beats", after, process, processes
        self.every = min(10.0, after / 8)
        self.doing, self.since, self.beats, self.waited = "starting", time.monotonic(), 0, 0.0
        self.heard = {}                       # process: (its last message, when it was new here)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True) if after else None
        if self.thread:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.thread.start()

    def close(self) -> None:
        self.over.set()
        if self.thread:
            self.thread.join()
            with contextlib.suppress(OSError):
                self.file(self.process).unlink()

    def beat(self, doing: str, waited: float = 0.0) -> None:
        """The loop has come to this: the clock starts anew. waited: the seconds, so far, that its host fed too late."""
        self.doing, self.since, self.waited = doing, time.monotonic(), max(waited, self.waited)

    def slowest(self) -> tuple[int, float] | None:
        """The process whose host has made the devices wait longest for data, and for how many seconds: all wait with it.

        None where nobody listens. A chip that is slow does not show.
        """
        waited = {self.process: self.waited, **{i: said.get("waited", 0.0) for i, (said, _) in list(self.heard.items())}}
        return max(waited.items(), key=lambda each: each[1]) if self.thread and self.processes > 1 else None

    # ------------------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while not self.over.wait(self.every):
            with contextlib.suppress(OSError, ValueError):        # a file half-written, a bucket out of reach: next time
                self.beats += 1
                message = {"beat": self.beats, "doing": self.doing, "waited": round(self.waited, 3)}
                self.file(self.process).write_text(json.dumps(message))
                self._listen()
            stuck = time.monotonic() - self.since > self.after
            if stuck and COMPILING not in (word for doing in self.alive().values() for word in doing.split()[:1]):
                self._give_up()

    def _listen(self) -> None:
        for other in range(self.processes):
            if other != self.process and self.file(other).exists():
                message = json.loads(self.file(other).read_text())
                if message != self.heard.get(other, (None, 0))[0]:
                    self.heard[other] = message, time.monotonic()

    def alive(self) -> dict[int, str]:
        """What each process does that has been heard of lately, this one too."""
        lately = time.monotonic() - max(4 * self.every, self.after / 2)
        return {self.process: self.doing, **{i: said["doing"] for i, (said, when) in self.heard.items() if when > lately}}

    def _give_up(self) -> None:
        silent = sorted(set(range(self.processes)) - set(self.alive()))
        lines = [f"process {self.process}: nothing new for {self.after:g} s (config.hang_timeout) since {self.doing!r}"]
        for i in silent:
            said, when = self.heard.get(i, ({"doing": "never heard of"}, self.since))
            silence = time.monotonic() - when
            lines.append(f"process {i} is dead or stopped: silent for {silence:.0f} s, last at {said['doing']!r}")
        if not silent:
            lines += [f"process {i} is alive, at {doing!r}" for i, doing in sorted(self.alive().items()) if i != self.process]
        with contextlib.suppress(OSError):                        # a notebook's stderr is no file
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        print("karpjax: error: hung: " + "; ".join(lines) + "; the stacks are above", file=sys.stderr, flush=True)
        os._exit(CODE)                                            # the main thread is not there to be asked

    def file(self, process: int):
        return self.folder / f"process_{process}.json"
