"""Environments of gymnax (Lange 2022), in JAX.

    config.env = dict(name="gymnax:Breakout-MinAtar")
"""
import jax.numpy as jnp

from karpjax.core.errors import UserError, did_you_mean
from karpjax.envs.foreign_spaces import actions_of, observations_of
from karpjax.envs.protocol import blamed, imported, TimeStep


class Gymnax:
    """Environment of gymnax, with the options of its EnvParams: max_steps_in_episode, ..."""

    def __init__(self, name: str, **options):
        gymnax = imported("gymnax")
        if name not in gymnax.registered_envs:
            raise UserError(f"config.env: gymnax has no environment {name!r}"
                            f"{did_you_mean(name, gymnax.registered_envs)}")
        with blamed(f"config.env: gymnax's {name} cannot be made"):
            self.env, self.params = gymnax.make(name)
        try:
            self.params = self.params.replace(**options)
        except TypeError as error:
            raise UserError(f"config.env: {name} has the options {', '.join(vars(self.params))}, "
                            f"found {list(options)}") from error
        self.max_steps = int(self.params.max_steps_in_episode)
        owner = f"gymnax:{name}"
        with blamed(f"config.env: {owner} failed in its spaces"):
            actions = self.env.action_space(self.params)
            observations = self.env.observation_space(self.params)
        self.actions, self.decode = actions_of(actions, owner)
        _, self.encode = observations_of(observations, owner, self.actions)

    def reset(self, key):
        obs, state = self.env.reset_env(key, self.params)
        return state, self.encode(obs)

    def step(self, state, action, key) -> tuple:
        action = self.decode(action)
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        obs = self.encode(obs)
        truncated = self.env.is_truncated(state, self.params) & ~terminated
        return state, TimeStep(obs, jnp.float32(reward), jnp.bool_(terminated),
                               jnp.bool_(truncated), obs)
