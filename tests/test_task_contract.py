"""Inputs, methods and pictures of a task, and the sources that hand them on."""
import json

from flax import linen as nn
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.core.task import cast_input
from karpjax.run import pictures
from karpjax.run.evaluator import make_evaluator
from karpjax.run.loop import fit
from karpjax.run.restore import Run
from karpjax.sources.first_batch import FirstBatch
from karpjax.sources.source import Source


class Flow(nn.Module):
    """A model of two inputs, x (B, D) and the time t (B,)."""

    @nn.compact
    def __call__(self, x, t, train: bool = False, features: bool = False):
        pooled = nn.Dense(4, dtype=x.dtype)(x) + t[:, None]
        out = nn.Dense(x.shape[-1])(pooled)
        return (out, {"pooled": pooled}) if features else out


def flow(**options):
    """Return a run of a task with two inputs; raw x is stored in tenths."""
    rng = np.random.default_rng(0)
    columns = {"x": rng.integers(0, 10, (20, 3)).astype(np.int32),
               "t": rng.uniform(size=20).astype(np.float32)}
    source = kj.sources.arrays(columns, batch_size=8, splits={"validation": columns},
                               preprocess=lambda batch: {**batch, "x": batch["x"] / 10})
    model = Flow()

    def inputs(batch):
        return {"x": batch["x"], "t": batch["t"]}

    def loss(params, model_state, batch, key):
        out, model_state = kj.apply(model, params, model_state, key=key, **inputs(batch))
        error = ((out - batch["x"]) ** 2).mean(-1)
        return {"error": kj.mean(error, batch["weight"])}, {}, model_state

    task = kj.Task(model, source, loss, inputs=inputs, **options)
    return Run(ConfigDict({"task": ""}), task, task.init(jax.random.key(0)), 0, {}), columns


def test_a_model_of_two_inputs():
    """Its init, predict, features and evaluation share one function of the batch."""
    run, columns = flow()
    raw = {name: column[:5] for name, column in columns.items()}
    expected = run.model.apply(run.variables, raw["x"] / 10, raw["t"])
    np.testing.assert_allclose(run.predict(raw), expected, rtol=1e-5, atol=1e-6)
    assert run.features(raw)["pooled"].shape == (5, 4)
    metrics = make_evaluator(run.task, mesh_of(2))(run.variables, "validation")
    out = np.asarray(run.predict(columns))
    error = float(np.mean((out - columns["x"] / 10) ** 2))
    assert metrics["loss"] == pytest.approx(error, rel=1e-5)


def test_inputs_by_name_take_the_precision_of_the_parameters():
    """The time keeps its digits: one number an example is not cast."""
    run, _ = flow()
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), run.params)
    inputs = {"x": jnp.ones((2, 3)), "t": jnp.ones(2), "label": jnp.ones((2, 2), jnp.int32)}
    cast = {name: cast_input(value, jnp.bfloat16).dtype for name, value in inputs.items()}
    assert cast == {"x": jnp.bfloat16, "t": jnp.float32, "label": jnp.int32}
    out, _ = kj.apply(run.model, params, {}, x=inputs["x"], t=inputs["t"])
    assert out.dtype == jnp.float32


def test_no_predict_and_methods():
    """A run offers what its task has, and nothing else."""
    run, _ = flow(predict="a flow has no single output; use run.sample(x)",
                  methods={"sample": lambda variables, x, scale=1: scale * x + len(variables)})
    assert run.sample(2) == 3 and run.sample(2, scale=5) == 11 and "sample" in dir(run)
    with pytest.raises(UserError, match="run.predict: a flow has no single output; use run.sample"):
        run.predict({})
    with pytest.raises(UserError, match="run.act: this run .* offers predict, features, sample"):
        run.act(np.zeros(1))
    assert not hasattr(run, "generate")
    with pytest.raises(UserError, match="Task.methods: step: expected names"):
        flow(methods={"step": print})


def test_a_policy_of_version_1_acts():
    """Its Task names no methods: it acts by predict, with a warning."""
    run, columns = flow()
    run.task.source.depends_on_policy = True
    with pytest.warns(DeprecationWarning, match="run.act without Task.methods"):
        acted = run.act(columns)
    np.testing.assert_allclose(acted, run.predict(columns), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------- sources

def test_every_attribute_of_a_source_is_declared():
    """Whatever images and text attach has a default, and FirstBatch hands it on."""
    config, _ = config_of("digits")
    source = kj.sources.images(config.data)
    once = FirstBatch(source)
    for name in Source.__annotations__:
        assert getattr(once, name) is getattr(source, name), name
    assert once.class_names == [str(i) for i in range(10)] and Source.encode is None
    own = set(vars(source)) - set(Source.__annotations__)
    assert not {name for name in own if not name.startswith("_")} - {"data", "shapes"}
    np.testing.assert_array_equal(once.rows("test", [3, 1])["label"],
                                  source.data["test"]["label"][[3, 1]])


def test_the_first_batch_again_and_again():
    """Row numbers, order and augmentation are those of the first batch at every step."""
    columns = {"x": np.arange(20, dtype=np.float32)}
    source = kj.sources.arrays(columns, batch_size=8, augment=lambda example, key: {
        **example, "noise": jax.random.uniform(key)})
    state = once_state = source.init(jax.random.key(0))
    once, batches = FirstBatch(source), []
    for _ in range(3):
        once_state, chunk = once.advance(source.arrays, once_state, {})
        batches.append(once.batch(source.arrays, chunk, 0))
    first = source.batch(source.arrays, source.advance(source.arrays, state, {})[1], 0)
    for batch in batches:
        jax.tree.map(np.testing.assert_array_equal, batch, first)


# ------------------------------------------------------------------------------------ pictures

def test_classify_shows_its_mistakes(tmp_path):
    """Two pictures and the accuracy by class of the test split; metrics.jsonl has floats alone."""
    config, task_file = config_of("digits", steps=6, eval_every=3)
    summary = fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    by_class = summary["accuracy_by_class"]
    assert list(by_class) == [str(i) for i in range(10)]
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy_by_class"] == by_class
    assert "by_class" not in (tmp_path / "metrics.jsonl").read_text()
    for name in ("confusion.png", "mistakes.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG", name
    run = kj.restore(tmp_path)
    last = make_evaluator(run.task, mesh_of(1)).measure(run.variables, "test", at_end=True)
    confusion, labels = last.totals["confusion"], run.task.source.data["test"]["label"]
    logits = np.asarray(run.predict(run.task.source.data["test"]["image"]))
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels, minlength=10))
    np.testing.assert_array_equal(confusion.sum(0), np.bincount(logits.argmax(-1), minlength=10))
    assert last.metrics["accuracy"] == pytest.approx(confusion.diagonal().sum() / len(labels))
    figure = run.task.pictures(last.totals, last.rows, "test")["mistakes.png"]
    losses = [float(text.get_text().split("loss ")[1]) for text in figure.axes[0].texts]
    assert losses == sorted(losses, reverse=True) and len(losses) == 24
    assert losses[0] == pytest.approx(last.rows["examples"]["loss"].max(), abs=0.006)


def test_a_matrix_of_many_classes(tmp_path):
    counts = np.eye(300, dtype=np.int64)
    pictures.write(pictures.confusion(counts, [str(i) for i in range(300)], "many"),
                   tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > 1000
