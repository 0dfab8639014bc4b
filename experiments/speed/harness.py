"""Two programs timed side by side, in turns, each in a process of its own: the harness of every
comparison of speed.

A worker is a script that prints "ready" (and its versions). For each line N on its standard input
it runs N steps and prints the seconds they took. Absolute times on shared machines mean little.
Only the ratio within a round counts, in which the workers follow one another within seconds, the
order turned round every time.
"""
import pathlib
import statistics
import subprocess


class Worker:
    """A process that runs steps on request."""

    def __init__(self, command: list[str], **env):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env or None)
        self.hello = self._line("ready")

    def seconds(self, steps: int) -> float:
        """Return the seconds of one step, over a block of `steps`."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._line("seconds")) / steps

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _line(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        command = " ".join(map(short, self.process.args))
        raise RuntimeError(f"{command}: ended with {self.process.wait()}, expected a line {word!r}")


def short(argument: str) -> str:
    """Return a path's last part: logs are read on other machines."""
    return pathlib.Path(argument).name if "/" in argument else argument


def serve(run_steps, versions: str = "") -> None:
    """Answer requests on the worker's side: run_steps(n) blocks until n steps are done."""
    import sys
    import time
    print("ready", versions, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run_steps(int(line))
        print("seconds", time.perf_counter() - started, flush=True)


def in_turns(workers: dict[str, Worker], rounds: int, steps: int):
    """Yield rows {"round", name: milliseconds a step, ...}, after one round that is thrown away."""
    for worker in workers.values():
        worker.seconds(1)
    for i in range(rounds):
        order = list(workers) if i % 2 == 0 else list(workers)[::-1]
        times = {name: round(1000 * workers[name].seconds(steps), 3) for name in order}
        yield {"round": i, **{name: times[name] for name in workers}}


def ratio(rows: list[dict], name: str, peer: str) -> dict:
    """Return the median over the rounds of name / peer, with its quartiles."""
    low, middle, high = statistics.quantiles([row[name] / row[peer] for row in rows], n=4,
                                             method="inclusive")
    return {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
