"""Environments of gymnax (Lange 2022), in JAX.

    config.env = dict(name="gymnax:Breakout-MinAtar")
"""
import jax.numpy as jnp

from karpjax.core.errors import UserError, did_you_mean, extra
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box, Discrete, box_of


class Gymnax:
    """Environment of gymnax; options are those of its EnvParams: max_steps_in_episode, ..."""

    def __init__(self, name: str, **options):
        gymnax = extra("gymnax")
        if name not in gymnax.registered_envs:
            raise UserError(f"config.env: gymnax has no environment {name!r}"
                            f"{did_you_mean(name, gymnax.registered_envs)}")
        self.env, self.params = gymnax.make(name)
        try:
            self.params = self.params.replace(**options)
        except TypeError as error:
            raise UserError(f"config.env: {name} has the options {', '.join(vars(self.params))}, "
                            f"found {list(options)}") from error
        self.max_steps = int(self.params.max_steps_in_episode)
        space = self.env.action_space(self.params)
        self.actions = (Discrete(int(space.n)) if hasattr(space, "n")
                        else box_of(space.low, space.high, space.shape))

    def reset(self, key):
        obs, state = self.env.reset_env(key, self.params)
        return state, obs.astype(jnp.float32)

    def step(self, state, action, key) -> tuple:
        if isinstance(self.actions, Box):
            action = jnp.clip(action, jnp.array(self.actions.low), jnp.array(self.actions.high))
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        obs = obs.astype(jnp.float32)
        truncated = self.env.is_truncated(state, self.params) & ~terminated
        return state, TimeStep(obs, jnp.float32(reward), jnp.bool_(terminated),
                               jnp.bool_(truncated), obs)
