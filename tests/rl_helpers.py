"""Small environments, configs and players that several tests share."""
import importlib.util

from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.envs.protocol import auto_reset, TimeStep
from karpjax.envs.spaces import Discrete
from karpjax.run.experiment import assemble
from karpjax.run.programs import acting_variables

NEEDS_PGX = pytest.mark.skipif(importlib.util.find_spec("pgx") is None
                               or importlib.util.find_spec("mctx") is None,
                               reason="pgx is not installed")
FALSE = jnp.bool_(False)
KEYS = jax.random.split(jax.random.key(0), 32)


# ----------------------------------------------------------------------------------------- policies

class Contextual:
    """A bandit with a context: episodes of one step, whose reward is obs[action]."""
    actions, max_steps = Discrete(3), 1

    def reset(self, key):
        obs = jax.random.normal(key, (4,))
        return {"obs": obs}, obs

    def step(self, state, action, key):
        obs, false = state["obs"], jnp.bool_(False)
        return state, TimeStep(obs, obs[action], ~false, false, obs)


def config_for(task, num_steps=8, num_envs=16, **values):
    """Return a small config of a policy gradient, with changes."""
    own = {"reinforce": dict(baseline=False),
           "a2c": dict(gae_lambda=0.95, value_coefficient=0.5, entropy_coefficient=0.0)}
    own["ppo"] = {**own["a2c"], "clip": 0.2, "value_clip": 0.0, "target_kl": 0.0}
    rollout = dict(num_envs=num_envs, num_steps=num_steps, minibatches=1, epochs=1, normalize=(),
                   eval_episodes=64)
    rollout |= values.pop("data", {})
    return kj.config(**{"task": task, "env": dict(name="cartpole"), "discount": 0.9,
                        "data": rollout, **own[task], "model": dict(name="actor_critic", width=16),
                        **values})


def begun(task, **options):
    """Return (experiment, state, the source's next state, chunk) of the first rollout."""
    exp = assemble(config_for(task, **options), None, mesh_of(1))
    state = exp.fresh_state()

    def begin(state):
        variables = acting_variables(state, precision=exp.config.precision)
        return exp.source.advance({}, state.source, variables)
    return exp, state, *jax.jit(begin)(state)


def trained_params(end):
    """Return the parameters, as a tree, at the end of a run of the guarantees' harness."""
    def stored(path, _):
        return jnp.asarray(end.state["params/" + "/".join(key.key for key in path)])
    return jax.tree.map_with_path(stored, end.experiment.fresh_state().params)


# -------------------------------------------------------------------------------------------- games

def take(n):
    """Return a player who takes n stones, or fewer if fewer are left."""
    def player(state, obs, key):
        return jnp.minimum(n, jnp.maximum(state["left"], 1)) - 1
    return player


def lowest(state, obs, key):
    """Choose the first legal action."""
    return obs["legal"].argmax()


# ------------------------------------------------------------------------------------- environments

def at_random(env):
    return lambda state, obs, key: env.actions.sample(key)


def play(env, policy, steps: int, keys=KEYS, advance=auto_reset):
    """Return the states and TimeSteps of `steps` steps of each environment: leaves (E, T, ...)."""
    def one(key):
        def step(carry, key):
            action_key, step_key = jax.random.split(key)
            state, out = advance(env, carry[0], policy(*carry, action_key), step_key)
            return (state, out.obs), (state, out)
        return jax.lax.scan(step, env.reset(key),
                            jax.random.split(jax.random.fold_in(key, 1), steps))[1]
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def returns(env, policy, seeds: int):
    """Return the return of one episode for each seed: (E,)."""
    _, out = play(env, policy, env.max_steps, jax.vmap(jax.random.key)(jnp.arange(seeds)),
                  advance=type(env).step)
    over = out.terminated | out.truncated
    assert over.any(1).all()
    return (out.reward * (np.cumsum(over, 1) - over == 0)).sum(1)


def equal(actual, expected, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), actual, expected)
