"""Durability of a workdir: which experiment it holds, what its names are, what a refusal leaves."""
import errno
import json
import os
import pathlib
import shutil

from command import TINY
import pytest
import tiny_runs

import karpjax
from karpjax import restore, UserError
from karpjax.core import files, settings
from karpjax.core.task_file import module_from_text
from karpjax.run import checkpoint, durable, loop, metrics, workdir
from karpjax.run.checkpoint import Checkpoints


def train(folder, **values):
    """Train with four saves in eight steps, and return the summary."""
    return tiny_runs.train(folder, **{"eval_every": 4, "save_every": 2, "log_every": 1, **values})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    train(folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "run"))


def tree(folder) -> dict:
    """Return {path: content} of all below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


# --------------------------------------------------------------------- which experiment it holds

UNSOUND = {"deleted": None, "empty": "", "no keys": "{}", "cut": '{"seed": 0, "tas',
           "a list": "[1]",
           "a number": "3", "nested": "[" * 5000, "of another run": '{"seed": 7}'}


@pytest.mark.parametrize("text", UNSOUND.values(), ids=UNSOUND)
def test_without_a_sound_config_the_checkpoint_decides(run, text):
    """Another experiment is refused without a change, and the same goes on and writes it again."""
    file = run / "config.json"
    sound = file.read_text()
    file.unlink() if text is None else file.write_text(text)
    before = tree(run)
    with pytest.raises(UserError, match="holds another experiment: optimizer.learning_rate: "
                                        "0.01 -> 0.03; seed: 0 -> 1"):
        train(run, **{"seed": 1, "optimizer.learning_rate": 0.03})
    assert tree(run) == before
    assert train(run)["resumed"] and file.read_text() == sound


def test_mutant_config_json_decides(run, monkeypatch):
    """If config.json decided, the test above would see another seed go on."""
    monkeypatch.setattr(workdir, "saved_config",
                        lambda folder: workdir.written_config(folder / "config.json"))
    monkeypatch.setattr(loop, "saved_config", workdir.saved_config)
    monkeypatch.setattr(loop, "check_same_run", lambda *arguments: None)
    (run / "config.json").unlink()
    assert train(run, seed=1)["resumed"]


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    """The newest checkpoint decides, and each that a fallback reaches is compared too."""
    train(tmp_path / "other", seed=1, steps=10)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "10", run / "checkpoints" / "10")
    with pytest.raises(UserError, match="holds another experiment: seed: 1 -> 0"):
        train(run, steps=10)
    file = run / "checkpoints" / "10" / "meta" / "metadata"
    file.write_text("{")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "8", run / "checkpoints" / "8",
                    dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds another experiment: seed: 1 -> 0"):
        train(run, steps=10)


def test_a_dispatch_of_one_s_own_is_compared(run):
    """A run keeps its dispatch, and a config without one takes it from there."""
    assert train(run)["resumed"] and train(run, dispatch="step")["resumed"]
    with pytest.raises(UserError, match="dispatch: 'step' -> 'scan'"):
        train(run, dispatch="scan")


# ------------------------------------------------------------------------ what a refusal leaves

@pytest.mark.parametrize("values, says", [
    ({"steps": 4}, "is at step 8 already, beyond config.steps = 4"),
    ({"steps": 10, "model.width": 9}, "holds another experiment")])
def test_a_refused_resume_changes_nothing(run, values, says):
    before = tree(run)
    with pytest.raises(UserError, match=says):
        train(run, **values)
    assert tree(run) == before


def test_mutant_config_json_written_first(run, monkeypatch):
    """The test above catches a config.json that is written before all is checked."""
    opened = loop.open_workdir

    def write_first(folder, exp, saved):
        folder = opened(folder, exp, saved)
        workdir.write_files(folder, exp.config.to_dict(), {})
        return folder
    monkeypatch.setattr(loop, "open_workdir", write_first)
    with pytest.raises(AssertionError):
        test_a_refused_resume_changes_nothing(run, {"steps": 4}, "is at step 8 already")


# ---------------------------------------------------------------------- what its names must be

@pytest.mark.parametrize("name", [*durable.FILES, *durable.FOLDERS])
def test_a_file_for_a_folder_and_a_folder_for_a_file(run, name):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.write_text("") if name in durable.FOLDERS else path.mkdir()
    expected = ("folder", "file") if name in durable.FOLDERS else ("file", "folder")
    with pytest.raises(UserError, match=f"{name}: expected a {expected[0]}, found a {expected[1]}; "
                                        "move it away"):
        train(run)


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run: expected a folder, found a file"):
        train(tmp_path / "run")


def test_tensorboard_as_a_link(run, tmp_path):
    """Old events go from a linked folder too, and what else lies there stays."""
    shutil.move(run / "tensorboard", tmp_path / "board")
    (run / "tensorboard").symlink_to(tmp_path / "board")
    (tmp_path / "board" / "notes.txt").write_text("mine")
    train(run, steps=10)
    names = [path.name for path in (tmp_path / "board").iterdir()]
    assert len(names) == 2 and "notes.txt" in names


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?", "a\\b", "["])
def test_a_path_that_orbax_takes_for_a_pattern(tmp_path, name):
    """It is refused before anything is made there, in training and in reading."""
    for call in (train, restore, Checkpoints):
        with pytest.raises(UserError, match="is a pattern to Orbax.*choose another name"):
            call(tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a{b}", "50%", "#1", "~x", "a b", "é:$HOME", "a\nb"])
def test_a_path_of_other_signs(made, tmp_path, name):
    shutil.copytree(made, tmp_path / name / "run")
    assert restore(tmp_path / name / "run").step == 8


# ------------------------------------------------------------------------------- summary.json

def test_a_kill_behind_the_last_save(made, run):
    """The summary that is made again has all keys and the count of FLOPs, without a step."""
    summary = json.loads((made / "summary.json").read_text())
    (run / "summary.json").unlink()
    again = train(run)
    assert again.keys() == summary.keys() and again["flops_per_step"] > 1000
    assert again["flops_per_step"] == summary["flops_per_step"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"steps": 8', '{"steps": "8"}'])
def test_a_damaged_summary_is_made_again(run, text):
    """A sweep takes the seed for unfinished, not for a bug."""
    config = settings.canonical(module_from_text("tiny.py", TINY).get_config())
    assert workdir.finished(run, config)["steps"] == 8
    (run / "summary.json").write_text(text)
    assert workdir.finished(run, config) is None
    shutil.rmtree(run / "checkpoints")
    (run / "config.json").unlink()
    assert workdir.finished(run, config) is None


# ------------------------------------------------------------------------------- power cuts

def test_what_is_flushed_before_a_checkpoint_counts(tmp_path, monkeypatch):
    """The rows and every file of a save are on disk before Orbax renames it or deletes another.

    A power cut keeps what was flushed, and renames in their order.
    """
    flushed, renamed, flush = set(), [], files.flush

    def recorded(path):
        flushed.add(os.path.realpath(path))
        flush(path)

    def rename(source, target, *arguments, **options):
        step = pathlib.Path(source)
        if step.parent.name == "checkpoints":  # beside it, Orbax leaves an empty mark of its own
            below = [path for path in step.rglob("*") if path != step / "commit_success.txt"]
            needed = [step, *below, step.parent.parent / metrics.NAME]
            renamed.append({str(path) for path in needed} - flushed)
        return replaced(source, target, *arguments, **options)
    replaced = os.rename
    monkeypatch.setattr(files, "flush", recorded)
    monkeypatch.setattr(os, "rename", rename)
    train(tmp_path / "run", keep=1)
    assert len(renamed) == 4 and renamed == [set()] * 4
    assert {str(tmp_path / "run" / f"{name}.part") for name in ("config.json", "summary.json")} \
        <= flushed


def test_mutant_nothing_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "flush_folder", lambda folder: None)
    with pytest.raises(AssertionError):
        test_what_is_flushed_before_a_checkpoint_counts(tmp_path, monkeypatch)


def test_a_file_system_that_cannot_flush(tmp_path, monkeypatch):
    def unable(number):
        raise OSError(errno.EINVAL, "Invalid argument")
    monkeypatch.setattr(os, "fsync", unable)
    files.write_whole(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    files.write_whole(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), files.whole(tmp_path / "file") as file:
        file.write("ne")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"file": b"old"}


# ------------------------------------------------------------------------- a save that cannot open

@pytest.mark.parametrize("damage", ["json", "array"])
def test_a_save_that_cannot_be_read_back(run, monkeypatch, damage):
    """It never counts: an error, and the checkpoints before it stay, none deleted."""
    opens = checkpoint.check_opens

    def damaged(folder):
        pattern = "meta/metadata" if damage == "json" else "state/manifest.ocdbt"
        (file,) = folder.glob(pattern)
        file.write_bytes(file.read_bytes()[:-9])
        opens(folder)
    monkeypatch.setattr(checkpoint, "check_opens", damaged)
    with pytest.raises(UserError, match="a checkpoint could not be written .*the ones before it "
                                        "are whole"):
        train(run, steps=10, keep=1)
    kept = {path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {"2", "4", "6", "8"}
    monkeypatch.undo()
    assert train(run, steps=10)["resumed"] and karpjax.restore(run).step == 10
