"""Environments of other projects behind our protocol, and the error if they are not installed."""
import importlib.util
import sys

from guarantees.harness import mesh_of, run
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.envs.protocol import auto_reset

needs_gymnax = pytest.mark.skipif(importlib.util.find_spec("gymnax") is None,
                                  reason="gymnax is not installed")
needs_brax = pytest.mark.skipif(importlib.util.find_spec("brax") is None,
                                reason="brax is not installed")


@pytest.mark.parametrize("name", ["gymnax", "brax"])
def test_a_missing_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(kj.UserError, match=rf'pip install "karpjax\[{name}\]"'):
        kj.envs.make_env(f"{name}:Whatever-v0")


def test_a_project_that_has_no_adapter():
    with pytest.raises(kj.UserError, match="no environment 'gym:CartPole-v1'"):
        kj.envs.make_env("gym:CartPole-v1")


def played(env, steps: int, copies: int = 4):
    """Return the TimeSteps of `steps` steps of the same action, with automatic resets."""
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), copies))
    action = jnp.zeros((copies, *(() if hasattr(env.actions, "n") else (len(env.actions.low),))),
                       jnp.int32)
    step = jax.jit(jax.vmap(lambda state, action, key: auto_reset(env, state, action, key)))
    outs = []
    for t in range(steps):
        like = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        state, out = step(state, action, jax.random.split(jax.random.key(t), copies))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == like  # a scan needs this
        outs.append(out)
    return outs


@needs_gymnax
def test_gymnax_cartpole_is_ours():
    """Their CartPole and ours, from one state by the same actions, observe and end alike."""
    theirs, ours = kj.envs.make_env("gymnax:CartPole-v1"), kj.envs.make_env("cartpole")
    state, obs = theirs.reset(jax.random.key(0))
    own = {"obs": obs, "time": jnp.int32(0)}
    for t in range(12):
        state, out = theirs.step(state, jnp.int32(1), jax.random.key(t))
        own, expected = ours.step(own, jnp.int32(1), jax.random.key(t))
        np.testing.assert_allclose(out.obs, expected.obs, rtol=1e-5, atol=1e-6)
        assert (out.terminated, out.truncated) == (expected.terminated, expected.truncated)
    assert out.terminated


@needs_gymnax
def test_gymnax_cuts_are_truncations():
    outs = played(kj.envs.make_env("gymnax:Pendulum-v1", max_steps_in_episode=5), 5)
    assert outs[4].truncated.all() and not outs[4].terminated.any() and not outs[3].truncated.any()
    assert not np.allclose(outs[4].obs, outs[4].final_obs)


@needs_gymnax
def test_gymnax_trains():
    config = kj.config(task="ppo", env=dict(name="gymnax:Breakout-MinAtar"), discount=0.99,
                       gae_lambda=0.95, clip=0.2, value_clip=0.0, target_kl=0.0,
                       value_coefficient=0.5, entropy_coefficient=0.01, steps=4,
                       model=dict(name="actor_critic"),
                       data=dict(num_envs=8, num_steps=8, minibatches=2, epochs=2, normalize=(),
                                 eval_episodes=8))
    end = run(config, None, mesh_of(1), steps=4)
    assert np.isfinite(end.metrics["loss"]).all()
    assert end.experiment.task.model.obs_shape == (10, 10, 4)


@needs_gymnax
@pytest.mark.parametrize("options, says",
                         [(dict(name="gymnax:Breakout"), "did you mean 'Breakout-MinAtar'"),
                          (dict(name="gymnax:CartPole-v1", max_step=3), "max_steps_in_episode")])
def test_gymnax_bad_input(options, says):
    with pytest.raises(kj.UserError, match=says):
        kj.envs.make_env(**options)


@needs_brax
def test_brax():
    env = kj.envs.make_env("brax:reacher", max_steps=3)
    outs = played(env, 3)
    assert outs[2].truncated.all() and outs[0].obs.shape == (4, 11)
    assert np.isfinite(outs[2].reward).all()
    with pytest.raises(kj.UserError, match="did you mean 'reacher'"):
        kj.envs.make_env("brax:reachr")
