"""A workdir's lock: two runs at once, dead and living holders, here and on other machines."""
import contextlib
import json
import os
import signal
import threading
import time

import pytest
from test_metrics import workdir as bucket  # noqa: F401  a fixture: gs:// in memory

from karpjax import prepare
from karpjax.core.errors import Outage, UserError
from karpjax.run import lock
from karpjax.run.lock import Lock


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Let a machine elsewhere be dead after a second."""
    for name, seconds in dict(BEAT=0.05, STALE=0.6, ENDING=0.3, SETTLE=0.1).items():
        monkeypatch.setattr(lock, name, seconds)


def text_of(**changes) -> str:
    """Return the text of a lock that a process of this test holds, with changes."""
    return json.dumps({"token": "theirs", **lock.this_process(), "beat": 1, **changes})


ELSEWHERE = {"host": "elsewhere", "boot": "another boot"}


def until(condition) -> None:
    """Wait for something that another thread does, on a machine that may be busy."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 60
        time.sleep(0.01)


def a_child(do):
    """Fork a child that holds a lock, and return its number, once it does."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            do()
            os.write(write, b"x")
            signal.pause()
        os._exit(1)
    assert os.read(read, 1) == b"x"
    os.close(read), os.close(write)
    return pid


# ------------------------------------------------------------------------------------------ one run

def test_it_is_held_and_left_without_a_trace(tmp_path):
    file = tmp_path / "new" / "run" / "lock"
    with Lock(file, "x") as mine:
        mine.check(now=True)
        assert json.loads(file.read_text())["pid"] == os.getpid()
        until(lambda: json.loads(file.read_text())["beat"] > 3)
    assert not list(tmp_path.iterdir())
    with Lock(file, "x"):
        (file.parent / "config.json").write_text("")
    assert [path.name for path in file.parent.iterdir()] == ["config.json"]


def test_a_second_one_is_refused(tmp_path):
    with Lock(tmp_path / "lock", "x"):
        with pytest.raises(UserError, match=f"x is in use by process {os.getpid()} of .*, which"):
            Lock(tmp_path / "lock", "x").__enter__()
    with Lock(tmp_path / "lock", "x"):
        pass


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_dead_process_is_followed_at_once(tmp_path, reaped, monkeypatch):
    """Also one that nobody has waited for, and one whose number another process has now."""
    pid = a_child(lambda: Lock(tmp_path / "lock", "x").__enter__())
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"in use by process {pid} of .*kill {pid}"):
        Lock(tmp_path / "lock", "x").__enter__()
    assert time.monotonic() - started >= lock.ENDING
    os.kill(pid, signal.SIGKILL)
    while lock.started(pid):
        time.sleep(0.001)
    if reaped:
        os.waitpid(pid, 0)
    monkeypatch.setattr(Lock, "_watch", lambda self, text: pytest.fail("it waited"))
    with Lock(tmp_path / "lock", "x"):
        pass
    if not reaped:
        os.waitpid(pid, 0)


def test_a_number_that_another_process_has_now(tmp_path):
    (tmp_path / "lock").write_text(text_of(started="17"))
    with Lock(tmp_path / "lock", "x"):
        pass


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_process_that_is_just_being_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "ENDING", 20)
    pid = a_child(lambda: Lock(tmp_path / "lock", "x").__enter__())
    timer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    timer.start()
    with Lock(tmp_path / "lock", "x"):
        assert not lock.started(pid)
    os.waitpid(pid, 0)


def test_a_process_of_another_user_that_the_system_hides(monkeypatch):
    def forbidden(pid, number):
        raise PermissionError
    monkeypatch.setattr(lock.pathlib.Path, "read_text", lambda self: open("/nowhere"))
    assert lock.started(os.getpid()) == lock.HIDDEN
    monkeypatch.setattr(lock.os, "kill", forbidden)
    assert lock.exists(1)


# --------------------------------------------------------------------------------- another machine

@pytest.mark.parametrize("text", [text_of(**ELSEWHERE), text_of(**ELSEWHERE)[:40], "\x00" * 9,
                                  text_of(pid="1; rm"), "[]", text_of(boot="")],
                         ids=["dead", "torn", "zeros", "no number", "a list", "no boot"])
def test_elsewhere_a_file_that_stays_as_it_is(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    started = time.monotonic()
    with Lock(tmp_path / "lock", "x"):
        assert time.monotonic() - started >= lock.STALE


def test_elsewhere_a_file_that_changes(tmp_path, monkeypatch):
    """Its clock, its number and its host's name are nobody's business: the change is."""
    monkeypatch.setattr(lock, "STALE", 60)
    file, stop = tmp_path / "lock", threading.Event()

    def beat():
        count = 0
        while not stop.wait(0.05):
            count += 1
            (tmp_path / "new").write_text(text_of(**ELSEWHERE, beat=count))
            (tmp_path / "new").replace(file)
    file.write_text(text_of(**ELSEWHERE))
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=f"process {os.getpid()} of elsewhere.*stop it there"):
            Lock(file, "x").__enter__()
    finally:
        stop.set()
        thread.join()


def test_containers_count_their_processes_from_one(monkeypatch):
    holder = lock.holder_in(text_of(started="17"))
    assert lock.has_ended(holder)
    monkeypatch.setattr(lock.os, "readlink", lambda path: "pid:[17]")
    assert not lock.has_ended(holder)


@pytest.mark.parametrize("mutant", [False, True])
def test_a_holder_that_stood_still_ends(tmp_path, mutant, monkeypatch):
    """It finds another's token, at the next beat or before it writes."""
    monkeypatch.setattr(lock, "BEAT", 1000)
    monkeypatch.setattr(lock, "STALE", 1000)
    if mutant:
        monkeypatch.setattr(Lock, "_look", lambda self: True)
    with Lock(tmp_path / "lock", "x") as mine:
        (tmp_path / "lock").write_text(text_of(**ELSEWHERE))
        mine.check()  # was looked at a moment ago
        mine.seen -= lock.STALE
        with contextlib.nullcontext() if mutant else \
                pytest.raises(UserError, match=r"taken over by process \d+ of elsewhere"):
            mine.check()
    assert "theirs" in (tmp_path / "lock").read_text()


