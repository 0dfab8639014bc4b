"""What karpjax 0.1.0 left in tests/data/v1 (made by its make_v1.py) holds for every later karpjax.

Each checkpoint restores to the outputs it had, goes on with the rows it went on with, and starts
other runs. Rows are compared bit by bit on the processor and jax that made them, elsewhere to a
tolerance, and each test prints which. Where modules or keys of a config are renamed, this file is
adapted. The data never is. The marker `full` stands on what a quick run leaves out.
"""
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import shutil
import warnings

from data.make_v1 import (
    FROZEN,
    KINDS,
    changed,
    frozen_config,
    machine,
    outputs_of,
    pictures,
    rows_of,
)
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import numpy as np
import pytest

import karpjax
from karpjax.core import old_names
from karpjax.run import workdir
from karpjax.run.meta import LIVE_STATISTICS

DATA = pathlib.Path(__file__).parent / "data" / "v1"
ALL, SHORT = (*KINDS, "exported"), (*FROZEN, "finetune")
QUICK = ("ema",)
MADE = json.loads((DATA / "made.json").read_text())
# Where rounding differs: a relative tolerance, and the rows that rounding has not moved beyond it.
RTOL, FIRST = 1e-4, dict(reacher=2, self_play=2, ppo_reacher=9, connect_four_ppo=2, digits_cnn=2)


def quick(names):
    """Mark all names but QUICK as parameters of the full run."""
    return [each if each in QUICK else pytest.param(each, marks=pytest.mark.full) for each in names]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Copy a checkpoint's folder, alone, into the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: shutil.copytree(DATA / name, tmp_path / "run")


def place(folder, name: str):
    """Return the path that a user gives to restore."""
    return folder / "run.safetensors" if name == "exported" else folder


def config_at(name: str, **changes):
    """Return the config that a run was made with, with changes."""
    file = DATA / name / ("run.json" if name == "exported" else "config.json")
    values = json.loads(file.read_text())
    return changed(old_names.today(values["config"] if name == "exported" else values), changes)


# --------------------------------------------------------------------------------------- comparing

def same_machine() -> bool:
    """Say whether rows must agree bit by bit."""
    now, then = workdir.versions(), MADE["versions"]
    return (all(now[name] == then[name] for name in ("jax", "jaxlib"))
            and machine() == MADE["machine"]
            and [flag for flag in os.environ["XLA_FLAGS"].split() if "timeout" not in flag]
            == MADE["XLA_FLAGS"].split())


def read(file) -> list[dict]:
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


def compare_rows(name: str, rows: list[dict], frozen: list[dict], exact: bool) -> None:
    """Check that no frozen row, key or value has changed; keys may be new."""
    assert [row["step"] for row in rows] == [row["step"] for row in frozen], name
    first = len(frozen) if exact else FIRST.get(name, len(frozen))
    for now, then in zip(rows[:first], frozen[:first], strict=True):
        lacks = sorted(set(then) - set(now))
        assert not lacks, f"{name}: the row of step {then['step']} lacks {lacks}"
        for key, value in then.items():
            same = now[key] == value if exact or value is None else \
                now[key] is not None and np.isclose(now[key], value, rtol=RTOL, atol=1e-6)
            assert same, f"{name}: step {then['step']}: {key} is {now[key]}, was {value}"
    print(f"{name}: {first} rows compared {'bit by bit' if exact else f'to a relative {RTOL}'}")


def compare_outputs(run, file) -> None:
    """Check a restored run against what it made of the same inputs."""
    kept = {"inputs": {}, "outputs": {}}
    for name, value in np.load(file).items():
        kind, _, part = name.partition("/")
        kept[kind][part] = value
    found = outputs_of(run, kept["inputs"].get("", kept["inputs"]))
    assert set(found) == set(kept["outputs"])
    for name, value in kept["outputs"].items():
        assert value.std() > 1e-3
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


# --------------------------------------------------------------------- restore, go on, start others

@pytest.mark.parametrize("name", ALL)
def test_restores(name, copied):
    folder = copied(name)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = karpjax.restore(place(folder, name))
    live = [warning for warning in seen if LIVE_STATISTICS in str(warning.message)]
    assert len(live) == (name in ("ema", "exported"))
    assert run.step == KINDS["ema" if name == "exported" else name].at
    compare_outputs(run, folder / "expected.npz")


