"""Processes that start in a tenth of a second: forked from a server that has imported jax and
karpjax, and used neither.

What a test sees of one is what it sees of a subprocess.Popen with its output in a pipe.
"""
import atexit
import contextlib
import gc
import multiprocessing
from multiprocessing import forkserver
import os
import signal
import sys
import threading

from karpjax.run import cli

# Not the games: importing pgx starts a backend, and a process must not be forked from one that has
# threads.
IMPORTED = ["guarantees.child", "guarantees.registry", "karpjax.run.loop", "karpjax.run.restore",
            "karpjax.run.experiment", "tensorflow_datasets", "grain"]


class Fork:
    """main(argv) as a command of karpjax's, with the environment `env`, which names JAX_PLATFORMS.

    stderr  a file for the standard error; without one it goes where the standard output goes
    """

    def __init__(self, main, argv: list, env: dict, cwd=None, stderr=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with_path(forkserver.ensure_running)
        read, write = context.Pipe(duplex=False)
        where = (str(cwd or os.getcwd()), stderr and str(stderr))
        self.process = context.Process(target=begin, args=(main, argv, env, *where, write),
                                       daemon=True)
        self.process.start()
        write.close()
        self.stdout = os.fdopen(os.dup(read.fileno()))
        self.pid = self.process.pid

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is over
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """(output to its end, None); killed after `timeout` seconds."""
        late = threading.Timer(timeout, self.kill)
        late.start()
        try:
            return self.stdout.read(), None
        finally:
            late.cancel()
            self.wait()

    @property
    def returncode(self) -> int | None:
        return self.poll()


def with_path(start) -> None:
    """Start the server with this process's path: Python 3.11 hands it none."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        start()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def begin(main, argv, env, cwd, stderr, output) -> None:
    """Run main in the new process."""
    import jax
    used = jax._src.xla_bridge.backends_are_initialized()
    assert not used, "the server has used jax: its forks may hang"
    os.dup2(output.fileno(), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if stderr else output.fileno(),
            2)
    output.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    gc.set_threshold(20_000, 20)  # as in conftest.py: tracing makes objects by the million
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    jax.config.update("jax_platforms", env["JAX_PLATFORMS"])  # read when the server imported jax
    sys.argv = ["karpjax", *argv]
    try:
        cli.run(main)
    finally:  # as Python does at its end, and multiprocessing's forks do not
        sys.stdout.flush()
        atexit._run_exitfuncs()
