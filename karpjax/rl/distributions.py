"""Distributions over actions, made from a policy's outputs; the environment's space says which one.

    p = distributions.of(env.actions, outputs)        # outputs (..., size(env.actions))
    p.sample(key), p.mode(), p.log_prob(action), p.entropy()

Illegal actions have logits of ILLEGAL, which the network sets by `spaces.allowed`. Their
probability is exactly 0, and their logarithms are finite.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.envs.spaces import Box, Discrete, MultiDiscrete


class Categorical(NamedTuple):
    """Distribution over the actions of a Discrete space."""
    logits: Float[Array, "*B A"]

    @staticmethod
    def size(space: Discrete) -> int:
        return space.n

    @classmethod
    def of(cls, space: Discrete, outputs: Float[Array, "*B A"]) -> "Categorical":
        return cls(outputs)

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
    """Independent choices of a MultiDiscrete space; an action is (..., len(parts))."""
    parts: tuple[Categorical, ...]

    @staticmethod
    def size(space: MultiDiscrete) -> int:
        return sum(space.sizes)

    @classmethod
    def of(cls, space: MultiDiscrete, outputs: Float[Array, "*B K"]) -> "MultiCategorical":
        ends = [sum(space.sizes[:i + 1]) for i in range(len(space.sizes) - 1)]
        return cls(tuple(map(Categorical, jnp.split(outputs, ends, axis=-1))))

    def sample(self, key):
        keys = jax.random.split(key, len(self.parts))
        return jnp.stack([p.sample(k) for p, k in zip(self.parts, keys, strict=True)], -1)

    def mode(self):
        return jnp.stack([p.mode() for p in self.parts], -1)

    def log_prob(self, action):
        return sum(p.log_prob(action[..., i]) for i, p in enumerate(self.parts))

    def entropy(self):
        return sum(p.entropy() for p in self.parts)


class Gaussian(NamedTuple):
    """Diagonal normal distribution; an action is (..., D). Environments clip it to their Box."""
    mean: Float[Array, "*B D"]
    log_std: Float[Array, "*B D"]

    @staticmethod
    def size(space: Box) -> int:
        return 2 * len(space.low)

    @classmethod
    def of(cls, space: Box, outputs: Float[Array, "*B K"]) -> "Gaussian":
        low, high = jnp.array(space.low), jnp.array(space.high)
        # A network's outputs are in units of half the range, measured from its middle.
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return cls((low + high) / 2 + (high - low) / 2 * mean, log_std + jnp.log((high - low) / 2))

    def sample(self, key):
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self):
        return self.mean

    def log_prob(self, action):
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(z**2 / 2 + self.log_std + math.log(2 * math.pi) / 2, -1)

    def entropy(self):
        return jnp.sum(self.log_std + (1 + math.log(2 * math.pi)) / 2, -1)


DISTRIBUTIONS = {Discrete: Categorical, MultiDiscrete: MultiCategorical, Box: Gaussian}


def size(space) -> int:
    """Return how many numbers a network must output for one distribution over this space."""
    return DISTRIBUTIONS[type(space)].size(space)


def of(space, outputs: Float[Array, "*B K"]) -> Categorical | MultiCategorical | Gaussian:
    """Return the distribution over a space's actions that a network's outputs describe."""
    return DISTRIBUTIONS[type(space)].of(space, outputs)
