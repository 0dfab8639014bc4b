"""Nim, a game of four moves, and PPO that learns it against itself: the cheapest program that has
all of self-play.
"""
import jax
import jax.numpy as jnp

import karpjax
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete
from karpjax.tasks import ppo


class Nim:
    """A game of 4 stones: each player takes 1 or 2, and whoever takes the last has won.

    Seats are as in Pgx: who begins is drawn. The first player wins by leaving 3.
    """
    players, actions, max_steps = 2, Discrete(2), 4

    def reset(self, key):
        state = {"left": jnp.int32(4), "player": jax.random.bernoulli(key).astype(jnp.int32)}
        return state, self.observe(state)

    def step(self, state, action, key):
        left = state["left"] - action - 1
        state = {"left": left, "player": 1 - state["player"]}
        obs = self.observe(state)
        reward = jnp.where(left < 0, -1.0, jnp.where(left == 0, 1.0, 0.0))
        return state, TimeStep(obs, reward, left <= 0, jnp.bool_(False), obs)

    def observe(self, state):
        return {"obs": jax.nn.one_hot(state["left"], 5),
                "legal": jnp.arange(2) < jnp.maximum(state["left"], 1)}

    def to_move(self, state):
        return state["player"]


def get_config():
    """Return the config of configs/connect_four_ppo.py, but for the game, the network and what the
    guarantees' registry makes tiny."""
    return karpjax.config(
        model=dict(name="actor_critic", width=8), data=dict(pool=dict(random=0.1)),
        discount=1.0, gae_lambda=0.9, clip=0.2, value_clip=0.0, value_coefficient=0.5,
        entropy_coefficient=0.01, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5,
                       learning_rate=dict(name="linear_schedule", end_value=0.0)),
        dispatch="scan", best="max eval/return")


def build(config):
    return ppo.build(config, env=Nim())
