"""Processes of a run, before it starts: they meet in time, and hold the same config and data."""
import contextlib
import json
import os
import sys
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.settings import differences


def join(coordinator: str = "", processes: int = 0, process: int = 0, seconds: int = 300) -> None:
    """Call jax.distributed.initialize, by hand or from the environment.

    seconds  how long to wait for the others; after that one line, and exit code 2
    """
    there = f"--coordinator={coordinator}: {processes} processes" if coordinator else \
        "--distributed: the processes"
    this = f"--process={process}" if coordinator else "one of them"
    complaint = (f"{there} did not meet within {seconds} s (this is {this}); "
                 "start every one of them with the address of process 0, and see that its port can "
                 "be reached")
    with deadline(seconds, complaint):
        try:
            arguments = (coordinator, processes, process) if coordinator else ()
            jax.distributed.initialize(*arguments, initialization_timeout=seconds + 60)
        except RuntimeError as error:
            if "must be called before" not in str(error):
                raise
            raise UserError("jax computed something before the processes met; a config file must "
                            "not compute when it is read: move what it computes into build or into "
                            "the loss") from error
        except ValueError as error:  # jax finds no cluster in the environment
            raise UserError("--distributed: jax finds no other processes in the environment "
                            f"({error}); give --coordinator=HOST:PORT --processes=N --process=I") \
                from error


@contextlib.contextmanager
def deadline(seconds: float, complaint: str):
    """Print the complaint and end the process if the block takes longer."""
    def end():  # jax would abort, with a page of its own stack
        print(f"karpjax: error: {complaint}", file=sys.stderr, flush=True)
        os._exit(UserError.code)
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_same(values: dict) -> None:
    """Raise UserError on all processes, with the differences, unless all hold these values.

    values  what JSON can hold
    """
    if jax.process_count() == 1:
        return
    text = np.frombuffer(json.dumps(values, sort_keys=True).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    padded = np.pad(text, (0, longest - len(text)))
    rows = multihost_utils.process_allgather(padded)                          # (processes, longest)
    first, *others = [json.loads(bytes(row).rstrip(b"\0")) for row in rows]
    lines = []
    for i, other in enumerate(others, start=1):
        if changed := differences(first, other, may_change=()):
            lines.append(f"process {i} has {', '.join(changed)}")
    if lines:
        raise UserError("the processes of a run must come with the same things (those of process 0 "
                        f"-> its own): {'; '.join(lines)}"[:1500])
