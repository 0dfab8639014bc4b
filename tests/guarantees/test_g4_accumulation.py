"""G4: k accumulated micro-batches equal one big batch, with unequal weights and several losses.

BatchNorm and dropout are excepted: they see micro-batches, as everywhere. Tasks that need them run
without (`exact` in the registry). Tasks that cannot are not here. A loss over pairs of examples,
which cannot be equal, is refused.
"""
import re

from guarantees.harness import differences, mesh_of, named, reference, run, uneven
from guarantees.over_pairs import OVER_PAIRS, pairs_config
from guarantees.registry import TASKS, config_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.run.experiment import assemble
from karpjax.run.loop import fit
from karpjax.run.whole_batch import check_parts

EXACT = [name for name, entry in TASKS.items() if entry.exact is not None]


@pytest.mark.parametrize("name", EXACT)
def test_accumulated_equals_whole(name):
    """The micro-batches run on two devices, the whole batch on one."""
    whole = reference(name, exact=True)
    parts = run(*config_of(name, exact=True, accumulate=4), mesh_of(2), change=uneven)
    assert differences(parts.metrics, whole.metrics) == []
    assert differences(parts.state, whole.state) == []


def two_losses(params, model_state, batch, key):
    """Return two losses over different counts: squares over every example, absolute values over the
    few that are flagged."""
    y = batch["x"] @ params["w"]                                                      # (B,)
    return ({"square": kj.mean((y - batch["y"]) ** 2, batch["weight"]),
             "absolute": kj.mean(jnp.abs(y), batch["flag"])},
            {"mean": kj.mean(y, batch["flag"])}, model_state)


def two_loss_batch(flags):
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(16, 5)).astype(np.float32),
            "y": rng.normal(size=16).astype(np.float32),
            "weight": rng.integers(0, 4, 16).astype(np.float32),
            "flag": np.asarray(flags, np.float32)}


@pytest.mark.parametrize("flags", [[1, 1, 0, 1] + [0] * 12, [0] * 16], ids=["few", "none"])
def test_two_losses_against_the_formula(flags):
    """Gradients equal autodiff of the formula itself, written without the step.

    A loss whose count is 0 is 0.
    """
    batch, w = two_loss_batch(flags), jnp.arange(5.0) / 5

    def formula(w):
        y = batch["x"] @ w
        square = jnp.sum(batch["weight"] * (y - batch["y"]) ** 2) / batch["weight"].sum()
        return square + jnp.sum(batch["flag"] * jnp.abs(y)) / max(batch["flag"].sum(), 1)

    value, grad = jax.value_and_grad(formula)(w)
    for k in (1, 2, 8):
        # A fresh array each: the optimizer is plain descent of rate 1, so the change is the
        # gradient.
        state = kj.TrainState.create({"params": {"w": w}}, optax.sgd(1.0), jax.random.key(0))
        state, metrics = jax.jit(kj.make_train_step(two_losses, optax.sgd(1.0), accumulate=k))(
            state, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
        np.testing.assert_allclose(w - state.params["w"], grad, rtol=1e-5, atol=1e-6)
        assert np.isnan(metrics["mean"]) == (sum(flags) == 0)


def test_mutant_mean_of_means():
    """A step that divides each micro-batch by its own count is caught by the comparison above."""
    batch, w = two_loss_batch([1, 1, 0, 1] + [0] * 12), jnp.arange(5.0) / 5

    def divides_too_early(params, model_state, batch, key):
        losses, metrics, model_state = two_losses(params, model_state, batch, key)
        means = {n: (t / jnp.maximum(c, 1), jnp.float32(1)) for n, (t, c) in losses.items()}
        return means, metrics, model_state

    def trained(loss, k):
        state = kj.TrainState.create({"params": {"w": w}}, optax.sgd(1.0), jax.random.key(0))
        return named(jax.jit(kj.make_train_step(loss, optax.sgd(1.0), accumulate=k))(
            state, batch)[0])
    assert differences(trained(two_losses, 4), trained(two_losses, 1)) == []
    assert differences(trained(divides_too_early, 4), trained(two_losses, 1)) != []


@pytest.mark.full
def test_counting_costs_nothing():
    """The counting pass before accumulation holds no network: about as many FLOPs as one big batch.
    """
    whole = reference("masked_text", exact=True).flops
    parts = run(*config_of("masked_text", exact=True, accumulate=4), mesh_of(1), steps=1,
                change=uneven).flops
    assert parts < 1.1 * whole


def check(config, task_file, mesh) -> list[str]:
    exp = assemble(config, task_file, mesh)
    return check_parts(exp, exp.fresh_state())


def test_a_loss_over_pairs_is_refused(tmp_path):
    """The run ends before its first step, with the loss of parts together and of each by itself."""
    config, task_file = pairs_config("triplet", "square", accumulate=4)
    expected = ("config.accumulate = 4, config.parallel = 'jit': expected losses that are sums "
                "over examples, found of some parts of a batch together triplet 11.77")
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    assert "of each by itself triplet 8.89" in str(error.value)
    assert "square" not in str(error.value) and "whole_batch=False" in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_a_task_may_have_batches_of_its_own():
    """Nothing is compared if the task says so, nor without parts."""
    assert check(*pairs_config("triplet", accumulate=4, whole_batch=False), mesh_of(1)) == []
    assert check(*pairs_config("triplet"), mesh_of(2)) == []


@pytest.mark.full
@pytest.mark.parametrize("zeros", [False, True])
def test_every_loss_over_pairs_is_refused(zeros):
    """Also by a network whose head starts at zeros, where all examples are equal."""
    config, task_file = pairs_config(*OVER_PAIRS, "square", accumulate=4, zeros=zeros)
    with pytest.raises(UserError) as error:
        check(config, task_file, mesh_of(2))
    assert [name for name in (*OVER_PAIRS, "square") if f"{name} " in str(error.value)] \
        == list(OVER_PAIRS)


def test_metrics_over_pairs_are_reported():
    config, task_file = pairs_config("square", metrics=("spread", "square"), accumulate=2)
    assert check(config, task_file, mesh_of(1)) == [
        "note: config.accumulate = 2, config.parallel = 'jit': metrics over pairs of examples are "
        "of each part by itself: spread_metric"]


def test_a_loss_that_draws_is_not_compared():
    config, task_file = pairs_config("square", accumulate=2, draws=True)
    note, = check(config, task_file, mesh_of(1))
    assert note.endswith("the loss is taken for a sum over examples, unchecked: with key=None it "
                         "raises TypeError: unexpected PRNG key type <class 'NoneType'>")


def test_mutant_batchnorm_and_dropout_are_not_refused():
    """A check with a training key would refuse both. They are excepted."""
    assert check(*config_of("digits", accumulate=4), mesh_of(2)) == []
