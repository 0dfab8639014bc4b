"""Totals and rows of a split are exact: on 1, 2 and 8 devices and 2 processes, padding or not."""
import json
import os

from flax import linen as nn
from guarantees.forks import Fork
from guarantees.harness import child, children, finished, kept_in, mesh_of, record_of
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import karpjax as kj
from karpjax.core import metric, sharding
from karpjax.core.errors import UserError
from karpjax.core.state import TrainState
from karpjax.launch.local import free_port
from karpjax.run import cli, evaluator
from karpjax.run.evaluator import make_evaluator

N, B, C = 45, 16, 3  # rows of the split, of a batch; classes. 16 does not divide 45


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(C, use_bias=False)(x)


def no_loss(params, model_state, batch, key):
    raise NotImplementedError("these tasks are evaluated only")


def task_of_integers(change=lambda batch: batch):
    """Return a task and variables whose outputs are whole numbers: equal on every mesh."""
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (N, 5)).astype(np.float32)
    columns = {"x": x, "target": rng.integers(-1, C, N).astype(np.int32)}
    source = kj.sources.arrays(columns, batch_size=B, splits={"test": columns})
    batches = source.eval_batches
    source.eval_batches = lambda split: map(change, batches(split))

    def evaluate(variables, batch):
        logits, _ = kj.apply(Linear(), variables["params"], {}, batch["x"])
        # Divided by 3, sums depend on their order; rows of one order do not.
        examples = {"logits": logits / 3, "label": batch["target"]}
        right = (logits.argmax(-1) == batch["target"]).astype(jnp.float32)
        confusion = metric.confusion(batch["target"], logits.argmax(-1), batch["weight"], C)
        return {"accuracy": kj.mean(right, batch["weight"]), "confusion": confusion,
                "examples": kj.rows(examples), "late": kj.rows(batch["x"], at_end=True)}

    def summarize(totals, rows):
        confusion, logits = totals["confusion"], rows["examples"]["logits"]
        f1 = 2 * confusion.diagonal() / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
        covariance = np.cov(logits.astype(np.float64), rowvar=False)
        return {"macro_f1": f1.mean(), "spread": np.trace(covariance), "f1": dict(enumerate(f1))}

    task = kj.Task(Linear(), source, no_loss, evaluate=evaluate, summarize=summarize, inputs="x")
    kernel = rng.integers(-3, 4, (5, C)).astype(np.float32)
    return task, {"params": {"Dense_0": {"kernel": jnp.asarray(kernel)}}}, columns


def measured(mesh, change=lambda batch: batch, at_end=False):
    task, variables, _ = task_of_integers(change)
    variables = sharding.put(variables, sharding.replicated(mesh))
    return make_evaluator(task, mesh).measure(variables, "test", at_end)


def text_of(result) -> str:
    """Return all bits of an evaluation but its means."""
    rows = {name: x.tolist() for name, x in result.rows["examples"].items()}
    exact = {name: result.metrics[name].hex() for name in ("macro_f1", "spread")}
    return json.dumps([exact, result.tables, result.totals["confusion"].tolist(), rows])


# ------------------------------------------------------------------------ devices and processes

@pytest.fixture(scope="module")
def one():
    return measured(mesh_of(1))


def test_against_numpy(one):
    task, variables, columns = task_of_integers()
    logits = columns["x"] @ np.asarray(variables["params"]["Dense_0"]["kernel"])
    known = columns["target"] >= 0
    expected = np.zeros((C, C), np.int64)
    np.add.at(expected, (columns["target"][known], logits.argmax(-1)[known]), 1)
    assert one.totals["confusion"].dtype == np.int64 and 0 < (~known).sum()
    np.testing.assert_array_equal(one.totals["confusion"], expected)
    np.testing.assert_array_equal(one.rows["examples"]["label"], columns["target"])
    np.testing.assert_allclose(one.rows["examples"]["logits"], logits / 3, rtol=1e-6)
    assert one.metrics["accuracy"] == (logits.argmax(-1) == columns["target"]).mean()
    assert list(one.tables) == ["f1"] and "late" not in one.rows and "f1" not in one.metrics
    np.testing.assert_array_equal(measured(mesh_of(2), at_end=True).rows["late"], columns["x"])


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_change_no_bit(devices, one):
    several = measured(mesh_of(devices))
    assert text_of(several) == text_of(one) and several.metrics == one.metrics


