"""Commands print clean output and right numbers, on a run just made."""
import json
import os
import subprocess
import sys

from command import python_path
from guarantees.harness import ROOT, mesh_of
from guarantees.registry import config_of
import pytest

from karpjax.run.loop import fit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config, task_file = config_of("digits", steps=6)
    return workdir, fit(config, workdir, task_file=task_file, mesh=mesh_of(1))


def run(*arguments):
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"} \
        | {"PYTHONPATH": python_path()}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=env,
                          capture_output=True, text=True)


def test_evaluate_gives_what_training_gave(made):
    workdir, summary = made
    done = run("karpjax.evaluate", f"--workdir={workdir}", "--split=test")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["step"] == 6
    for name in ("test/loss", "test/accuracy"):
        assert metrics[name] == pytest.approx(summary[name], rel=1e-6)


def test_evaluate_refuses_an_unknown_split(made):
    done = run("karpjax.evaluate", f"--workdir={made[0]}", "--split=train")
    assert done.returncode == 2 and done.stderr.strip() == (
        "karpjax: error: --split=train: this run has validation, test; another part of its "
        "data set is evaluated by --on, as in --on='train[:1000]'")


def test_report_draws_again(made):
    (made[0] / "curves.png").unlink()
    done = run("karpjax.report", f"--workdir={made[0]}")
    assert done.returncode == 0 and done.stderr == "" and (made[0] / "curves.png").exists()


@pytest.mark.parametrize("command", ["train", "sweep", *(
    pytest.param(name, marks=pytest.mark.full)
    for name in ("evaluate", "precompile", "slices", "report"))])
def test_help(command):
    done = run(f"karpjax.{command}", "--help")
    assert done.returncode == 0 and f"karpjax.{command}" in done.stdout and "--" in done.stdout
    assert done.stderr == ""
