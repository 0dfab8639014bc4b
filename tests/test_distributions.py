"""Distributions of actions against their formulas, and policies over several kinds of actions."""
from guarantees.harness import mesh_of, run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import config_for, Contextual

import karpjax as kj
from karpjax.envs.spaces import Box, Discrete, MultiDiscrete
from karpjax.rl import distributions
from karpjax.tasks import ppo


def test_distributions_against_the_formulas():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    p = distributions.of(Discrete(3), logits)
    np.testing.assert_allclose(jnp.exp(p.log_prob(jnp.array([0, 1, 2, 0]))),
                               jax.nn.softmax(logits)[np.arange(4), [0, 1, 2, 0]],
                               rtol=1e-5)
    np.testing.assert_allclose(p.entropy(),
                               -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1),
                               rtol=1e-5)
    several = distributions.of(MultiDiscrete((2, 3)), jnp.concatenate([logits[:, :2], logits], -1))
    action = jnp.array([[1, 2]] * 4)
    np.testing.assert_allclose(several.log_prob(action),
                               distributions.of(Discrete(2), logits[:, :2]).log_prob(action[:, 0])
                               + p.log_prob(action[:, 1]), rtol=1e-5)
    assert several.sample(jax.random.key(0)).shape == several.mode().shape == (4, 2)
    box = Box((-2.0, 0.0), (2.0, 1.0))
    g = distributions.of(box, jnp.array([[0.5, 0.0, 0.0, np.log(2.0)]]))  # means, log deviations
    assert g.mode().tolist() == [[1.0, 0.5]]  # in the box's own units
    draws = jax.vmap(g.sample)(jax.random.split(jax.random.key(1), 20_000))[:, 0]
    np.testing.assert_allclose(draws.std(0), [2.0, 1.0], rtol=0.03)

    def density(x, mean, std):
        return np.exp(-((x - mean) / std) ** 2 / 2) / std / np.sqrt(2 * np.pi)
    at = jnp.exp(g.log_prob(jnp.array([[0.3, 0.9]])))
    np.testing.assert_allclose(at, density(0.3, 1, 2) * density(0.9, 0.5, 1), rtol=1e-5)
    np.testing.assert_allclose(g.entropy(), -g.log_prob(draws).mean(), rtol=0.02)


def test_illegal_actions_have_no_probability():
    model = kj.models.make_model(dict(name="actor_critic", width=8), actions=Discrete(4),
                                 obs_shape=(5,))
    legal = jnp.array([[True, False, True, False], [False, False, False, True]])
    obs = {"obs": jnp.ones((2, 5)), "legal": legal}
    params = model.init(jax.random.key(0), obs)["params"]

    def policy(params):
        return distributions.of(Discrete(4), model.apply({"params": params}, obs)[0])

    def entropy(params):
        return policy(params).entropy().sum()
    p = policy(params)
    draws = jax.vmap(p.sample)(jax.random.split(jax.random.key(1), 500))  # (500, 2)
    assert set(draws[:, 0].tolist()) == {0, 2} and set(draws[:, 1].tolist()) == {3}
    assert p.entropy()[1] == 0 and 0 < p.entropy()[0] <= np.log(2) + 1e-6
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(entropy)(params)))


@pytest.mark.full
@pytest.mark.parametrize("options", [
    dict(env=dict(name="grid_nav", masked=True), discount=0.9),
    pytest.param(dict(env=dict(name="reacher"), data=dict(normalize=("obs", "reward"))),
                 marks=pytest.mark.full)], ids=str)
def test_masks_and_boxes_train(options):
    end = run(config_for("ppo", steps=4,
                         data={**dict(minibatches=2, epochs=2), **options.pop("data", {})},
                         **options), None,
              mesh_of(1), steps=4)
    assert np.isfinite(end.metrics["loss"]).all() and (end.metrics["grad_norm"] > 0).all()


class TwoSwitches(Contextual):
    """Two switches, with a reward for each that is set as the observation's sign says."""
    actions = MultiDiscrete((2, 3))

    def step(self, state, action, key):
        _, out = super().step(state, action[0], key)
        wanted = jnp.stack([state["obs"][0] > 0, 2 * (state["obs"][1] > 0)]).astype(jnp.int32)
        return state, out._replace(reward=(action == wanted).sum().astype(jnp.float32))


@pytest.mark.full
def test_several_choices_at_once_are_learned(monkeypatch):
    build = ppo.build
    monkeypatch.setattr(ppo, "build", lambda config: build(config, env=TwoSwitches()))
    config = config_for("ppo", data=dict(num_envs=16, num_steps=16, minibatches=2, epochs=4),
                        steps=800, dispatch="scan", steps_per_dispatch=800,
                        optimizer=dict(name="adam", learning_rate=5e-3))
    returns = run(config, None, mesh_of(1), steps=800).metrics["return"]
    assert returns[-20:].mean() > 1.8 > 1.3 > returns[8:16].mean()
