"""Restoring (G6): newest, best or a step, without the task's file, into other models, and every
refusal."""
import json
import re
import shutil
import sys

from command import TINY, changed
import jax
import numpy as np
import pytest

from karpjax import restore, UserError
from karpjax.core import sharding
from karpjax.core.task_file import load_task_module, module_from_text
from karpjax.core.trees import path_name
from karpjax.run import checkpoint, loop, metrics
from karpjax.run.meta import sealed

RECORD = {"path": "tiny.py", "text": TINY}


def tiny_config(**values):
    """Return tiny.py's config with other values, as in {"model.width": 9}."""
    config = module_from_text("tiny.py", TINY).get_config()
    config.update_from_flattened_dict(values)
    return config


def train(workdir, task_file=RECORD, **values):
    return loop.fit(tiny_config(**values), workdir, task_file=task_file,
                    mesh=sharding.make_mesh(1, devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Train a run with checkpoints 2, 4, 6, 8. The loss falls, so the first has the largest."""
    workdir = tmp_path_factory.mktemp("made") / "run"
    train(workdir, eval_every=2, save_every=2, best="max validation/loss")
    return workdir


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def edit_meta(workdir, step: int, change) -> None:
    file = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    file.write_text(json.dumps(sealed(change(json.loads(file.read_text())))))


def with_text(*pairs):
    """Return a function that changes the task's text in a checkpoint's meta."""
    return lambda meta: {**meta,
                         "task": {**meta["task"], "text": changed(meta["task"]["text"], *pairs)}}


def named(params) -> dict:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}


# --------------------------------------------------------------------------------- which checkpoint

def test_workdir_step_and_relative_path(made, monkeypatch):
    monkeypatch.chdir(made.parent)
    runs = [restore(path) for path in (made, str(made), "run", made / "checkpoints",
                                       made / "checkpoints" / "8")]
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    assert [run.step for run in runs] == [8] * 5
    for run in runs:
        np.testing.assert_array_equal(run.predict(x), runs[0].predict(x))
    early = restore("run/checkpoints/2")
    assert early.step == 2 and np.abs(early.predict(x) - runs[0].predict(x)).max() > 1e-3


def test_predict_is_the_model_on_the_trained_parameters(made):
    """An independent forward pass from the arrays gives the same output."""
    run, x = restore(made), np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    p, stats = jax.device_get(run.params), jax.device_get(run.variables["batch_stats"]["norm"])
    hidden = np.maximum(x @ p["hidden0"]["kernel"] + p["hidden0"]["bias"], 0)
    hidden = (hidden - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["norm"]["scale"] \
        + p["norm"]["bias"]
    np.testing.assert_allclose(run.predict(x), hidden @ p["head"]["kernel"] + p["head"]["bias"],
                               rtol=1e-4, atol=1e-5)


def test_best(made):
    losses = {row["step"]: row["validation/loss"] for row in metrics.read_rows(made)
              if "validation/loss" in row}
    best = max(losses, key=losses.get)
    assert best != 8
    run = restore(made, which="best")
    assert run.step == best and run.metrics["validation/loss"] == losses[best]


@pytest.mark.full
def test_the_best_is_kept_beside_the_newest(tmp_path):
    train(tmp_path, eval_every=2, save_every=2, best="max validation/loss", keep=1)
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 8]


def test_a_choice_that_is_none(made):
    with pytest.raises(UserError, match="which: expected one of 'newest', 'best', found 'Best'"):
        restore(made, which="Best")


def test_best_by_a_metric_that_is_not_there(run):
    for step in (2, 4, 6, 8):
        edit_meta(run, step, lambda meta: {**meta, "metrics": None})
    with pytest.raises(UserError,
                       match="no checkpoint has the metric 'validation/loss'; restore the newest"):
        restore(run, which="best")


# ----------------------------------------------------------------------------------------- refusals

@pytest.mark.parametrize("inside", ["", "empty"])
def test_no_checkpoint(tmp_path, inside):
    (tmp_path / "empty").mkdir()
    where = tmp_path / (inside or "nothing")
    with pytest.raises(UserError, match=re.escape(
            f"{where}: no checkpoint here; expected a workdir with checkpoints/STEP")):
        restore(where)


def test_schema_of_the_future(run):
    edit_meta(run, 8, lambda meta: {**meta, "schema": 999})
    with pytest.raises(UserError,
                       match="checkpoint schema 999, this karpjax knows up to 2; upgrade karpjax"):
        restore(run)
    # the loop must not take it for a damaged one and go on without it
    with pytest.raises(UserError, match="schema 999"):
        train(run, eval_every=2, save_every=2, best="max validation/loss", steps=10)
    assert (run / "checkpoints" / "8").exists() and not (run / "damaged").exists()


def test_renamed_parameter(run):
    edit_meta(run, 8, with_text(('name="head"', 'name="top"')))
    with pytest.raises(UserError, match=re.escape(
            "names or shapes differ; missing in the checkpoint: ['params/top/bias', "
            "'params/top/kernel']; "
            "unexpected in it: ['params/head/bias', 'params/head/kernel']; of another shape: none; "
            "the model's code has changed since the save: restore with the code of then")):
        restore(run)


NO_BIAS = ('Dense(self.classes, ', 'Dense(self.classes, use_bias=False, ')


@pytest.mark.parametrize("edit, message", [
    (('name="norm")(x)', 'name="norm")(nn.Dense(8)(x))'),
     "missing in the checkpoint: ['params/Dense_0/bias', "
     "'params/Dense_0/kernel']; unexpected in it: none; of another shape: none"),
    (NO_BIAS, "missing in the checkpoint: none; unexpected in it: ['params/head/bias']; "
              "of another shape: none"),
    (("Dense(self.classes, ", "Dense(4, "),
     "unexpected in it: none; of another shape: ['params/head/bias (3,) -> (4,)', "
     "'params/head/kernel (8, 3) -> (8, 4)']")], ids=["more", "fewer", "larger"])
def test_more_fewer_and_larger_parameters(run, edit, message):
    edit_meta(run, 8, with_text(edit))
    with pytest.raises(UserError, match=re.escape(message)):
        restore(run)


def test_names_unchecked_would_pass_unseen(run, monkeypatch):
    """The mutant of the tests above: without the check, a dropped name goes unnoticed."""
    monkeypatch.setattr(checkpoint, "check_names", lambda *args: None)
    edit_meta(run, 8, with_text(NO_BIAS))
    assert set(restore(run).params["head"]) == {"kernel"}


def test_damaged_numbers(run):
    largest = max((run / "checkpoints" / "8" / "state" / "d").iterdir(),
                  key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        restore(run)
    assert restore(run / "checkpoints" / "6").step == 6


def test_damaged_json(run):
    file = run / "checkpoints" / "8" / "meta" / "metadata"
    file.write_text(file.read_text()[:200])
    with pytest.raises(UserError, match="checkpoints/8: its JSON cannot be read .*; "
                                        "restore another checkpoint"):
        restore(run)
    # the loop falls back to step 6 and goes on
    train(run, eval_every=2, save_every=2, best="max validation/loss")
    assert restore(run).step == 8 and (run / "damaged" / "8").exists()


# ---------------------------------------------------------------------------------- the task's file

def test_a_task_that_imports_what_is_missing(tmp_path, monkeypatch):
    """The missing module is named, also if the task's name begins with it."""
    (tmp_path / "lost_tasks").mkdir()
    (tmp_path / "lost_tasks" / "rows.py").write_text("import lost")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'lost'"):
        load_task_module("lost_tasks.rows")


def test_task_that_was_changed_in_a_workdir(run):
    """A changed task does not fit its checkpoints.

    This is no damage, and no reason to start from the beginning.
    """
    text = changed(TINY, ("nn.relu(", "nn.Dense(8)("))
    with pytest.raises(UserError, match=r"missing in the checkpoint: .*'params/Dense_0/kernel'.*"
                                        r"the task was changed"):
        train(run, task_file={**RECORD, "text": text}, eval_every=2, save_every=2,
              best="max validation/loss", steps=10)
    assert restore(run).step == 8 and not (run / "damaged").exists()


def test_task_module_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone_tasks").mkdir()
    (tmp_path / "gone_tasks" / "rows.py").write_text(TINY)
    monkeypatch.syspath_prepend(tmp_path)
    train(tmp_path / "run", task_file=None, task="gone_tasks.rows")
    x = np.ones((2, 6), np.float32)
    before = np.asarray(restore(tmp_path / "run").predict(x))

    shutil.rmtree(tmp_path / "gone_tasks")
    for name in ("gone_tasks", "gone_tasks.rows"):
        sys.modules.pop(name)
    np.testing.assert_array_equal(restore(tmp_path / "run").predict(x), before)
    # It came from the checkpoint's text: without that there is no way.
    edit_meta(tmp_path / "run", 8, lambda meta: {**meta, "task": {**meta["task"], "text": None}})
    with pytest.raises(UserError, match="config.task = 'gone_tasks.rows': no module"):
        restore(tmp_path / "run")


# ------------------------------------------------------------------------ starting from another run

@pytest.mark.parametrize("values, skip, anew", [
    pytest.param({"model.layers": 2, "model.classes": 5}, ("head/.*", "hidden1/.*"),
                 ("head/.*", "hidden1/.*"), id="bigger", marks=pytest.mark.full),
    pytest.param({"model.classes": 5}, ("head/.*",), ("head/.*",), id="other head, skipped",
                 marks=pytest.mark.full),
    pytest.param({"model.classes": 5}, (), ("head/.*",), id="other head"),
    pytest.param({}, (), (), id="same", marks=pytest.mark.full)])
def test_start_from_another_run(made, tmp_path, capsys, values, skip, anew):
    """A learning rate of 0 shows the weights that the run started from.

    The command's refusals are in test_bad_input.py.
    """
    train(tmp_path, **values, **{"init_from": str(made), "init_skip": skip,
                                 "optimizer.learning_rate": 0.0, "steps": 1})
    assert ("head/kernel (8, 3) -> (8, 5) reinitialised" in capsys.readouterr().out) == (
        "model.classes" in values)
    skip = anew
    old, new = named(restore(made).params), named(restore(tmp_path).params)
    shared = {name for name in new if not any(re.fullmatch(pattern, name) for pattern in skip)}
    assert {name for name in old if name not in shared} == {name for name in old if skip
                                                            and name.startswith("head/")}
    for name in shared:
        np.testing.assert_array_equal(new[name], old[name])
    assert all(np.isfinite(value).all() for value in new.values()) and len(shared) >= 4


@pytest.mark.parametrize("values, skip, message", [
    ({"model.layers": 2}, (),
     "missing in the checkpoint: ['hidden1/bias', 'hidden1/kernel']; unexpected in it: none"),
    ({"model.layers": 0}, (".*norm/.*", "head/.*"),
     "missing in the checkpoint: none; unexpected in it: ['hidden0/bias', "
                                                  "'hidden0/kernel']; of another shape: none"),
    ({"model.width": 4}, (".*norm.*", "hidden0/kernel"),
     "of another shape: ['hidden0/bias (8,) -> (4,)']; what is meant to")])
def test_start_from_a_run_that_does_not_fit(made, tmp_path, values, skip, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train(tmp_path / "new", **values, init_from=str(made), init_skip=skip)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name, on_device", [
    ("digits", "no"), pytest.param("digits", "yes", marks=pytest.mark.full)])
def test_predictions_need_no_data(name, on_device, tmp_path, monkeypatch):
    """A model predicts without its data set.

    Only its evaluation reports that the set is missing.
    """
    from guarantees.registry import config_of
    config, task_file = config_of(name, steps=4, eval_every=4, **{"data.on_device": on_device})
    loop.fit(config, tmp_path, task_file=task_file)
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8, 1)
    expected = restore(tmp_path).predict(images)

    def not_here(name, data_dir=""):
        raise UserError(f"data set {name!r} is not here")
    monkeypatch.setattr(sys.modules["karpjax.sources.images"], "prepared_builder", not_here)
    run = restore(tmp_path)
    np.testing.assert_array_equal(run.predict(images), expected)
    with pytest.raises(UserError, match="is not here"):
        next(iter(run.task.source.eval_batches("test")))
