"""Processes that do not meet, or come with different inputs, are refused in time, with one line,
and train nothing."""
import atexit
import json
import os
import subprocess
import sys
import time

from command import ROOT, python_path
from guarantees.forks import Fork
from guarantees.harness import finished
import pytest

from karpjax import load_config, train
from karpjax.core.errors import UserError
from karpjax.launch.local import free_port
from karpjax.run import cli, distributed, loop

DIGITS = [f"--config={ROOT}/configs/digits_cnn.py", "--config.model.width=4"]
BYTES = [f"--config={ROOT}/configs/mlm_tiny.py", "--config.data.path=novel.txt",
         "--config.model.width=16"]


def start(process: int, port: int, *flags: str, processes: int = 2, cwd=ROOT):
    env = {**os.environ, "PYTHONPATH": python_path(), "JAX_PLATFORMS": "cpu"}
    own = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={process}"]
    return subprocess.Popen([sys.executable, "-m", "karpjax.train", *own, *flags], cwd=cwd,
                            env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def refused(process, *words: str) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2 and "Traceback" not in output, output[-2000:]
    line = next(line for line in output.splitlines() if line.startswith("karpjax: error: "))
    assert all(word in line for word in words), line


@pytest.mark.parametrize("process", [0, 1], ids=["nobody comes", "nobody is there"])
def test_processes_that_do_not_meet_say_so_in_time(process, tmp_path):
    started = time.monotonic()
    refused(start(process, free_port(), *DIGITS, f"--workdir={tmp_path}/run", "--join_seconds=5"),
            "2 processes did not meet within 5 s", f"--process={process}")
    assert time.monotonic() - started < 60 and not (tmp_path / "run").exists()


def test_another_config_is_named(tmp_path, monkeypatch):
    """They meet behind a proxy that leads nowhere, too."""
    monkeypatch.setenv("http_proxy", f"http://localhost:{free_port()}")
    port, common = free_port(), [*DIGITS, f"--workdir={tmp_path}/run", "--join_seconds=60"]
    for process in [start(0, port, *common), start(1, port, *common, "--config.seed=7")]:
        refused(process, "process 1 has config.seed: 0 -> 7")
    assert not (tmp_path / "run").exists()


def process(argv):
    """Print when this process of two has come to its end, and when it begins to close."""
    options = cli.parse(argv, __doc__, coordinator=str, process=0)
    cli.start_jax(1, options.coordinator, 2, options.process)
    distributed.gather(options.process)
    time.sleep(options.process)
    end = time.time()
    atexit.register(lambda: print(json.dumps([end, time.time()]), flush=True))  # before jax's own
    return 0


def test_the_first_to_end_waits_for_the_others():
    """Once "Gloo AllGather failed: Connection reset by peer" ended a process near its end."""
    flag = f"--coordinator=localhost:{free_port()}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    both = [Fork(process, [flag, f"--process={i}"], env) for i in range(2)]
    (early, closes), (late, _) = [json.loads(finished(each).splitlines()[-1]) for each in both]
    assert early + 0.5 < late <= closes


def own_script(argv):
    """Print when this process of two has trained, and when karpjax.fit returns."""
    options = cli.parse(argv, __doc__, coordinator=str, process=0, workdir=str)
    cli.start_jax(1, options.coordinator, 2, options.process)
    right, ends = loop.train, []

    def train_and_wait(exp, workdir, *arguments):
        summary = right(exp, workdir, *arguments)
        done = workdir / "done"
        if options.process == 0:
            done.touch()
        while not done.exists():
            time.sleep(0.01)
        time.sleep(options.process)
        ends.append(time.time())
        return summary
    loop.train = train_and_wait
    config, task_file = load_config("digits_cnn", {
        "model.width": 4, "data.batch_size": 16, "steps": 2, "eval_every": 2, "save_every": 2,
        "optimizer.learning_rate.warmup_steps": 1})
    loop.fit(config, options.workdir, task_file=task_file)
    print(json.dumps([*ends, time.time()]), flush=True)
    return 0


def test_fit_waits_for_the_others(tmp_path):
    """A script of several processes that calls it has no command around it to wait."""
    flags = [f"--coordinator=localhost:{free_port()}", f"--workdir={tmp_path}/run"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    both = [Fork(own_script, [*flags, f"--process={i}"], env) for i in range(2)]
    (_, returns), (late, _) = [json.loads(finished(each).splitlines()[-1]) for each in both]
    assert late <= returns


@pytest.mark.full
def test_other_data_under_the_same_name_is_named(tmp_path):
    port, both = free_port(), []
    for i, words in enumerate((4000, 5000)):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "novel.txt").write_text("It is a truth " * words)
        both.append(start(i, port, *BYTES, f"--workdir={tmp_path}/run", cwd=tmp_path / str(i)))
    for process in both:
        refused(process, "process 1 has ", "data.rows: 701 -> 875")


def test_jax_used_too_early(tmp_path):
    config = tmp_path / "early.py"
    config.write_text((ROOT / "configs/digits_cnn.py").read_text()
                      + "\nimport jax.numpy as jnp\nTABLE = jnp.ones(3) + 1\n")
    process = start(0, free_port(), f"--config={config}", f"--workdir={tmp_path}/run", processes=1)
    refused(process, "a config file must not compute")


def test_no_cluster_in_the_environment(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "karpjax.train", *DIGITS,
                                f"--workdir={tmp_path}/run", "--distributed"],
                               env={**os.environ, "PYTHONPATH": python_path(),
                                    "JAX_PLATFORMS": "cpu"}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    refused(process, "--distributed", "--coordinator=HOST:PORT")


@pytest.mark.parametrize("flags, says", [
    (["--processes=2", "--process=1"], "expected --coordinator=HOST:PORT with them"),
    (["--process=1"], "expected --coordinator=HOST:PORT with them"),
    (["--coordinator=localhost:1234"], "I from 0 to N - 1, found 0 and 0"),
    (["--coordinator=localhost:1234", "--processes=2", "--process=2"], "found 2 and 2"),
    (["--devices=-1"], "--devices: expected at least 1, found -1")])
def test_flags_that_belong_together(flags, says, tmp_path):
    """Without a coordinator each process would train alone, all in one workdir."""
    with pytest.raises(UserError, match=says):
        train.main(["--config=poly", f"--workdir={tmp_path / 'run'}", *flags])
    assert not (tmp_path / "run").exists()
