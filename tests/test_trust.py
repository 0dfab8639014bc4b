"""Checkpoints of strangers: what they would execute runs only if somebody allowed it."""
import json
import pathlib
import shutil
import sys

from command import TINY
import jax
import pytest

from karpjax import evaluate, restore, UserError
from karpjax.core import sharding
from karpjax.core.task_file import module_from_text
from karpjax.run import checkpoint, init_from, loop, trust

DATA = pathlib.Path(__file__).parent / "data"
OWN, TEXT = DATA / "v1" / "ema", DATA / "checkpoint_v1"
HOSTILE = "import pathlib\npathlib.Path({file!r}).touch()\n"
META = {"task": {"name": "classify", "path": None, "text": None},
        "config": {"data": {"name": "digits", "data_dir": ""}, "env": {}}}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Return (a checkpoint whose task file and module are hostile, the file that they make)."""
    mark = tmp_path / "it_ran"
    (tmp_path / "hostile_module.py").write_text(HOSTILE.format(file=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def make(name="", text=True, source=TEXT):
        folder = pathlib.Path(shutil.copytree(source, tmp_path / "run"))
        file = next(folder.glob("checkpoints/*/meta/metadata"))
        meta = json.loads(file.read_text())
        meta["task"] |= {"name": name, "text": HOSTILE.format(file=str(mark)) if text else None}
        file.write_text(json.dumps(meta))
        return folder, mark
    return make


@pytest.fixture
def from_elsewhere(monkeypatch):
    """Let a folder be read as if it were on an object store."""
    find = checkpoint.find
    monkeypatch.setattr(checkpoint, "find", lambda path, which="newest": find(
        str(path).removeprefix("gs:/"), which))
    return lambda folder: f"gs:/{folder}"


# ------------------------------------------------------------------------------------------ restore

def test_what_runs_code():
    assert trust.foreign_code(META, {}) == []
    for change, says in [
            ({"task": {**META["task"], "text": "a\nb\n"}}, "its task file (2 lines)"),
            ({"task": {**META["task"], "name": "os.path"}}, "the module os.path"),
            ({"config": {"data": {}, "env": {"name": "gymnasium:evil:Env-v0"}}},
             "the module evil of config.env"),
            ({"config": {"data": {"name": "community:evil"}}}, "the data set community:evil"),
            ({"config": {"data": {"data_dir": "gs://evil"}}},
             "what the data sets in gs://evil import")]:
        assert trust.foreign_code({**META, **change}, {}) == [says]
    moved = {**META, "config": {"data": {"data_dir": "gs://evil"}}}
    assert trust.foreign_code(moved, {"data_dir": "/here"}) == []
    for harmless in ("gymnasium:CartPole-v1", "pgx:connect_four", "cartpole"):
        assert trust.foreign_code({**META, "config": {"env": {"name": harmless}}}, {}) == []
    ours = {**META["task"], "name": "karpjax.tasks.ppo"}
    assert trust.foreign_code({**META, "task": ours}, {}) == []


@pytest.mark.parametrize("path, given, runs", [
    ("runs/x", None, True), ("runs/x", True, True), ("runs/x", False, False),
    ("gs://b/x", None, False), ("gs://b/x", True, True), ("gs://b/x", False, False)])
def test_who_is_trusted(path, given, runs):
    trust.check_trust(path, META, given)  # karpjax's own tasks need no trust
    foreign = {**META, "task": {**META["task"], "text": "x"}}
    if runs:
        return trust.check_trust(path, foreign, given)
    with pytest.raises(UserError, match=r"would execute its task file \(1 lines\)") as error:
        trust.check_trust(path, foreign, given)
    assert f"karpjax.restore({path!r}, trust=True)" in str(error.value)


@pytest.mark.parametrize("name, text", [("", True), ("classify", True), ("hostile_module", False),
                                        ("hostile_module.x", False)])
def test_nothing_of_a_stranger_runs_from_elsewhere(hostile, from_elsewhere, name, text):
    """The name of one of karpjax's tasks over a text is no excuse; only one without a dot and a
    text is sought among karpjax's own."""
    folder, mark = hostile(name, text)
    for path, options in [(from_elsewhere(folder), {}), (folder, {"trust": False})]:
        with pytest.raises(UserError):
            restore(path, **options)
        with pytest.raises(UserError):
            evaluate.run_with(str(path), "test", "newest", **options)
    assert not mark.exists() and "hostile_module" not in sys.modules


def test_mutant_without_the_check(hostile, from_elsewhere, monkeypatch):
    monkeypatch.setattr("karpjax.run.restore.check_trust", lambda *given: None)
    folder, mark = hostile()
    with pytest.raises(UserError, match="no build"):
        restore(from_elsewhere(folder))
    assert mark.exists()


def test_own_tasks_from_elsewhere_and_foreign_ones_that_are_trusted(from_elsewhere):
    assert restore(from_elsewhere(OWN)).step == 30
    with pytest.raises(UserError, match=r"would execute its task file .* trust=True"):
        restore(from_elsewhere(TEXT))
    assert restore(from_elsewhere(TEXT), trust=True).step == 40


# --------------------------------------------------------------------------- training and init_from

def test_init_from_runs_nothing(hostile):
    folder, mark = hostile("hostile_module.x", source=OWN)
    weights = init_from.own_weights(folder)
    name, shape = next(iter(weights.shapes.items()))
    loaded = weights.load({name: jax.numpy.zeros(shape)})
    config = module_from_text("tiny.py", TINY).get_config()
    config.update(task="classify", init_from=str(folder))
    inherited = init_from.inherited(config)
    init_from.differences(inherited)
    assert loaded[name].shape == shape and inherited.data.mean and not mark.exists()


def test_a_resume_runs_what_the_config_file_says(tmp_path, monkeypatch):
    """The text in the checkpoint is another: it is reported, and stays a text."""
    mark, task_file = tmp_path / "it_ran", {"path": "tiny.py", "text": TINY}
    meta_of = loop.checkpoint_meta

    def with_hostile_text(exp, seconds):
        text = HOSTILE.format(file=str(mark))
        return {**meta_of(exp, seconds), "task": {**exp.task_file, "text": text}}

    def train(steps):
        config = module_from_text("tiny.py", TINY).get_config()
        config.steps = steps
        return loop.fit(config, tmp_path / "run", task_file=task_file,
                        mesh=sharding.make_mesh(1, devices=jax.devices()[:1]))
    monkeypatch.setattr(loop, "checkpoint_meta", with_hostile_text)
    train(2)
    assert train(4)["resumed"] and not mark.exists()
    with pytest.raises(UserError, match="no build"):
        restore(tmp_path / "run")
    assert mark.exists()
