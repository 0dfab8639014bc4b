"""The loop's files and restarts: a workdir's content, changes that a resume allows, and damaged
checkpoints."""
import json
import time

from guarantees.harness import mesh_of, record_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import NotFinite
from karpjax.run import checkpoint, metrics, programs
from karpjax.run.experiment import assemble
from karpjax.run.loop import fit

FILES = {"config.json", "metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "summary.json",
         "model_card.md", "confusion.png", "mistakes.png"}


def test_what_a_workdir_holds(tmp_path):
    rows = []
    config, task_file = config_of("digits")
    summary = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1),
                  on_metrics=lambda step, row: rows.append(row))
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert rows == metrics.read_rows(tmp_path)
    train_rows = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train_rows] == list(range(1, 13))
    assert {"train/loss", "train/accuracy", "train/grad_norm", "learning_rate",
            "time/examples_per_s",
            "time/data_wait"} <= set(train_rows[0])
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [6, 12]
    assert [row["step"] for row in rows if "test/accuracy" in row] == [12]
    assert {"test/accuracy", "validation/loss", "steps", "seconds", "versions", "device",
            "parameters"} <= set(summary)
    assert set(summary["seconds"]) == {"total", "train", "compile", "evaluate"}
    assert summary["flops_per_step"] > 0
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    events = list((tmp_path / "tensorboard").glob("events.*"))
    assert len(events) == 1 and events[0].stat().st_size > 1000


def test_the_logged_learning_rate_waits_for_no_accelerator():
    """It is computed on the host's device, whichever device the program runs on."""
    exp = assemble(*config_of("digits"), mesh_of(1))
    devices = []
    exp.schedule = lambda step: devices.append((jnp.ones(()) * step).devices()) or 0.125
    with jax.default_device(jax.devices()[1]):
        exp.schedule(3)
        assert exp.learning_rate(3) == 0.125
    assert devices == [{jax.devices()[1]}, {jax.devices()[0]}]


def unimplemented(lowered):
    raise NotImplementedError("by this plugin")


@pytest.mark.full
@pytest.mark.parametrize("count", [
    pytest.param(lambda lowered: None, marks=pytest.mark.full), unimplemented])
def test_a_backend_that_counts_no_flops(tmp_path, monkeypatch, count):
    """A run keeps its summary if the backend counts no FLOPs, as CUDA's and TPU's plugins before
    compilation."""
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", count)
    # Micro-batches are counted before compilation.
    config, task_file = config_of("digits", accumulate=2)
    summary = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert "flops_per_step" not in summary and "mfu" not in summary


@pytest.mark.full
def test_flops_of_micro_batches_are_the_batch_s(tmp_path):
    whole, micro = (fit(config_of("digits", accumulate=k)[0], tmp_path / str(k), mesh=mesh_of(1))
                    for k in (1, 2))
    # One is counted before compilation, the other after it: on jax 0.12 they differ by 10 %. One
    # micro-batch would be half.
    assert 0.75 < micro["flops_per_step"] / whole["flops_per_step"] < 1.25


@pytest.mark.full
def test_gradients_of_frozen_parameters_count_no_flops():
    flops = []
    for freeze in ((), ("conv.*",)):
        config, task_file = config_of("digits")
        config.optimizer = {**config.optimizer.to_dict(), "freeze": freeze}
        flops.append(programs.step_flops(assemble(config, task_file, mesh_of(1))))
    assert 0 < flops[1] < 0.75 * flops[0]


def test_newest_and_best_are_kept(tmp_path):
    config, task_file = config_of("poly", steps=12, eval_every=3, keep=1,
                                  best="max validation/accuracy")
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    accuracies = {row["step"]: row["validation/accuracy"] for row in metrics.read_rows(tmp_path)
             if "validation/accuracy" in row}
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    best = checkpoint.find(tmp_path, "best")
    assert 12 in kept and len(kept) <= 2 and accuracies[int(best.name)] == max(accuracies.values())


@pytest.mark.full
def test_every_nth_is_kept_for_good(tmp_path):
    config, task_file = config_of("poly", steps=15, save_every=3, eval_every=15, keep=1,
                                  keep_every=6)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [6, 12, 15]


