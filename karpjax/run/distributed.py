"""Processes of a run, before it starts: they meet in time, and hold the same config and data."""
import contextlib
import json
import os
import pathlib
import sys
import sysconfig
import threading
import time
import zlib

import jax
from jax._src import distributed as _distributed  # its barrier has no public name
from jax.experimental import multihost_utils
import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.settings import differences
from karpjax.core.trees import named
from karpjax.datasets.content import hash_bytes

SAMPLE = 64  # rows
OTHERS_END = 60.0  # seconds that the other processes of a run have to come to a good end


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
    if coordinator:
        keep_from_proxies(coordinator)
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


def leave(seconds: float = OTHERS_END) -> None:
    """Wait, at most so many seconds, until every process of the run has come to its end."""
    # At exit jax first closes its connections, which throws away what the others have not read
    # ("Connection reset by peer"), and waits for them only then.
    client = _distributed.global_state.client
    if client is not None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # one ended otherwise, or long ago
            client.wait_at_barrier("karpjax/leave", round(1000 * seconds))


@contextlib.contextmanager
def ending():
    """Keep each process at the end of a block until the others are there: a script may end then."""
    yield
    leave()


def keep_from_proxies(coordinator: str) -> None:
    """Let gRPC reach the coordinator itself: a proxy for the web does not know a run's hosts."""
    known = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")
    host = coordinator.rpartition(":")[0]
    os.environ["no_grpc_proxy"] = f"{known},{host}" if known else host


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


def gather(value) -> list:
    """Return what every process gives, in order of the processes, on all of them.

    value  what JSON can hold
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value, sort_keys=True).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))
    padded = np.pad(text, (0, longest - len(text)))
    rows = multihost_utils.process_allgather(padded)                          # (processes, longest)
    return [json.loads(bytes(row).rstrip(b"\0")) for row in rows]


def check_same(values: dict) -> None:
    """Raise UserError on all processes, with the differences, unless all hold these values.

    values  what JSON can hold
    """
    first, *others = gather(values)
    lines = []
    for i, other in enumerate(others, start=1):
        if changed := differences(first, other, may_change=()):
            lines.append(f"process {i} has {', '.join(changed)}")
    if lines:
        raise UserError("the processes of a run must come with the same things (those of process 0 "
                        f"-> its own): {'; '.join(lines)}"[:1500])


def check_shared(file, text: str, patience: float = 90.0) -> None:
    """Raise UserError on all processes unless all see a text that process 0 wrote into a file.

    patience  seconds; a network file system may remember for one minute that a file was not there
    """
    # Without it the hosts would wait for each other at the first save, for ever.
    sees, until = False, time.monotonic() + patience
    while jax.process_count() > 1 and not sees and time.monotonic() < until:
        with contextlib.suppress(OSError):
            sees = text in file.read_text()
        time.sleep(0 if sees else 0.5)
    sees = gather(sees or jax.process_count() == 1)
    blind = [str(i) for i, one_sees in enumerate(sees) if not one_sees]
    if blind:
        raise UserError(f"--workdir={file.parent}: expected a folder that all hosts share, but "
                        f"process {', '.join(blind)} does not see what process 0 writes there; "
                        "give one on a network file system, or gs://BUCKET/...")


def task_and_data(task_file: dict, source) -> dict:
    """Return checksums of what a run is made of beside its config, to compare the processes.

    These are the task's file, all modules that are not installed (karpjax's in a checkout, those
    that a config file imports), the arrays in memory, and rows from all over the training split.
    """
    if jax.process_count() == 1:
        return {}
    return {"task_file": hash_bytes((task_file["text"] or "").encode()), "code": local_code(),
            "content": data_checksums(source)}


def local_code() -> dict:
    """Return {module: checksum} of the imported modules that no package manager installed."""
    installed = (sysconfig.get_path("stdlib"), "site-packages", "dist-packages")
    checksums = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and name != "__main__" and not any(map(file.count, installed)):
            with contextlib.suppress(OSError):  # a task's file that is only a text
                checksums[name] = hash_bytes(pathlib.Path(file).read_bytes())
    return checksums


def data_checksums(source) -> dict:
    """Return a checksum of each array that a source holds, and of a few rows of each split."""
    held = {} if source.streamed else named(source.arrays)
    checksums = {name: checksum([leaf]) for name, leaf in held.items()}
    numbers = {"train": sorted({source.num_examples * i // SAMPLE for i in range(SAMPLE)})}
    for split in ("train", *source.splits) if source.num_examples else ():
        with contextlib.suppress(NotImplementedError):  # a source of the user's own
            rows = source.rows(split, numbers.get(split, [0]))
            checksums[f"rows of {split}"] = checksum(rows[name] for name in sorted(rows))
    return checksums


def checksum(arrays) -> str:
    """Return a checksum of the bits of arrays, one after another: of slips, not of forgers."""
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), value)
    return f"{value:08x}"
