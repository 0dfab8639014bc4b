"""Spaces of actions: a space says how an environment's actions look, and samples one.

The policy's distribution follows from the space (karpjax/rl/distributions.py).
"""
from collections.abc import Mapping
import math
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError

# The logit of an action that is not allowed: probability 0 exactly, and finite logarithms.
ILLEGAL = -1e9


class Discrete(NamedTuple):
    """One of n actions: an int32 scalar in 0 .. n-1."""
    n: int

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), jnp.int32)

    def is_valid(self) -> bool:
        return self.n >= 1

    def sample(self, key):
        return jax.random.randint(key, (), 0, self.n)


class MultiDiscrete(NamedTuple):
    """Several choices at once: (len(sizes),) int32, entry i in 0 .. sizes[i]-1."""
    sizes: tuple[int, ...]

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self.sizes),), jnp.int32)

    def is_valid(self) -> bool:
        return len(self.sizes) > 0 and min(self.sizes) >= 1

    def sample(self, key):
        most = jnp.array(self.sizes)
        return jax.random.randint(key, most.shape, 0, most)


class Box(NamedTuple):
    """Real numbers: (len(low),) float32, entry i in low[i] .. high[i]."""
    # A Gaussian may sample beyond the bounds: environments clip.
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self.low),), jnp.float32)

    def is_valid(self) -> bool:
        bounded = all(math.isfinite(a) and math.isfinite(b) and a < b
                      for a, b in zip(self.low, self.high, strict=False))
        return len(self.low) == len(self.high) > 0 and bounded

    def sample(self, key):
        low, high = jnp.array(self.low), jnp.array(self.high)
        return jax.random.uniform(key, (len(self.low),), minval=low, maxval=high)


def num_choices(space) -> int:
    """Return how many choices a policy over this space weighs, entries of "legal": 0 for a Box."""
    if isinstance(space, Discrete):
        return space.n
    return sum(space.sizes) if isinstance(space, MultiDiscrete) else 0


def clipped(space, action):
    """Return actions (...) of a space, those of a Box within its bounds."""
    if not isinstance(space, Box):
        return action
    return jnp.clip(action, jnp.array(space.low), jnp.array(space.high))


def check_space(space, owner: str) -> None:
    """Check that `owner`'s actions are one of the three spaces, not empty, of finite bounds."""
    try:
        valid = type(space) in (Discrete, MultiDiscrete, Box) and space.is_valid()
    except TypeError:   # a field of another type, as in Box(-1.0, 1.0)
        valid = False
    if not valid:
        raise UserError(f"{owner}.actions: expected Discrete(n), MultiDiscrete((n, ...)) or "
                        "Box((low, ...), (high, ...)) with finite bounds, low below high; found "
                        f"{space!r}{of_another_library(space)}")


def of_another_library(space) -> str:
    module = type(space).__module__
    own = isinstance(space, (Discrete, MultiDiscrete, Box)) or module == "builtins"
    return "" if own else f" of {module}; take that of karpjax.envs.spaces"


def sample_legal(state, obs, key):
    """Return a legal action, all as likely as one another: a player that moves at random."""
    return jax.random.categorical(key, allowed(jnp.zeros(obs["legal"].shape), obs))


def allowed(outputs: Float[Array, "*B A"], obs) -> Float[Array, "*B A"]:
    """Return the outputs, with ILLEGAL in place of those that the observation forbids."""
    return jnp.where(obs["legal"], outputs, ILLEGAL) if isinstance(obs, Mapping) else outputs


def box_of(low, high, shape) -> Box:
    """Return a Box from bounds that broadcast to `shape`, flattened."""
    rows = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape).ravel().tolist()
            for x in (low, high)]
    return Box(*map(tuple, rows))


def sample(space, key):
    """Return space.sample(key), under version 1's name."""
    warnings.warn("spaces.sample(space, key) is space.sample(key) now", DeprecationWarning, 2)
    return space.sample(key)


def example(space) -> jax.ShapeDtypeStruct:
    """Return space.example, under version 1's name."""
    warnings.warn("spaces.example(space) is space.example now", DeprecationWarning, 2)
    return space.example
