"""Checkpoints of earlier versions restore for ever, without their config file, to the same numbers.

tests/data/checkpoint_vN was made once by tests/data/make_checkpoint_vN.py. A new schema adds a
folder. None is made again.
"""
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

import karpjax
from karpjax.run import metrics

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture
def v1(tmp_path, monkeypatch):
    """Return a copy of the workdir, alone in another current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(DATA / "checkpoint_v1", tmp_path / "run")


@pytest.fixture
def v2(tmp_path, monkeypatch):
    """Return a copy of the workdir, alone in another current folder, where no data set is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return shutil.copytree(DATA / "checkpoint_v2", tmp_path / "run")


def test_v1(v1):
    run, expected = karpjax.restore(v1), np.load(v1 / "expected.npz")
    assert expected["logits"].shape == (16, 10) and expected["logits"].std() > 0.1
    np.testing.assert_allclose(run.predict(expected["images"]), expected["logits"], rtol=0,
                               atol=1e-5)
    assert (run.step, run.config.epsilon, run.config.optimizer.name,
            run.config.model.width) == (40, 1.5, "adam", 4)
    last = [row for row in metrics.read_rows(v1) if "validation/accuracy" in row][-1]
    assert run.metrics == {name: value for name, value in last.items() if name != "step"}
    assert last["step"] == 40
    assert set(run.variables) == {"params", "batch_stats"}
    assert run.params["body"]["conv0"]["kernel"].shape == (3, 3, 1, 4)


def test_v2(v2):
    """Its moving averages have statistics of their own. Its task is karpjax's, by name."""
    run, expected = karpjax.restore(v2), np.load(v2 / "expected.npz")
    assert expected["logits"].shape == (16, 10) and expected["logits"].std() > 1
    np.testing.assert_allclose(run.predict(expected["images"]), expected["logits"], rtol=0,
                               atol=1e-5)
    assert (run.step, run.config.ema_decay, run.config.optimizer.name,
            run.config.model.width) == (300, 0.97, "sgd", 8)
    assert run.metrics["validation/accuracy"] == 0.99
    assert run.params["conv0"]["kernel"].shape == (3, 3, 1, 8)


def test_v2_has_statistics_of_its_averages(v2, monkeypatch):
    """The mutant joins the averages with the statistics of the live network, as schema 1 had to."""
    from karpjax.run import restore
    monkeypatch.setattr(restore, "evaluated", lambda meta: ("ema", "model_state"))
    with pytest.warns(UserWarning, match="alone"), pytest.raises(AssertionError):
        test_v2(v2)


def test_v1_numbers_come_from_the_checkpoint(v1, monkeypatch):
    """The mutant is a restore that keeps fresh parameters. The test above must catch it."""
    import jax

    from karpjax.run import checkpoint

    def fresh(folder, abstract):
        return jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), abstract)
    monkeypatch.setattr(checkpoint, "load", fresh)
    with pytest.raises(AssertionError):
        test_v1(v1)


@pytest.mark.parametrize("name", ["checkpoint_v1", "checkpoint_v2"])
def test_is_small_and_names_no_machine(name):
    files = [file for file in (DATA / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 150_000
    machine = rb"/(tmp|home|root|Users|mnt|var|opt)/"
    assert [file for file in files if re.search(machine, file.read_bytes())] == []


def test_v1_carries_its_task_file():
    metadata = DATA / "checkpoint_v1" / "checkpoints" / "40" / "meta" / "metadata"
    task_file = json.loads(metadata.read_text())["task"]
    assert task_file["path"] == "poly_v1.py" and "def build(config)" in task_file["text"]
