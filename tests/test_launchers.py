"""Launchers that die, wait or cannot reach the cloud: nothing is left behind, nothing waits without
a word, and no bad config makes a slice twice."""
import io
import os
import signal
import subprocess
import sys
import time
import types

from command import ROOT, python_path
import pytest

from karpjax.core.errors import Outage, Preempted, UserError
from karpjax.launch import local, tpu, worker
from karpjax.run.cli import Options
from karpjax.run.lock import started

COMMAND = {name: name for name in ("describe", "create", "remove", "pack", "copy", "run")}
QUEUED = {**COMMAND, "request": "request --format"}


class Cloud:
    """A stand-in for gcloud: `states` and `requests` are what it says, one look after another."""

    def __init__(self, states, requests=("",), codes=None):
        self.states, self.requests = list(states), list(requests)
        self.codes, self.lines, self.now = dict(codes or {}), [], 0.0

    def state(self, command, of="describe"):
        said = self.states if of == "describe" else self.requests
        return said.pop(0) if len(said) > 1 else said[0]

    def shell(self, line):
        self.lines.append(line)
        code = self.codes.get(line, 0)
        return code.pop(0) if isinstance(code, list) else code

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def cloud(monkeypatch):
    def make(*arguments, **options):
        fake = Cloud(*arguments, **options)
        monkeypatch.setattr(tpu, "state", fake.state)
        monkeypatch.setattr(tpu, "shell", fake.shell)
        monkeypatch.setattr(tpu, "check_tools", lambda: None)
        monkeypatch.setattr(tpu, "time", types.SimpleNamespace(sleep=fake.sleep,
                                                               monotonic=lambda: fake.now))
        return fake
    return make


def launched(restarts=3) -> int:
    options = {"name": "n", "type": "t", "zone": "z", "version": "v", "spot": False,
               "queued": False, "dry-run": False, "restarts": restarts}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu, "commands", lambda *given: COMMAND)
        return tpu.launch(Options(options), ["--workdir=gs://b/r"])


# ---------------------------------------------------------------------------------------- the slice

def test_a_slice_that_never_becomes_ready(cloud, capsys):
    fake = cloud(["", "CREATING"])
    with pytest.raises(UserError, match="is CREATING and not READY after 30 minutes.*remove"):
        tpu.make_ready(COMMAND)
    said = capsys.readouterr().err.splitlines()
    assert 3 <= len(said) <= 5 and "CREATING, 30 minutes so far" in said[-1], said
    assert fake.lines == ["create"]


def test_a_queue_is_waited_in_for_days_and_reported(cloud, capsys):
    cloud(["", *[""] * 6000, "CREATING", "READY"],
          [*["WAITING_FOR_RESOURCES"] * 5999, "PROVISIONING"])
    assert tpu.make_ready(QUEUED)
    said = capsys.readouterr().err
    assert "its request PROVISIONING" in said and 250 < said.count("WAITING_FOR_RES") < 320


@pytest.mark.parametrize("request_", ["FAILED", "SUSPENDED", ""])
def test_a_request_that_failed(cloud, request_):
    cloud([""], ["ACCEPTED", request_])
    with pytest.raises(UserError, match=f"ended as {request_ or 'deleted'}; see why: request;"):
        tpu.make_ready(QUEUED)


def test_a_slice_that_goes_away_before_it_is_ready(cloud):
    fake = cloud(["", "CREATING", "PREEMPTED", "PREEMPTED", "PREEMPTED", "READY"])
    assert launched() == 0
    assert fake.lines == ["pack", "create", "remove", "create", "copy", "run"]


@pytest.mark.parametrize("code, lines", [
    (2, ["pack", "create", "copy", "run"]), (3, ["pack", "create", "copy", "run"]),
    (1, ["pack", "create", "copy", "run", "remove", "create", "copy", "run"])])
def test_a_bad_config_is_no_preemption(cloud, code, lines):
    """Even if the slice goes away at that very moment. The trace of a lost peer (1) may be one."""
    fake = cloud(["", "READY", "PREEMPTED", "PREEMPTED", "READY"], codes={"run": [code, 0]})
    assert launched() == (0 if code == 1 else code)
    assert fake.lines == lines


