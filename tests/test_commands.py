"""Commands print clean output and right numbers, on a run just made."""
import json
import os
import re
import subprocess
import sys

from command import TINY, command, done, python_path, refused
from guarantees.harness import ROOT, mesh_of
from guarantees.registry import config_of
import pytest
import tiny

from karpjax import slices
from karpjax.core.errors import UserError
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
    result = run("karpjax.evaluate", f"--workdir={workdir}", "--split=test")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    metrics = json.loads(result.stdout)
    assert metrics["step"] == 6
    for name in ("test/loss", "test/accuracy"):
        assert metrics[name] == pytest.approx(summary[name], rel=1e-6)


def test_evaluate_takes_any_part_of_the_data_set(made):
    """The whole test split in TFDS's syntax gives what its name gives; a part of the rows gives
    something else.
    """
    workdir, summary = made
    loss = {split: json.loads(done(command("evaluate", f"--workdir={workdir}",
                                           f"--split={split}")))[f"{split}/loss"]
            for split in ("test[:100%]", "test[:100]")}
    assert loss["test[:100%]"] == pytest.approx(summary["test/loss"], rel=1e-6)
    assert abs(loss["test[:100]"] - summary["test/loss"]) > 1e-4


def test_evaluate_refuses_an_unknown_split(made):
    refused(command("evaluate", f"--workdir={made[0]}", "--split=tset"), "tset", "test")


def test_evaluate_refuses_a_part_of_data_that_is_no_set(tmp_path):
    fit(tiny.get_config(), tmp_path, task_file={"path": "tiny.py", "text": TINY}, mesh=mesh_of(1))
    refused(command("evaluate", f"--workdir={tmp_path}", "--split=train"),
            "--split=train: this run has", "no set of TFDS's")


@pytest.mark.parametrize("flag", ["--on=test", "-on=test"])
def test_evaluate_names_the_flag_that_took_over(flag, made):
    refused(command("evaluate", f"--workdir={made[0]}", flag), "--on is called --split now",
            "--split='test[:1000]'")


@pytest.mark.full
def test_report_draws_again(made):
    (made[0] / "curves.png").unlink()
    result = run("karpjax.report", f"--workdir={made[0]}")
    assert result.returncode == 0 and result.stderr == "" and (made[0] / "curves.png").exists()
    rows = (made[0] / "metrics.jsonl").read_text().count("\n")
    assert json.loads(result.stdout) == {"rows": rows, "file": str(made[0] / "curves.png")}


COMMANDS = {"train", "evaluate", "sweep", "prepare", "convert", "export", "generate", "report",
            "play", "knn", "slices", "precompile",
            "launch", "games.record"}


@pytest.mark.parametrize("name", ["train", "launch", *(
    pytest.param(each, marks=pytest.mark.full)
    for each in ("evaluate", "sweep", "precompile", "slices", "report", "convert"))])
def test_help(name):
    """By `karpjax NAME --help`: the docstring, and a line for each flag."""
    result = run("karpjax", name, "--help")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert f"karpjax {name}" in result.stdout and "\nflags:\n" in result.stdout
    flags = result.stdout.split("\nflags:\n")[1]
    assert name not in ("train", "sweep") or re.search(r"^  --workdir=TEXT +required$", flags, re.M)
    assert name != "sweep" or re.search(r"^  --seeds=N +default: 5$", flags, re.M)


def test_help_of_a_command_of_several_forms():
    """The flags of each form are there, wherever --help stands."""
    local = run("karpjax", "launch", "local", "--help")
    assert local.returncode == 0 and local.stdout == run("karpjax", "launch", "--help").stdout
    lines = local.stdout.splitlines()
    assert lines.index("local") < lines.index("  --devices-per-process=N  default: 1") \
        < lines.index("tpu") < lines.index("  --dry-run       default: off")
    lines = run("karpjax", "convert", "--help").stdout.splitlines()
    assert lines.index("with --from") < lines.index("  --arch=TEXT        required") \
        < lines.index("with --config") < lines.index("  --weights=TEXT       required") \
        < lines.index("else") < lines.index("  --names=TEXT")


@pytest.mark.parametrize("plot", ["slices.txt", "nowhere/slices.png"])
def test_slices_refuses_a_plot_before_it_compiles(plot, tmp_path):
    with pytest.raises(UserError, match="--plot=.*: expected a name that ends in .png"):
        slices.check_plot(tmp_path / plot)
    slices.check_plot(tmp_path / "slices.png")


def test_the_list_of_commands():
    """One line each, of at most 80 columns."""
    result = run("karpjax", "--help")
    assert result.returncode == 0 and result.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()
                 if line.startswith("  "))
    assert set(lines) == COMMANDS
    for name in COMMANDS - {"games.record"}:
        assert len(lines[name]) <= 80 and lines[name].endswith((".", "?")), (name, lines[name])
    assert lines["train"] == "Train what a config says."


def test_an_unknown_command():
    result = run("karpjax", "trian", "--workdir=run")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "karpjax: error: no command 'trian'; did you mean 'train'?\n"
