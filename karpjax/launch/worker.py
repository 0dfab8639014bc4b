"""One process of `karpjax launch local`: karpjax train, which ends when its launcher does.

    python -m karpjax.launch.worker FLAGS        as karpjax train, with a pipe as standard input
"""
import contextlib
import os
import runpy
import signal
import threading


def end_with_launcher(pipe: int = 0) -> None:
    """Kill this process when the launcher, which holds the other end of a pipe, has ended."""
    # The system closes that end however the launcher died. SIGKILL, since a process may hang in a
    # collective and never come to save: a run that is killed loses nothing.
    def wait():
        with contextlib.suppress(OSError):
            while os.read(pipe, 1):
                pass
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=wait, name="launcher", daemon=True).start()


if __name__ == "__main__":
    end_with_launcher()
    runpy.run_module("karpjax.train", run_name="__main__", alter_sys=True)
