"""Config files by path and by name, and overrides that a person may get wrong."""
import json
import pathlib

from command import ROOT, TINY, command, done
import pytest

import karpjax as kj
from karpjax.run import cli
from karpjax.run.config_file import EXAMPLES, find_config, load_config

MINE = """import karpjax as kj

def get_config(width=3):
    return kj.config(steps=7, model=dict(width=int(width)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """Return an empty folder, and work in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_by_path(here):
    (here / "folder").mkdir()
    (here / "folder" / "mine.py").write_text(MINE)
    for name in ("folder/mine.py", "folder/mine", here / "folder" / "mine.py"):
        config, task_file = load_config(name)
        assert config.steps == 7 and config.model.width == 3
        assert pathlib.Path(task_file["path"]).samefile("folder/mine.py")
        assert task_file["text"] == MINE
    assert load_config("folder/mine.py:5")[0].model.width == 5


@pytest.mark.parametrize("name",
                         ["digits_cnn", "digits_cnn.py", "configs/digits_cnn",
                          "configs/digits_cnn.py"])
def test_by_name(name, here):
    config, task_file = load_config(name)
    file = ROOT / "configs" / "digits_cnn.py"
    assert config.task == "classify" and task_file == {"path": str(file), "text": file.read_text()}


def test_by_name_with_an_argument(here):
    assert load_config("cifar10_resnet:20")[0].model.depth == 20
    assert load_config("cifar10_resnet:32")[0].model.depth == 32


@pytest.mark.parametrize("name", ["digits_cnn", "digits_cnn.py", "./digits_cnn.py"])
def test_a_file_here_wins(name, here):
    (here / "digits_cnn.py").write_text(MINE)
    assert load_config(name)[0].steps == 7
    (here / "digits_cnn.py").unlink()
    assert load_config(name)[0].task == "classify"


def test_mutant_our_own_win(here, monkeypatch):
    """Were karpjax's configs looked at first, the test above would say so."""
    (here / "digits_cnn.py").write_text(MINE)
    monkeypatch.setattr("karpjax.run.config_file.find_config",
                        lambda name: EXAMPLES[-1] / f"{name}.py")
    with pytest.raises(AssertionError):
        assert load_config("digits_cnn")[0].steps == 7


@pytest.mark.parametrize("name, says", [
    ("digits_cn", "--config=digits_cn: no such file.*did you mean 'digits_cnn'"),
    ("elsewhere/digits_cnn.py", "--config=elsewhere/digits_cnn.py: no such file"),
    ("", "--config=: no such file")])
def test_no_such_file(name, says, here):
    with pytest.raises(kj.UserError, match=says):
        find_config(name)


@pytest.mark.parametrize("text, says", [
    ("steps = 3\n", r"mine.py: no get_config\(\) in it"),
    ("def get_config():\n    return dict(steps=3)\n",
     r"mine.py: get_config\(\) returned dict, expected"),
    ("def get_config(:\n", "mine.py:1: ")])
def test_files_that_are_no_configs(text, says, here):
    (here / "mine.py").write_text(text)
    with pytest.raises(kj.UserError, match=says) as error:
        load_config("mine.py")
    assert "\n" not in str(error.value)


def test_overrides():
    schedule = {"name": "cosine", "peak": 0.1}
    config, _ = load_config("digits_cnn",
                            {"steps": 9, "data.batch_size": 32, "optimizer.learning_rate": schedule,
                                           "mesh": {"fsdp": 2}, "data.on_device": "yes"})
    assert (config.steps, config.data.batch_size, config.data.on_device) == (9, 32, "yes")
    assert config.optimizer.learning_rate.to_dict() == schedule
    assert config.mesh.to_dict() == {"data": -1, "fsdp": 2}
    again, _ = load_config("digits_cnn", {"optimizer.learning_rate": 0.5})
    assert again.optimizer.learning_rate == 0.5


@pytest.mark.parametrize("overrides, says", [
    ({"step": 3}, "step: the config has no such key; did you mean 'steps'"),
    ({"data.batch_sise": 3},
     "data.batch_sise: the config has no such key; did you mean 'batch_size'"),
    ({"dat.batch_size": 3}, "dat.batch_size: the config has no 'dat'; did you mean 'data'"),
    ({"steps.more": 3}, "steps.more: the config has no 'steps'"),
    ({"steps": "many"}, "config.steps: expected int, found 'many'"),
    ({"steps": 0}, "config.steps: expected at least 1, found 0"),
    ({"hang_after": 3}, "config.hang_after is called config.hang_timeout now")])
def test_wrong_overrides(overrides, says):
    with pytest.raises(kj.UserError, match=says):
        load_config("digits_cnn", overrides)


@pytest.mark.parametrize("flags", [
    ["--config=digits_cnn"], ["--config", "digits_cnn"],
    ["--workdir", "x", "--config", "digits_cnn"],
    ["--config", "digits_cnn", "--config.steps", "1000"]])
def test_a_space_in_place_of_an_equals_sign(flags):
    config = cli.parse(flags, "Doc.", config=True, workdir="").config
    assert (config.steps, config.model.width) == (1000, 32)


@pytest.mark.parametrize("flags, says", [
    (["--steps=10"], "'steps'.*; a key of the config is given as --config.steps=VALUE$"),
    (["--model.width=10"], "; a key of the config is given as --config.model.width=VALUE$"),
    (["--batch_size", "10"], "; a key of the config is given as --config.data.batch_size=VALUE$"),
    (["steps=10"], "found 'steps=10'; a key of the config is given as --config.steps=VALUE$"),
    (["digits_cnn"], "expected flags of the form --name=value, found 'digits_cnn'$"),
    (["--nothing=1"], "Unknown command line flag 'nothing'$"),
    (["--config"], "Missing value for flag --config"),
    (["--config", "poly"], "expected --config=FILE once.*; found 2 of it")])
def test_a_key_without_its_path(flags, says):
    with pytest.raises(kj.UserError, match=says):
        cli.parse(["--config=digits_cnn", *flags], "Doc.", config=True, workdir="")


@pytest.mark.full
def test_a_name_trains_from_an_empty_folder(here):
    done(command("train", "--config=digits_cnn", "--workdir=run", "--config.steps=60",
                 "--config.model.width=4",
                 cwd=here))
    assert json.loads((here / "run" / "summary.json").read_text())["steps"] == 60
    assert json.loads((here / "run" / "config.json").read_text())["task"] == "classify"
    (here / "mine.py").write_text(TINY)
    done(command("train", "--config=mine", "--workdir=other", "--config.steps=2", cwd=here))
    assert kj.restore(here / "other").step == 2