def test_a_copy_that_fails_since_the_slice_went_away(cloud):
    fake = cloud(["", "READY", "PREEMPTED", "PREEMPTED", "PREEMPTED", "READY"],
                 codes={"copy": [255, 0]})
    assert launched() == 0 and fake.lines.count("create") == 2
    cloud(["READY"], codes={"copy": 255})
    with pytest.raises(UserError, match="could not copy the code"):
        launched()


def test_it_gives_up_after_so_many_starts(cloud):
    fake = cloud([""] + ["READY", "", ""] * 9, codes={"run": 255})
    assert launched(restarts=2) == Preempted.code and fake.lines.count("run") == 3


def test_a_failure_of_gcloud_is_no_preemption(monkeypatch, capsys):
    monkeypatch.setattr(tpu, "PATIENCE", 0)
    with pytest.raises(Outage, match="gcloud failed 10 times .no network."):
        tpu.state({"describe": "echo no network >&2; exit 1"})
    missing = "echo \"NOT_FOUND: Resource 'x' was not found\" >&2; exit 1"
    assert tpu.state({"describe": missing}) == ""
    assert tpu.state({"describe": "echo READY"}) == "READY"


# --------------------------------------------------------------------------- processes of a machine

@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("mutant", [False, True])
def test_a_process_ends_with_its_launcher(mutant):
    """Also one that hangs. The launcher's end of the pipe closes however it dies."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(write)
        if not mutant:
            worker.end_with_launcher(read)
        time.sleep(3)
        os._exit(0)
    os.close(read)
    time.sleep(0.2)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # as long as the launcher lives
    os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (0 if mutant else -signal.SIGKILL)


def test_the_launcher_gives_each_process_such_a_pipe(tmp_path, monkeypatch):
    commands = []

    def popen(command, **options):
        commands.append((command, options))
        return real(["sh", "-c", "cat; echo over"], **options)
    real = subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", popen)
    monkeypatch.setattr(local, "wait", lambda started, *rest: [p.stdin.close() for p in started])
    options = Options({"processes": 2, "devices-per-process": 1, "port": 0, "grace": 1})
    monkeypatch.setattr(local.sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    local.launch(options, [f"--workdir={tmp_path}"])
    assert [command[2] for command, _ in commands] == ["karpjax.launch.worker"] * 2
    assert all(options["stdin"] == subprocess.PIPE for _, options in commands)


def test_a_log_that_cannot_be_written_stops_no_process(tmp_path):
    """Who stops reading lets the process wait at its next line, for ever."""
    process = subprocess.Popen(["sh", "-c", "seq 30000"], stdout=subprocess.PIPE)
    local.keep(process.stdout, tmp_path / "no" / "folder", show=False)
    assert process.wait() == 0


@pytest.mark.full
def test_a_launcher_that_is_killed_leaves_nothing(tmp_path):
    """Started again at once, it goes on in the same workdir."""
    flags = ["local", "--processes=2", "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    env = {**os.environ, "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu"}

    def start(steps):
        return subprocess.Popen([sys.executable, "-m", "karpjax.launch", *flags,
                                 f"--config.steps={steps}"], cwd=ROOT, env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    first = start(10**6)
    pids = []
    while not (tmp_path / "run" / "checkpoints").exists() or len(pids) < 2:
        time.sleep(0.1)
        pids = [int(pid) for pid in subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(first.pid)], text=True,
            stdout=subprocess.PIPE).stdout.split()]
    first.kill()
    first.wait()
    killed = time.monotonic()
    while any(map(started, pids)):
        assert time.monotonic() - killed < 60, f"{pids}: some live on"
        time.sleep(0.1)
    again = start(10**6)
    for line in again.stdout:
        if "step" in line and "mesh" in line:
            break
    again.terminate()
    output, _ = again.communicate(timeout=300)
    assert again.returncode == Preempted.code, output[-2000:]