def padding_kept(batch):
    return {**batch, "weight": np.ones_like(batch["weight"])}


def test_mutant_padding(one):
    assert text_of(measured(mesh_of(2), padding_kept)) != text_of(one)


def process(argv):
    """Evaluate in one of two processes, and print what `text_of` gives."""
    options = cli.parse(argv, __doc__, coordinator=str, process=0, mutant=0)
    cli.start_jax(2, options.coordinator, 2, options.process)
    if options.mutant:
        mean_over_processes()
    print("measured", text_of(measured(sharding.make_mesh())), flush=True)
    return 0


def mean_over_processes():
    """Break the evaluator: each process summarizes its own rows, then the results are averaged."""
    def own(rows, batch):
        rows = jax.tree.map(lambda x: np.concatenate(
            [np.asarray(shard.data) for shard in x.addressable_shards]), (rows, batch["weight"]))
        rows, real = rows[0], rows[1] > 0
        offset = counted[0]
        counted[0] += real.sum()
        return {**jax.tree.map(lambda x: x[real], rows), "index": offset + np.arange(real.sum())}

    def averaged(task, result):
        summarize(task, result)
        result.metrics = {name: float(np.mean(multihost_utils.process_allgather(np.float32(value))))
                          for name, value in result.metrics.items()}
    counted, summarize = [0], evaluator.summarize
    evaluator.gathered, evaluator.summarize = own, averaged


@pytest.mark.parametrize("mutant", [0, 1])
def test_two_processes(mutant, one):
    coordinator = f"--coordinator=localhost:{free_port()}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    both = [Fork(process, [coordinator, f"--process={i}", f"--mutant={mutant}"], env)
            for i in range(2)]
    texts = [finished(each).rsplit("measured ", 1)[1].splitlines()[0] for each in both]
    assert all((text == text_of(one)) == (not mutant) for text in texts), texts


@pytest.mark.full
def test_best_by_a_metric_of_summarize(tmp_path):
    """Two processes keep the checkpoints that one keeps, chosen by macro-F1."""
    for each in [child("metric", tmp_path / "one", "--devices=1"),
                 *children("metric", tmp_path / "two", 2)]:
        finished(each)
    values = [[row["validation/macro_f1"] for row in record_of(tmp_path / name)[0]
               if "validation/macro_f1" in row] for name in ("one", "two")]
    assert len(values[0]) == 2 and values[0] == values[1]
    assert kept_in(tmp_path / "one") == kept_in(tmp_path / "two")


# ---------------------------------------------------------------------------- exactness, errors

def test_forty_million_additions_are_exact():
    """One cell of 41 batches of a million and one: more than float32 holds, by batch or in all."""
    size, batches = 1_000_001, 41
    zeros = np.zeros(size, np.int8)

    class Many(kj.sources.Source):
        def eval_batches(self, split):
            for _ in range(batches):
                yield {"label": zeros, "weight": np.ones(size, np.float32)}

    def evaluate(variables, batch):
        confusion = metric.confusion(batch["label"], batch["label"], batch["weight"], 2)
        return {"confusion": confusion, "mean": kj.mean(batch["weight"])}
    task = kj.Task(Linear(), Many(), no_loss, evaluate=evaluate)
    cell = make_evaluator(task, mesh_of(1)).measure({"params": {}}, "test").totals["confusion"]
    assert cell.tolist() == [[size * batches, 0], [0, 0]]
    mutant = np.float32(0)
    for _ in range(batches):
        mutant += np.float32(size)
    assert int(mutant) != size * batches


