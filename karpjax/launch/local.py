"""Several processes on this machine, each with simulated CPU devices: what a pod does, without one.

Their output is in WORKDIR/logs/process_I.log, and that of process 0 is shown too. SIGTERM and
Ctrl-C are passed on to all, which save the same step and end with 75. If one ends badly, the
others, which would wait for it in a collective, get `grace` seconds. If this launcher itself is
killed, all end (worker.py): none is left behind that holds the workdir.
"""
import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from karpjax.core import files
from karpjax.core.errors import UserError

FLAGS = {"processes": 2, "devices-per-process": 1, "port": 0, "grace": 30}


def launch(options, rest: list[str]) -> int:
    """Start the processes, wait for them, and return the first exit code that is not 0, or 0.

    rest  the flags of karpjax train
    """
    for name in ("processes", "devices-per-process"):
        if options[name] < 1:
            raise UserError(f"--{name}: expected at least 1, found {options[name]}")
    logs = files.local(workdir_of(rest), "--workdir") / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir: {logs} cannot be written ({error.strerror}); "
                        "choose another folder") from error
    address = f"localhost:{options.port or free_port()}"
    if options.port:
        check_free(options.port)
    common = [sys.executable, "-m", "karpjax.launch.worker", *rest, f"--coordinator={address}",
              f"--processes={options.processes}", f"--devices={options['devices-per-process']}"]
    processes, readers = [], []
    # Before the first one starts, so that none is left behind.
    before = {number: signal.signal(number, lambda *_: stop(processes, signal.SIGTERM))
              for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for i in range(options.processes):
            # In a session of its own: a terminal's Ctrl-C reaches the launcher alone, which passes
            # it on.
            process = subprocess.Popen([*common, f"--process={i}"], start_new_session=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT)
            processes.append(process)
            readers.append(threading.Thread(target=keep,
                                            args=(process.stdout, log_file(logs, i), i == 0)))
            readers[-1].start()
        return wait(processes, options.grace, logs)
    finally:
        stop(processes, signal.SIGKILL)
        for reader in readers:
            reader.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def log_file(logs: pathlib.Path, process: int) -> pathlib.Path:
    """Return the log of a process."""
    return logs / f"process_{process}.log"


def wait(processes, grace: float, logs) -> int:
    """Wait until all have ended, and return the exit code of the first that failed, or 0.

    grace  seconds that the others get when one has failed
    """
    first, deadline = 0, None
    while any(process.poll() is None for process in processes):
        failed = [i for i, process in enumerate(processes) if process.poll()]
        if failed and deadline is None:
            first, deadline = processes[failed[0]].returncode, time.monotonic() + grace
            print(f"karpjax: process {failed[0]} ended with code {first}; "
                  f"{log_file(logs, failed[0])}", file=sys.stderr)
        if deadline and time.monotonic() > deadline:
            left = [str(i) for i, process in enumerate(processes) if process.poll() is None]
            print(f"karpjax: process{'es' * (len(left) > 1)} {', '.join(left)} did not end in "
                  f"{grace:g} s: killed", file=sys.stderr)
            stop(processes, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.1)
    first = first or next((process.returncode for process in processes if process.returncode), 0)
    return 128 - first if first < 0 else first                # by a signal: as a shell has it


def stop(processes, number: int) -> None:
    """Send a signal to the processes that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def keep(stream, file: pathlib.Path, show: bool) -> None:
    """Copy what a process prints to its log, and to the terminal if `show`."""
    # To the end, whatever becomes of the log: the process would wait for a reader.
    while chunk := stream.read1():
        with contextlib.suppress(OSError), file.open("ab") as log:
            log.write(chunk)
        if show:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def workdir_of(rest: list[str]) -> str:
    """Return --workdir among the flags."""
    given = [flag.removeprefix("--workdir=") for flag in rest if flag.startswith("--workdir=")]
    if not given:
        raise UserError("--workdir=... is missing; every process writes its log there")
    return given[-1]


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def check_free(port: int) -> None:
    """Raise UserError if something listens at the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("localhost", port))
        except OSError as error:
            raise UserError(f"--port={port}: {error.strerror}; choose another, "
                            "or leave it out for a free one") from error
