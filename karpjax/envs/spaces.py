"""What an environment accepts as an action. The policy's distribution follows from it (karpjax/rl/distributions.py)."""
from collections.abc import Mapping
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError


ILLEGAL = -1e9  # the logit of an action that is not allowed: probability 0 exactly, and finite logarithms


class Discrete(NamedTuple):
    """One of n: an int32 scalar in 0 .. n-1."""
    n: int


class MultiDiscrete(NamedTuple):
    """MultiCategorical choices at once: (len(sizes),) int32, entry i in 0 .. sizes[i]-1."""
    sizes: tuple[int, ...]


class Box(NamedTuple):
    """(len(low),) float32, entry i in low[i] .. high[i]. A Gaussian may sample beyond: environments clip."""
    low: tuple[float, ...]
    high: tuple[float, ...]


def example(space) -> jax.ShapeDtypeStruct:
    """The shape and type of an action."""
    if isinstance(space, Box):
        return jax.ShapeDtypeStruct((len(space.low),), jnp.float32)
    return jax.ShapeDtypeStruct((len(space.sizes),) if isinstance(space, MultiDiscrete) else (), jnp.int32)


def check_space(space, where: str) -> None:
    """A space is one of these three, and not empty or without bounds."""
    good = {Discrete: lambda: space.n >= 1, MultiDiscrete: lambda: len(space.sizes) and min(space.sizes) >= 1,
            Box: lambda: len(space.low) == len(space.high) > 0 and all(
                math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(space.low, space.high))}
    try:
        fits = bool(good[type(space)]())
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(f"{where}.actions: expected Discrete(n), MultiDiscrete((n, ...)) or Box((low, ...), (high, ...)) with "
                        f"finite bounds, low below high; found {space!r}")


def sample(space, key):
    """An action, all as likely as one another."""
    if isinstance(space, Box):
        return jax.random.uniform(key, (len(space.low),), minval=jnp.array(space.low), maxval=jnp.array(space.high))
    most = jnp.array(space.sizes if isinstance(space, MultiDiscrete) else space.n)
    return jax.random.randint(key, most.shape, 0, most)


def sample_legal(state, obs, key):
    """A legal move, all as likely as one another."""
    return jax.random.categorical(key, allowed(jnp.zeros(obs["legal"].shape), obs))


def allowed(outputs: Float[Array, "*B A"], obs) -> Float[Array, "*B A"]:
    """The outputs for an observation, which may say that some actions are not legal."""
    return jnp.where(obs["legal"], outputs, ILLEGAL) if isinstance(obs, Mapping) else outputs


def box_of(low, high, shape) -> Box:
    rows = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape).ravel().tolist() for x in (low, high)]
    return Box(*map(tuple, rows))