def test_continued_with_more_steps(tmp_path):
    config, task_file = config_of("poly", steps=6)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    config, task_file = config_of("poly", steps=9)
    summary = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(2))
    assert summary["resumed"] and summary["steps"] == 9
    rows = metrics.read_rows(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "test/loss" in row] == [9]


def test_a_finished_run_started_again_changes_nothing(tmp_path):
    config, task_file = config_of("poly", steps=4)
    first = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    before = record_of(tmp_path)
    again = fit(config_of("poly", steps=4)[0], tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert record_of(tmp_path) == before and again["test/loss"] == first["test/loss"]


@pytest.mark.parametrize("damage", [
    "flipped", *(pytest.param(each, marks=pytest.mark.full)
                 for each in ("missing", "truncated", "meta"))])
def test_damaged_newest_checkpoint(damage, tmp_path, capfd):
    """A run falls back to the checkpoint before, reports it, and ends as if nothing had happened.
    """
    config, task_file = config_of("poly", steps=6, save_every=2)
    fit(config, tmp_path / "whole", task_file=task_file, mesh=mesh_of(1))
    expected = record_of(tmp_path / "whole")
    fit(config_of("poly", steps=6, save_every=2)[0], tmp_path / "hit", task_file=task_file,
        mesh=mesh_of(1))
    newest = tmp_path / "hit" / "checkpoints" / "6"
    if damage == "meta":
        (newest / "meta" / "metadata").write_text("{")
    else:
        data = max((p for p in (newest / "state").rglob("*") if p.is_file()),
                   key=lambda p: p.stat().st_size)
        content = bytearray(data.read_bytes())
        if damage == "truncated":
            data.write_bytes(content[:len(content) // 2])
        elif damage == "flipped":
            content[len(content) // 2] ^= 1
            data.write_bytes(content)
        else:
            data.unlink()
    summary = fit(config_of("poly", steps=6, save_every=2)[0], tmp_path / "hit",
                  task_file=task_file, mesh=mesh_of(1))
    assert "checkpoint 6 is damaged" in capfd.readouterr().out and summary["resumed"]
    assert (tmp_path / "hit" / "damaged" / "6").exists()
    assert record_of(tmp_path / "hit") == expected


@pytest.mark.full
def test_no_checkpoint_is_whole(tmp_path):
    """A run must not start from scratch over the record of the old one."""
    config, task_file = config_of("poly", steps=4)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    before = metrics.read_rows(tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "meta" / "metadata").write_text("{")
    with pytest.raises(kj.UserError, match="none of the checkpoints .* is whole"):
        fit(config_of("poly", steps=4)[0], tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert metrics.read_rows(tmp_path) == before


@pytest.mark.full
def test_init_from_takes_the_statistics_and_the_average(tmp_path):
    """The new run starts from the variables that the old one evaluated last: same validation loss.
    """
    config, task_file = config_of("digits", steps=6)
    old = fit(config, tmp_path / "old", task_file=task_file, mesh=mesh_of(1))
    config, task_file = config_of("digits", steps=2, eval_every=2, init_from=str(tmp_path / "old"),
                                  label_smoothing=0.0)
    config.optimizer = {"name": "sgd", "learning_rate": 0.0}
    config.model.dropout = 0.0
    from karpjax.run.evaluator import make_evaluator
    from karpjax.run.init_from import load_weights
    exp = assemble(config, task_file, mesh_of(1))
    state, _ = load_weights(config.init_from, exp.fresh_state(), exp.task)
    numbers = make_evaluator(exp.task, exp.mesh)(state.eval_variables, "validation")
    assert numbers["loss"] == pytest.approx(old["validation/loss"], rel=1e-6)


def test_fingerprint_sees_any_change():
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]),
            "c": np.int32(3),
            "d": np.arange(4, dtype=np.uint8)}
    whole = checkpoint.fingerprint(tree)
    swapped = {**tree, "a": tree["a"].T.reshape(2, 3)}
    zeros = {**tree, "c": np.int32(2)}
    sign = {**tree, "a": -tree["a"]}  # also 0.0 -> -0.0
    for other, name in ((swapped, "a"), (zeros, "c"), (sign, "a"),
                        ({**tree, "b": np.array([False, True])}, "b"),
                        ({**tree, "d": tree["d"][::-1]}, "d")):
        assert checkpoint.different(whole, checkpoint.fingerprint(other)) == [name]


@pytest.mark.full
def test_input_bound_runs_say_so(tmp_path, capfd, monkeypatch):
    import time

    from karpjax.sources.loader import Loader
    feed = Loader.next_batch
    monkeypatch.setattr(Loader, "next_batch",
                        lambda self, step, seed: (time.sleep(0.2), feed(self, step, seed))[1])
    config, task_file = config_of("digits_host", steps=3, save_every=3)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert "input-bound" in capfd.readouterr().out
    assert max(row["time/data_wait"] for row in metrics.read_rows(tmp_path)
               if "time/data_wait" in row) > 0.3


@pytest.mark.full
def test_host_fed_steps_see_every_batch_under_scan(tmp_path, monkeypatch):
    """Each dispatch takes one batch.

    The default on accelerators must not train on a batch twice.
    """
    from karpjax.sources.loader import Loader
    feed, seen = Loader.next_batch, []
    monkeypatch.setattr(Loader, "next_batch",
                        lambda self, step, seed: (seen.append(step), feed(self, step, seed))[1])
    config, task_file = config_of("digits_host", dispatch="scan", steps=8)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert seen == list(range(8))


@pytest.mark.full
def test_rates_are_of_steps_that_are_done(tmp_path, monkeypatch):
    """No row is much faster than its dispatch.

    Six dispatches of at least 0.05 s are made, two ahead of the fetch.
    """
    run = programs.WholePrograms.run
    def slowly(*arguments):
        out = run(*arguments)
        time.sleep(0.05)  # done by then: the last two are fetched at once
        return out
    monkeypatch.setattr(programs.WholePrograms, "run", slowly)
    config, task_file = config_of("poly", steps=24, steps_per_dispatch=4, dispatch="scan",
                                  log_every=4, eval_every=24,
                               save_every=24)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    rates = [row["time/examples_per_s"] for row in metrics.read_rows(tmp_path)
             if "train/loss" in row]
    assert len(rates) == 6 and max(rates) < 4 * (4 * config.data.batch_size / 0.05), rates


@pytest.mark.full
def test_profile(tmp_path):
    config, task_file = config_of("poly", steps=6, profile_at=2, profile_steps=2)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.full
def test_debug_nans_points_at_the_operation(tmp_path):
    text = ("import jax.numpy as jnp, numpy as np\nimport karpjax as kj\nfrom tiny import MLP\n"
            "def build(config):\n"
            "    source = kj.sources.arrays({'x': np.ones((8, 4), np.float32)}, batch_size=8)\n"
            "    def loss(params, model_state, batch, key):\n"
            "        logs = jnp.log(-batch['x'][:, 0]) * params['head']['bias'][0]\n"
            "        return {'l': kj.mean(logs)}, {}, model_state\n"
            "    return kj.Task(MLP(8, 1, 2), source, loss, inputs='x')\n")
    try:
        with pytest.raises(NotFinite, match="^a training step raised FloatingPointError: .*; mend "
                                            r"t.py:7, in loss: logs = jnp.log\("):
            fit(kj.config(steps=2, debug_nans=True), tmp_path,
                task_file={"path": "t.py", "text": text}, mesh=mesh_of(1))
    finally:
        jax.config.update("jax_debug_nans", False)


@pytest.mark.full
def test_restored_best_and_predictions(tmp_path):
    config, task_file = config_of("digits", steps=12)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    run = kj.restore(tmp_path, which="best")
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert run.predict(images).shape == (3, 10) and run.config.task == "classify"
    assert "validation/accuracy" in run.metrics
    assert jax.tree.structure(run.params) == jax.tree.structure(run.variables["params"])
