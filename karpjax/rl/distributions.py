"""A policy's outputs as a distribution over actions: which one follows from the environment's space.

    p = distributions.of(env.actions, outputs)        # outputs (..., size(env.actions))
    p.sample(key), p.mode(), p.log_prob(action), p.entropy()

Illegal actions have logits of ILLEGAL (the network sets them, by `allowed`): probability 0 exactly, and finite logarithms.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.envs.spaces import Box, Discrete, MultiDiscrete


def size(space) -> int:
    """How many numbers a network gives for one distribution."""
    return {Discrete: lambda: space.n, MultiDiscrete: lambda: sum(space.sizes), Box: lambda: 2 * len(space.low)}[type(space)]()


def of(space, outputs: Float[Array, "*B K"]):
    if isinstance(space, Discrete):
        return Categorical(outputs)
    if isinstance(space, MultiDiscrete):
        ends = [sum(space.sizes[:i + 1]) for i in range(len(space.sizes) - 1)]
        return MultiCategorical(tuple(map(Categorical, jnp.split(outputs, ends, axis=-1))))
    low, high = jnp.array(space.low), jnp.array(space.high)
    mean, log_std = jnp.split(outputs, 2, axis=-1)           # in units of half the range, from its middle
    return Gaussian((low + high) / 2 + (high - low) / 2 * mean, log_std + jnp.log((high - low) / 2))


class Categorical(NamedTuple):
    logits: Float[Array, "*B A"]

    def sample(self, key) -> Int[Array, "*B"]:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Int[Array, "*B"]:
        return self.logits.argmax(-1)

    def log_prob(self, action: Int[Array, "*B"]) -> Float[Array, "*B"]:
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), action[..., None], -1)[..., 0]

    def entropy(self) -> Float[Array, "*B"]:
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p, -1)


class MultiCategorical(NamedTuple):
    """Independent choices; an action is (..., len(parts))."""
    parts: tuple[Categorical, ...]

    def sample(self, key):
        return jnp.stack([p.sample(k) for p, k in zip(self.parts, jax.random.split(key, len(self.parts)))], -1)

    def mode(self):
        return jnp.stack([p.mode() for p in self.parts], -1)

    def log_prob(self, action):
        return sum(p.log_prob(action[..., i]) for i, p in enumerate(self.parts))

    def entropy(self):
        return sum(p.entropy() for p in self.parts)


class Gaussian(NamedTuple):
    """Diagonal; an action is (..., D). Not clipped: what is beyond the space the environment clips."""
    mean: Float[Array, "*B D"]
    log_std: Float[Array, "*B D"]

    def sample(self, key):
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self):
        return self.mean

    def log_prob(self, action):
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(z**2 / 2 + self.log_std + math.log(2 * math.pi) / 2, -1)

    def entropy(self):
        return jnp.sum(self.log_std + (1 + math.log(2 * math.pi)) / 2, -1)
