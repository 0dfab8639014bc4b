"""Environments of other projects, in JAX, by the protocol of karpjax/envs/protocol.py.

    config.env = dict(name="gymnax:Breakout-MinAtar")            Lange 2022; pip install "karpjax[gymnax]"
    config.env = dict(name="brax:reacher", max_steps=1000)       Freeman et al. 2021; pip install "karpjax[brax]"

Brax's environments run on its "spring" backend unless `backend` says otherwise.
"""
import importlib

import jax
import jax.numpy as jnp

from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box, Discrete
from karpjax.errors import UserError, check_keys, did_you_mean


class Gymnax:
    """options   of gymnax's EnvParams: max_steps_in_episode, ..."""

    def __init__(self, name: str, **options):
        gymnax = extra("gymnax")
        if name not in gymnax.registered_envs:
            raise UserError(f"config.env: gymnax has no environment {name!r}{did_you_mean(name, gymnax.registered_envs)}")
        self.env, self.params = gymnax.make(name)
        try:
            self.params = self.params.replace(**options)
        except TypeError as error:
            raise UserError(f"config.env: {name} has the options {', '.join(vars(self.params))}, "
                            f"found {list(options)}") from error
        self.max_steps = int(self.params.max_steps_in_episode)
        space = self.env.action_space(self.params)
        self.actions = Discrete(int(space.n)) if hasattr(space, "n") else box(space.low, space.high, space.shape)

    def reset(self, key):
        obs, state = self.env.reset_env(key, self.params)
        return state, obs.astype(jnp.float32)

    def step(self, state, action, key) -> tuple:
        if isinstance(self.actions, Box):
            action = jnp.clip(action, jnp.array(self.actions.low), jnp.array(self.actions.high))
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        obs, truncated = obs.astype(jnp.float32), self.env.is_truncated(state, self.params) & ~terminated
        return state, TimeStep(obs, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated), obs)


class Brax:
    """max_steps   where an episode is cut; 1,000 in Brax's own wrappers"""

    def __init__(self, name: str, **options):
        envs = extra("brax.envs")
        if name not in envs._envs:
            raise UserError(f"config.env: brax has no environment {name!r}{did_you_mean(name, envs._envs)}")
        check_keys(options, ("backend", "max_steps"), "config.env")
        backend, self.max_steps = options.get("backend", "spring"), options.get("max_steps", 1000)
        try:
            self.env = envs.get_environment(name, backend=backend)
        except (ValueError, AssertionError) as error:
            raise UserError(f"config.env: brax has no {name} on the backend {backend!r}: {error}; try "
                            "backend='generalized'") from error
        self.actions = Box((-1.0,) * self.env.action_size, (1.0,) * self.env.action_size)

    def reset(self, key):
        inner = self.env.reset(key)
        return {"brax": inner, "time": jnp.int32(0)}, inner.obs

    def step(self, state, action, key) -> tuple:
        inner, time = self.env.step(state["brax"], jnp.clip(action, -1, 1)), state["time"] + 1
        terminated = inner.done > 0
        return {"brax": inner, "time": time}, TimeStep(inner.obs, inner.reward, terminated,
                                                       (time >= self.max_steps) & ~terminated, inner.obs)


def extra(module: str, name: str = ""):
    """The module, or a line that says which extra brings it; by default that of its name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = name or module.split(".")[0]
        raise UserError(f"config.env: {name} is not here ({error}); pip install \"karpjax[{name}]\"") from error


def box(low, high, shape) -> Box:
    rows = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape).ravel().tolist() for x in (low, high)]
    return Box(*map(tuple, rows))
