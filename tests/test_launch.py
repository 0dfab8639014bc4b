"""python -m karpjax.launch starts processes here, prints a TPU slice's commands, and makes a lost
slice again."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from command import ROOT, python_path
import pytest
import yaml

from karpjax.core.errors import UserError
from karpjax.launch import tpu

HERE = pathlib.Path(__file__).parent
README = (ROOT / "karpjax" / "launch" / "README.md").read_text()
RUN = ["--config=configs/digits_cnn.py", "--config.model.width=4", "--config.eval_every=50",
       "--config.save_every=50"]
SLICE = ["tpu", "--name=my-slice", "--type=v5litepod-256", "--zone=us-west4-a",
         "--version=v2-alpha-tpuv5-lite", "--spot",
         "--config=configs/digits_cnn.py", "--workdir=gs://my-bucket/runs/digits"]


STARTED = []  # by launch(): none may outlive its test


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    """End the processes of a test that failed before they did: they would train on for hours."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.terminate()  # the launcher ends its own processes
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def launch(*arguments, path: str = "", **options):
    env = {**os.environ, "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu",
           "PATH": os.pathsep.join(filter(None, [path, os.environ["PATH"]]))}
    env.pop("XLA_FLAGS", None)
    STARTED.append(subprocess.Popen([sys.executable, "-m", "karpjax.launch", *arguments], cwd=ROOT,
                                    env=env, text=True, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, **options))
    return STARTED[-1]


def said(process, code: int, timeout: int = 600) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, output[-3000:]
    return output


def at_work(workdir) -> pathlib.Path:
    """Wait until the run has written rows."""
    rows = pathlib.Path(workdir) / "metrics.jsonl"
    for _ in range(3000):
        if rows.exists() and rows.read_text().count("\n") > 1:
            return rows
        time.sleep(0.2)
    raise AssertionError("no row after ten minutes")


def children(pid: int) -> list[int]:
    return [int(p) for p in subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)],
                                           stdout=subprocess.PIPE, text=True).stdout.split()]


@pytest.mark.full
def test_two_processes_of_two_devices(tmp_path):
    output = said(launch("local", "--processes=2", "--devices-per-process=2", *RUN,
                         "--config.steps=100", f"--workdir={tmp_path}"), 0)
    assert json.loads((tmp_path / "summary.json").read_text())["device"]["processes"] == 2
    logs = [(tmp_path / "logs" / f"process_{i}.log").read_text() for i in range(2)]
    assert "4 x cpu" in logs[0] and logs[0] in output and "test/accuracy" in logs[1]


@pytest.mark.full
def test_readme_line_runs(tmp_path):
    line, = [line for line in README.splitlines() if "karpjax.launch local" in line]
    _, arguments = line.split("karpjax.launch ")
    said(launch(*arguments.replace("runs/two", str(tmp_path)).split(), "--config.steps=60"), 0)
    assert json.loads((tmp_path / "summary.json").read_text())["device"]["count"] == 8