@pytest.mark.parametrize("change,message", [
    (lambda batch: {**batch, "index": np.minimum(batch["index"], 40)}, r"\[40\] more than once"),
    (lambda batch: {**batch, "index": batch["index"] + (batch["index"] > 3)}, r"\[4\] missing"),
    (lambda batch: {name: batch[name] for name in ("x", "target", "weight")}, "with `index`")])
def test_index_must_be_there_once(change, message):
    with pytest.raises(UserError, match=message):
        measured(mesh_of(1), change)


def test_what_is_no_metric():
    with pytest.raises(UserError, match="total: expected integers, found float32"):
        kj.total(jnp.ones(3))
    assert kj.total(jnp.ones(3), tolerance=1e-5).tolerance == 1e-5
    assert kj.total(jnp.ones(3, bool)).array.dtype == jnp.int32
    with pytest.raises(UserError, match="'a' is a float; expected karpjax.mean"):
        evaluator.by_kind({"a": 1.0})
    with pytest.raises(UserError, match="expected a leading axis of 4"):
        evaluator.check_rows({"a": kj.rows(jnp.ones(3))}, 4)
    kept = jax.jit(lambda: {"a": kj.rows(jnp.ones(3), at_end=True), "b": kj.total(jnp.ones(2, int)),
                            "c": kj.mean(jnp.ones(2), floor=2)})()
    assert kept["a"].at_end and kept["b"].tolerance is None and kept["c"][1].floor == 2


def test_summarize_names_and_values():
    result = evaluator.Measured({"a": 1.0}, {}, {}, {})
    for value, message in (({"a": 2.0}, "'a' is a metric of"), ({"b": [1, 2]}, "'b' is a list")):
        task = kj.Task(Linear(), None, no_loss, summarize=lambda totals, rows, v=value: v)
        with pytest.raises(UserError, match=message):
            evaluator.summarize(task, result)


# --------------------------------------------------------------------------- a floor of a count

def floored_loss(floor):
    """Return the loss of a detector: errors of the background, divided by the number of boxes."""
    def loss(params, model_state, batch, key):
        error = params["w"] * batch["x"]
        total, _ = kj.mean(error)
        _, count = kj.mean(error, batch["boxes"], floor=floor)
        return {"background": (total, count)}, {}, model_state
    return loss


def one_step(loss, boxes, accumulate=1, mesh=None):
    step = kj.make_train_step(loss, optax.sgd(1.0), accumulate=accumulate, mesh=mesh)
    state = TrainState.create({"params": {"w": jnp.float32(2.0)}}, optax.sgd(1.0),
                              jax.random.key(0))
    batch = {"x": jnp.arange(16.0), "boxes": jnp.asarray(boxes, jnp.float32)}
    state, metrics = jax.jit(step)(state, batch)
    return float(metrics["background"]), float(state.params["w"])


@pytest.mark.parametrize("accumulate,devices", [(1, 1), (4, 1), (1, 8), (2, 8)])
def test_floor_of_the_global_count(accumulate, devices):
    none, few = np.zeros(16), np.eye(16)[0] * 3
    def step(boxes, floor):
        return one_step(floored_loss(floor), boxes, accumulate, mesh_of(devices))
    assert step(none, 1) == (240.0, 2.0 - 120.0)      # 2 x (0 + ... + 15) / 1
    assert step(few, 1) == (80.0, 2.0 - 40.0)         # / 3: micro-batches without boxes add nothing
    assert step(none, 0) == (0.0, 2.0)                # without a floor an empty batch gives 0


def test_mutant_floor_of_a_micro_batch():
    def mutant(params, model_state, batch, key):
        losses, metrics, model_state = floored_loss(0)(params, model_state, batch, key)
        total, count = losses["background"]
        return {"background": (total, jnp.maximum(count, 1))}, metrics, model_state
    assert one_step(mutant, np.eye(16)[0] * 3, 4)[0] != 80.0
