"""G9: a non-finite loss never corrupts the state: the step is skipped and counted, its batch kept,
and the run stops."""
from guarantees.harness import FACTOR, go_on, mesh_of, named, on_eight, run
from guarantees.registry import TASKS, config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core import step
from karpjax.core.errors import NotFinite
from karpjax.run import checkpoint, loop

KEPT = ("params/", "model_state/", "opt_state/", "ema/")


def kept_of(state) -> dict:
    return {name: x.copy() for name, x in named(state).items() if name.startswith(KEPT)}


def changed_names(before: dict, after: dict) -> list[str]:
    return [name for name, value in before.items() if not np.array_equal(value, after[name])]


@pytest.mark.parametrize("name", TASKS)
def test_skipped_without_a_trace(name):
    """On 8 devices, 4 steps whose weights are not numbers change nothing, and the next ones learn.
    """
    experiment, programs, last = on_eight(name)[-3:]
    before, state = kept_of(last), jax.tree.map(jnp.copy, last)
    state, metrics = go_on(experiment, programs, state, 12, 16, change=lambda arrays: {
        **arrays, FACTOR: np.full_like(arrays[FACTOR], np.nan)})
    assert metrics["skipped"].tolist() == metrics["skipped_in_a_row"].tolist() == [1, 2, 3, 4]
    assert changed_names(before, kept_of(state)) == []
    state, metrics = go_on(experiment, programs, state, 16, 20)
    assert metrics["skipped"].tolist() == [4] * 4 and not metrics["skipped_in_a_row"].any()
    assert changed_names(before, kept_of(state))


def poisoned_from(first: int, value: float):
    """Make every floating entry of the batch `value` from step `first` on."""
    def change(experiment):
        make = experiment.train_step

        def train_step(axis_name=None):
            inner = make(axis_name)

            def poison(x, bad):
                return jnp.where(bad, value, x) if jnp.issubdtype(x.dtype, jnp.floating) else x
            return lambda state, batch: inner(
                state, jax.tree.map(lambda x: poison(x, state.step >= first), batch))
        experiment.train_step = train_step
        return experiment
    return change


def changed_by_poison(name, value) -> list[str]:
    """Train 4 good steps (of every task a whole chunk), then 4 poisoned ones, by programs of 4.

    Return the names that they changed.
    """
    states, overrides = {}, {"dispatch": "scan", "steps_per_dispatch": 4}

    def keep(step, state):
        states[step] = kept_of(state)
    end = run(*config_of(name, **overrides), mesh_of(2), steps=8, change=poisoned_from(4, value),
              each=keep)
    assert end.metrics["skipped"].tolist() == end.metrics["skipped_in_a_row"].tolist() == [
        0, 0, 0, 0, 1, 2, 3, 4]
    return changed_names(states[4], states[8])


# These compile a program each: one task is in the default run.
IN_A_SCAN = [pytest.param(name, value,
                          marks=[pytest.mark.full] * ((name, value) != ("digits", np.inf)))
             for name, value in [*((name, np.nan) for name in TASKS), ("digits", np.inf)]]


@pytest.mark.parametrize("task, value", IN_A_SCAN)
def test_skipped_in_a_scan(task, value):
    """All of a batch may be no number, and the bad steps stand in the middle of a program."""
    assert changed_by_poison(task, value) == []


def test_mutant_no_guard(monkeypatch):
    """Without the check the state is corrupted, and the comparison above reports it."""
    monkeypatch.setattr(step, "all_finite", lambda tree: jnp.bool_(True))
    with pytest.raises(AssertionError):
        assert changed_by_poison("digits", np.nan) == []


TASK = """
import jax.numpy as jnp, numpy as np, optax
import karpjax as kj
from tiny import MLP

def build(config):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    x[13] = np.nan  # one bad example of 64: in every epoch of 4 steps one bad batch
    source = kj.sources.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)}, batch_size=16)
    model = MLP(width=8, layers=1, classes=2)
    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["x"], key)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"nll": kj.mean(nll, batch["weight"])}, {}, model_state
    return kj.Task(model, source, loss, inputs="x")
"""


def config(**values):
    return kj.config(steps=12, log_every=1, eval_every=4, save_every=2,
                     **values), {"path": "bad.py", "text": TASK}


def test_the_run_stops_and_keeps_the_batch(tmp_path):
    settings, task_file = config()
    expected = (r"step \d+: the loss was not finite: x is nan at \(\d+, 0\) in the batch "
                r"\(row 13 of the training data\), 1 time\(s\) in a row; .*nonfinite; mend the "
                "data, .*: no learning rate is to blame")
    with pytest.raises(NotFinite, match=expected):
        loop.fit(settings, tmp_path, task_file=task_file, mesh=mesh_of(2))
    saved, = (tmp_path / "nonfinite").glob("step_*.npz")
    with np.load(saved) as batch:
        assert batch["x"].shape == (16, 4) and np.isnan(batch["x"]).any(1).sum() == 1


def test_the_run_goes_on_where_it_may(tmp_path):
    """With limit 2, single bad steps are skipped and counted, and the saved state is finite."""
    settings, task_file = config(nonfinite_limit=2)
    summary = loop.fit(settings, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert summary["skipped"] == 3  # 12 steps are 3 epochs
    run_ = kj.restore(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run_.params))
    assert checkpoint.find(tmp_path).name == "12"
