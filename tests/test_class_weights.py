"""config.class_weights of classify: equal to duplicated rows."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.task_file import build_task, load_task_module
from karpjax.core.trees import split_variables

LABELS = np.array([0, 1, 1, 2, 9, 2])
WEIGHTS = [1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]  # no 9 counts
TIMES = [1, 3, 3, 2, 0, 2]


def task_with(**own) -> kj.Task:
    """Return a classifier of the digits whose loss has no statistics across examples."""
    config = kj.config(task="classify", model=dict(name="cnn", width=2), frozen_statistics=True,
                       data=dict(name="digits", train="train[:20]", batch_size=4), **own)
    return build_task(config, load_task_module("classify")[0])


def losses_of(task: kj.Task, batch: dict, key):
    """Return (the loss, its gradient, the accuracy) of a batch at the same parameters."""
    params, model_state = split_variables(task.init(jax.random.key(0)))

    def loss(params):
        losses, metrics, _ = task.loss(params, model_state, batch, key)
        (total, count), (right, rows) = losses["xent"], metrics["accuracy"]
        return total / count, right / rows
    (value, accuracy), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return float(value), gradient, float(accuracy)


def batch_of(rows) -> dict:
    pixels = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    return {"image": jnp.asarray(pixels[rows]), "label": jnp.asarray(LABELS[rows]),
            "weight": jnp.ones(len(rows))}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_are_duplicated_rows(smoothing):
    each, repeated = batch_of(np.arange(6)), batch_of(np.repeat(np.arange(6), TIMES))
    key, weighted = jax.random.key(1), task_with(label_smoothing=smoothing, class_weights=WEIGHTS)
    value, gradient, accuracy = losses_of(weighted, each, key)
    expected, its_gradient, _ = losses_of(task_with(label_smoothing=smoothing), repeated, key)
    assert value == pytest.approx(expected, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient,
                 its_gradient)
    plain, _, its_accuracy = losses_of(task_with(label_smoothing=smoothing), each, key)
    assert abs(plain - expected) > 1e-3 and accuracy == its_accuracy  # the check can fail


def test_a_mixed_example_counts_by_its_shares():
    batch = {**batch_of(np.array([0])), "labels": jnp.array([[0, 1]]),
             "shares": jnp.array([[0.25, 0.75]])}
    task = task_with(class_weights=WEIGHTS)
    variables = split_variables(task.init(jax.random.key(0)))
    losses, _, _ = task.loss(*variables, batch, jax.random.key(1))
    assert float(losses["xent"][1]) == 0.25 * 1 + 0.75 * 3


def test_evaluation_is_plain():
    batch, weighted, plain = batch_of(np.arange(6)), task_with(class_weights=WEIGHTS), task_with()
    assert losses_of(weighted, batch, None)[0] == losses_of(plain, batch, None)[0]


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0] * 9 + [-1.0], [0.0] * 10, ["1"] * 10, 2.0,
                                     [1.0] * 9 + [float("nan")], [1.0] * 9 + [float("inf")],
                                     {"0": 2.0}])
def test_weights_that_are_none(weights):
    with pytest.raises(kj.UserError, match="config.class_weights: expected 10 numbers of at least "
                                           r"0, in the order of 0, 1, .*, 9, or \(\) for none; "
                                           "found .+$"):
        task_with(class_weights=weights)