@pytest.mark.full
def test_slurm_is_found_in_the_environment(tmp_path):
    """README's --distributed reads Slurm's variables, as srun sets them for two tasks of one node.
    """
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost",
             "SLURM_NTASKS": "2"}
    env = {**os.environ, **slurm, "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu"}
    both = [subprocess.Popen([sys.executable, "-m", "karpjax.train", "--distributed", *RUN,
                              "--config.steps=60",
                              f"--workdir={tmp_path}"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT,
                             env={**env, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
            for i in range(2)]
    for process in both:
        said(process, 0)
    assert json.loads((tmp_path / "summary.json").read_text())["device"]["processes"] == 2


@pytest.mark.full
def test_readme_kubernetes_job(tmp_path):
    """Containers of README's Indexed Job run one command, each with its number.

    Here the coordinator is a free port of this machine.
    """
    job = yaml.safe_load(README.split("```yaml")[1].split("```")[0])
    spec, (container,) = job["spec"], job["spec"]["template"]["spec"]["containers"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shell, flag, command = container["command"]
    command = command.replace(":1234", f":{port}").replace("gs://my-bucket/runs/digits",
                                                           str(tmp_path))
    command = " ".join([command.replace("python", sys.executable), *RUN[1:], "--config.steps=60"])
    first = f"{job['metadata']['name']}-0.{spec['template']['spec']['subdomain']}"
    assert container["env"] == [{"name": "COORDINATOR", "value": first}]
    env = {**os.environ, "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu",
           "COORDINATOR": "localhost"}
    pods = [subprocess.Popen([shell, flag, command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT,
                             env={**env, "JOB_COMPLETION_INDEX": str(i)})
            for i in range(spec["completions"])]
    for pod in pods:
        said(pod, 0)
    assert json.loads((tmp_path / "summary.json").read_text())["device"]["processes"] == 2 == spec[
        "parallelism"]


@pytest.mark.full
def test_a_process_that_dies_takes_the_run_down_within_the_bound(tmp_path):
    process = launch("local", "--processes=2", "--grace=5", *RUN, "--config.steps=100000",
                     f"--workdir={tmp_path}")
    at_work(tmp_path)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    started = time.monotonic()
    output = said(process, 128 + signal.SIGKILL, timeout=60)
    assert time.monotonic() - started < 30
    assert "process 1 ended with code -9" in output


@pytest.mark.full
def test_sigterm_saves_on_all_and_the_same_command_goes_on(tmp_path):
    process = launch("local", "--processes=2", *RUN, "--config.steps=100000",
                     f"--workdir={tmp_path}")
    at_work(tmp_path)
    process.send_signal(signal.SIGTERM)
    output = said(process, 75)
    step = int(output.split("stopped at step ")[1].split(";")[0])
    assert f"stopped at step {step};" in (tmp_path / "logs" / "process_1.log").read_text()
    output = said(launch("local", "--processes=2", *RUN, f"--config.steps={step + 10}",
                         f"--workdir={tmp_path}"), 0)
    assert f"steps {step} to {step + 10}" in output


@pytest.mark.parametrize("arguments,expected", [
    (["here"], "expected local or tpu first, found 'here'"),
    (["local", *RUN], "--workdir=... is missing"),
    (["local", *RUN, "--workdir={tmp}", "--processes=0"],
     "--processes: expected at least 1, found 0"),
    (["local", *RUN, "--workdir={tmp}", "--port={port}"], "choose another, or leave it out"),
    (["local", "--config=nowhere.py", "--workdir={tmp}"], "no such file"),
    ([*SLICE[:-1], "--workdir=runs/digits"], "expected gs://BUCKET"),
    (["tpu", *SLICE[2:]], "--name=... is missing"),
    ([*SLICE, "--dry_run"], "--dry_run: no such flag; did you mean 'dry-run'?"),
    (["local", *RUN, "--workdir={tmp}", "--devices_per_process=2"],
     "no such flag; did you mean 'devices-per-process'?"),
    (["local", "--config", "poly"], "expected flags of the form --name=value, found 'poly'"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(arguments, expected, tmp_path):
    with socket.socket() as busy:
        busy.bind(("localhost", 0))
        busy.listen()
        fill = {"tmp": tmp_path / "run", "port": busy.getsockname()[1]}
        output = said(launch(*(argument.format(**fill) for argument in arguments)), 2)
    assert expected in output and "Traceback" not in output


@pytest.mark.parametrize("extra,name",
                         [([], "tpu_dry_run.txt"), (["--queued"], "tpu_dry_run_queued.txt")])
def test_dry_run_prints_the_commands(extra, name):
    assert said(launch(*SLICE, *extra, "--dry-run"), 0) == (HERE / "data" / name).read_text()


@pytest.mark.parametrize("there, missing", [((), "no gcloud and no git"), (("git",), "no gcloud;")])
def test_tools_that_are_missing(there, missing, tmp_path, monkeypatch):
    for tool in there:
        (tmp_path / tool).write_text("#!/bin/sh")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=missing):
        tpu.check_tools()


GCLOUD = r"""#!/bin/bash
echo "$3 $4" | cut -d' ' -f1,2 >> {folder}/calls
case "$4" in
    describe) cat {folder}/state 2> /dev/null && exit
              echo "ERROR: NOT_FOUND: Resource 'my-slice' was not found" >&2; exit 1 ;;
    create) if [ -e {folder}/taken ]; then exit 1; fi
            touch {folder}/taken; echo READY > {folder}/state ;;
    delete) rm -f {folder}/state {folder}/taken ;;
    ssh) if [ -e {folder}/once ]; then echo worker zero says done; exit {code}; fi
         touch {folder}/once; {loss}; exit 255 ;;
esac
"""


@pytest.mark.parametrize("code, loss, now, flags", [
    (0, "echo PREEMPTED > {folder}/state", "PREEMPTED", []),
    (3, "echo PREEMPTED > {folder}/state", "PREEMPTED", []),
    (0, "rm {folder}/state", "gone", ["--queued"])], ids=["done", "failed", "queued"])
def test_a_slice_that_is_taken_away_is_made_again(code, loss, now, flags, tmp_path):
    """A fake gcloud preempts the first run. The second ends, and its exit code is the command's.

    A queued request outlives its slice: its name is free again once it is deleted.
    """
    program = tmp_path / "gcloud"
    loss = loss.format(folder=tmp_path)
    program.write_text(GCLOUD.format(folder=tmp_path, code=code, loss=loss))
    program.chmod(0o755)
    clone = tmp_path / "clone"
    subprocess.run(["git", "init", "-q", clone], check=True)
    env = {**os.environ, "PYTHONPATH": python_path(),
           "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "karpjax.launch", *SLICE, *flags], cwd=clone,
                          env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-2000:]
    assert "worker zero says done" in done.stdout
    assert f"preempted (the slice is {now}); start 2" in done.stderr
    calls = [line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call for call in calls if call != "describe"] == ["create", "scp", "ssh", "delete",
                                                              "create", "scp", "ssh"]
