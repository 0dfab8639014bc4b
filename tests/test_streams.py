"""Lost readers, hung-up terminals, full disks and closed descriptors end no run."""
import contextlib
import io
import os
import pty
import signal
import sys
import threading
import time

from command import as_a_command, python_path
from guarantees.forks import Fork
import pytest

from karpjax.core.errors import UserError
from karpjax.run import cli, streams

ENV = {**os.environ, "JAX_PLATFORMS": "cpu"}


def many_lines(argv) -> int:
    """Print lines, suffer what argv says after the first, and write a file at the end."""
    file, loss, mutant = argv
    if mutant:
        sys.stdout = open(1, "w", closefd=False)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    print("first", flush=True)
    if loss == "hangup":
        os.kill(os.getpid(), signal.SIGHUP)
    elif loss == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif loss == "reader":
        time.sleep(0.5)
    for i in range(100):
        print("line", i, file=sys.stderr if i % 3 == 0 else sys.stdout, flush=True)
    with open(file, "w") as done:
        done.write("done")
    return 0


@pytest.mark.parametrize("mutant", ["", "mutant"])
@pytest.mark.parametrize("loss, code", [("reader", 0), ("hangup", 0), ("full", 2)])
def test_a_command_goes_on(tmp_path, loss, code, mutant):
    fork = Fork(many_lines, [str(tmp_path / "done"), loss, mutant], ENV,
                stderr=tmp_path / "stderr")
    assert fork.stdout.readline() == "first\n"
    if loss == "reader":
        fork.stdout.close()
    ended = fork.wait()
    assert (tmp_path / "done").exists() == (ended == code) == (not mutant)
    said = (tmp_path / "stderr").read_text()
    assert ("could not be written (No space left on device)" in said) == (loss == "full"
                                                                          and not mutant)
    assert mutant or "Traceback" not in said


def test_a_terminal_that_is_closed():
    master, slave = pty.openpty()
    failures = set()
    raw = streams.Lasting(slave, failures)
    assert raw.isatty() and raw.write(b"seen") == 4
    os.close(master)
    assert raw.write(b"lost") == 4 and raw.write(b"in the null device") == 18 and not failures
    os.close(slave)


def test_a_reader_that_is_slow():
    """A pipe that somebody made non-blocking keeps every byte."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = io.BufferedWriter(streams.Lasting(write, set()))
    got = []

    def reader():
        while part := os.read(read, 50_000):
            got.append(part)
            time.sleep(0.001)
    thread = threading.Thread(target=reader)
    thread.start()
    text.write(b"x" * 500_000)
    text.flush()
    os.close(write)
    thread.join()
    os.close(read)
    assert sum(map(len, got)) == 500_000


@pytest.mark.filterwarnings("ignore:os.fork")
def test_descriptors_that_are_closed(tmp_path):
    """The next file gets none of their numbers: what C++ prints would land in a checkpoint."""
    if (pid := os.fork()) == 0:
        code = 1
        with contextlib.suppress(BaseException):
            for number in (0, 1, 2):
                os.close(number)
            sys.stdout = sys.stderr = None
            with streams.lasting():
                print("nobody sees it", flush=True)
                code = 0 if os.open(tmp_path / "file", os.O_CREAT) > 2 else 1
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        lasting = streams.lasting_stream(file, 1, set())
        print("größe", file=lasting, flush=True)
    assert (tmp_path / "out").read_text() == "gr\\xf6\\xdfe\n"


def test_nothing_is_left_behind(capsys):
    """In a notebook or a test the streams are no files, and stay."""
    before, handler = sys.stdout, signal.getsignal(signal.SIGHUP)
    with streams.lasting():
        assert sys.stdout is before and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) == handler


def test_ctrl_c_before_the_loop(capsys):
    def main(argv):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 130 and capsys.readouterr().err == "karpjax: interrupted\n"


@pytest.mark.full
def test_train_and_head(tmp_path):
    """karpjax train | head -1, and a hangup: the run is trained to its end."""
    workdir = tmp_path / "run"
    fork = Fork(as_a_command, ["train", "", "--config=tests/tiny.py", f"--workdir={workdir}",
                               "--config.steps=400"],
                {**ENV, "PYTHONPATH": python_path()}, stderr=tmp_path / "stderr")
    fork.stdout.close()
    while not (workdir / "metrics.jsonl").exists():
        time.sleep(0.01)
    fork.send_signal(signal.SIGHUP)
    assert fork.wait() == 0 and (workdir / "summary.json").exists()


def test_a_command_that_fails_leaves_threads_of_others_alone(monkeypatch):
    """A thread that was there before does not end the process; one that it began does, in time."""
    ended, done = [], threading.Event()
    monkeypatch.setattr(cli, "THREADS_END", 0.1)
    monkeypatch.setattr(cli.os, "_exit", ended.append)
    monkeypatch.setattr(cli.atexit, "_run_exitfuncs", lambda: None)

    def begin():
        threading.Thread(target=done.wait).start()

    def refuses(argv):
        raise UserError("no")

    def begins_and_refuses(argv):
        begin()
        raise UserError("no")
    try:
        begin()
        for main in (refuses, begins_and_refuses):
            with pytest.raises(SystemExit):
                cli.run(main)
            assert ended == ([] if main is refuses else [UserError.code])
    finally:
        done.set()