def test_the_beat_finds_another_holder_and_leaves_it(tmp_path):
    with Lock(tmp_path / "lock", "x") as mine:
        (tmp_path / "new").write_text(text_of(**ELSEWHERE))
        (tmp_path / "new").replace(tmp_path / "lock")
        until(lambda: mine.lost)
        assert mine.lost == f"process {os.getpid()} of elsewhere"
    assert "theirs" in (tmp_path / "lock").read_text()


def test_somebody_removes_the_file(tmp_path):
    with Lock(tmp_path / "lock", "x") as mine:
        (tmp_path / "lock").unlink()
        until((tmp_path / "lock").exists)
        mine.check(now=True)
        assert mine.token in (tmp_path / "lock").read_text()


def test_two_on_an_object_store(bucket, monkeypatch):  # noqa: F811
    """No two can be kept apart there: the token that is read back decides."""
    write = Lock._write
    monkeypatch.setattr(lock, "BEAT", 1000)

    def and_another(self):
        write(self)
        if self.beats == 1:
            self.file.write_text(text_of(**ELSEWHERE))
    with Lock(bucket / "lock", "x"):
        assert lock.holder_in((bucket / "lock").read_text())["pid"] == os.getpid()
    assert not (bucket / "lock").exists()
    monkeypatch.setattr(Lock, "_write", and_another)
    started = time.monotonic()
    with Lock(bucket / "lock", "x") as mine:
        assert time.monotonic() - started > lock.STALE and mine.beats == 2


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_race_has_one_winner(tmp_path):
    """Eight processes take a dead one's lock over at one moment, five times."""
    for race in range(5):
        (tmp_path / "lock").write_text(text_of(started="17"))
        at, end, pids = time.time() + 0.2, tmp_path / f"end{race}", []
        for _ in range(8):
            if (pid := os.fork()) == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    time.sleep(max(0, at - time.time()))
                    with Lock(tmp_path / "lock", "x"):
                        until(end.exists)
                        code = 0
                os._exit(code)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in pids[1:]]
        end.touch()
        assert codes == 7 * [1] and os.waitstatus_to_exitcode(os.wait()[1]) == 0


@pytest.mark.parametrize("kind, error", [(PermissionError(13, "Permission denied"), UserError),
                                         (OSError(5, "Input/output error"), Outage)])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, kind, error):
    def fail(*arguments):
        raise kind
    monkeypatch.setattr(lock.files, "write_whole", fail)
    with pytest.raises(error, match=f"x.*{kind.strerror}") as raised:
        Lock(tmp_path / "run" / "lock", "x").__enter__()
    assert type(raised.value) is error and not list(tmp_path.iterdir())


def test_prepare_holds_the_set(tmp_path, monkeypatch):
    """Also against a second one that would replace it, and to the end."""
    flags = ["--format=npz", "--from=x.npz", "--name=mine", f"--data_dir={tmp_path / 'sets'}"]
    seen = []

    def slow(*arguments, **options):
        seen.append([path.name for path in (tmp_path / "sets").iterdir()])
        with pytest.raises(UserError, match="data set 'mine' in .*sets is in use by process"):
            prepare.main([*flags, "--overwrite"])
        return {}
    monkeypatch.setattr(prepare, "prepare", slow)
    prepare.main(flags)
    assert seen == [[".mine.lock"]] and not (tmp_path / "sets").exists()