@pytest.mark.parametrize("name", quick(KINDS))
def test_goes_on(name, copied, capsys):
    """The average of version 1 had no statistics: what evaluation saw of it is mended since."""
    folder, kind = copied(name), KINDS[name]
    pictures(folder.parent / "pictures")  # of the kind "folder": the same names, sizes and times
    summary = karpjax.fit(config_at(name), folder, mesh=mesh_of(1))
    assert summary["resumed"] and summary["steps"] == kind.steps
    rows, frozen = rows_of(folder, after=kind.at), read(f"{name}/resumed.jsonl")
    if name == "ema":
        frozen = [{key: value for key, value in row.items()
                   if not key.startswith(("validation/", "test/"))} for row in frozen]
    compare_rows(name, rows, frozen, same_machine())
    assert capsys.readouterr().out.count(LIVE_STATISTICS) == (name == "ema")


@pytest.mark.parametrize("name", quick(ALL))
def test_starts_others(name, copied):
    """A run at a learning rate of 0 keeps what it started from."""
    folder = copied(name)
    pictures(folder.parent / "pictures")
    config = config_at(name, **{"init_from": str(place(folder, name)), "steps": 4, "eval_every": 4,
                                "save_every": 4, "optimizer.learning_rate": 0.0})
    summary = karpjax.fit(config, folder.parent / "new", mesh=mesh_of(1))
    old, new = karpjax.restore(place(folder, name)), karpjax.restore(folder.parent / "new")
    assert not summary["resumed"] and new.step == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
                 old.params, new.params)
    if name in ("masked_text", "self_play"):  # whose evaluation depends on parameters alone
        assert old.metrics and new.metrics == pytest.approx(old.metrics, rel=1e-5)
    if name == "reacher":  # moments of five rollouts of 8 x 16, and of one more
        counts = [run.variables["source"]["moments"]["obs"]["count"] for run in (old, new)]
        assert counts == [5 * 128, 6 * 128]


@pytest.mark.full
@pytest.mark.parametrize("name", SHORT)
def test_short_runs(name, tmp_path):
    task_file = config_of(name)[1] if name == "finetune" else None
    karpjax.fit(frozen_config(name), tmp_path, mesh=mesh_of(1), task_file=task_file)
    compare_rows(name, rows_of(tmp_path), read(f"rows/{name}.jsonl"), same_machine())


@pytest.mark.parametrize("fed", [False, True], ids=["drawn", "fed"])
def test_a_users_task(fed, tmp_path):
    """Its imports, Source and Task are those of 0.1.0; its checkpoint runs the file again."""
    spec = importlib.util.spec_from_file_location("old_task", DATA / "old_task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    summary, run = module.main(tmp_path / "run", fed=fed, mesh=mesh_of(1))
    assert summary["steps"] == 80 and summary["eval/reward"] > 0.7
    assert (tmp_path / "run" / "predictions.txt").read_text().startswith("predictions")
    assert run.predict(np.zeros((2, 3), np.float32)).shape == (2, 2)
    assert run.variables["source"]["moments"]["count"] == (80 if fed else 40) * 128


# ----------------------------------------------------------------------------------------- mutants

@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", SHORT)
def test_mutant_rows(name, exact):
    """A number that changed, a key and a row that are gone must each be noticed, a new key not."""
    rows = read(f"rows/{name}.jsonl")
    compare_rows(name, [{**row, "train/new": 1.0} for row in rows], rows, exact)
    factor = 1 + (1e-7 if exact else 1e-3)
    changed_loss = {**rows[0], "train/loss": rows[0]["train/loss"] * factor}
    without = {key: value for key, value in rows[0].items() if key != "train/grad_norm"}
    for mutant in ([changed_loss, *rows[1:]], [without, *rows[1:]], rows[:-1]):
        with pytest.raises(AssertionError):
            compare_rows(name, mutant, rows, exact)


def test_mutant_outputs(copied):
    """Parameters that are a hundredth off must be noticed."""
    folder = copied("ema")
    run = karpjax.restore(folder)
    other = dataclasses.replace(run, variables=jax.tree.map(lambda x: 1.01 * x, run.variables))
    with pytest.raises(AssertionError):
        compare_outputs(other, folder / "expected.npz")


# ------------------------------------------------------------------------------------ what is there

@pytest.mark.parametrize("name", ALL)
def test_is_small_and_names_no_machine(name):
    files = [file for file in (DATA / name).rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= 150_000
    paths = rb"/(tmp|home|root|Users|mnt|var|opt|work)/"
    assert [file for file in files if re.search(paths, file.read_bytes())] == []


@pytest.mark.parametrize("name, leaf", [
    ("reacher", "source/moments/obs/mean"), ("reacher", "source/moments/reward/var"),
    ("self_play", "source/recent/known"), ("self_play", "source/pool/stem/kernel"),
    ("masked_text", "source/draw"), ("ema", "ema/head/kernel"), ("folder", "source/key")])
def test_holds_names_that_a_move_could_lose(name, leaf):
    folder = DATA / name / "checkpoints" / str(KINDS[name].at)
    assert leaf in json.loads((folder / "meta" / "metadata").read_text())["shapes"]
