"""Value propagation (after Nardelli et al. 2019, "Value Propagation Networks", section 3): a network that plans on a map.

It is value iteration on a grid of which all is written down but what a cell means: what it pays to enter it, what it costs to
leave it, and how much of a neighbour's value it takes over. That is read off each cell alone, so few maps teach it, and what
is learned holds on maps of any size. Ways lead up, down, left and right; the paper's diagonals are left out.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.models.conv import larger


class ValuePropagation(nn.Module):
    """Maps (..., H, W, C) -> (..., 5): the value of where the agent stands, and what its ways up, down, left and right are worth."""
    sweeps: int         # how many steps the plan looks ahead
    agent: int          # the channel that is 1 where the agent stands, else 0
    width: int = 16     # of the layer that reads a cell

    @nn.compact
    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B 5"]:
        cell = nn.relu(nn.Dense(self.width, name="cell")(x))
        reading = nn.Dense(3, name="reading")(cell)                                            # (..., H, W, 3)
        # Cells first: a sweep moves whole maps then, which CPUs do several at a time.
        enter, leave, passes = jnp.moveaxis(reading, (-1, -3, -2), (0, 1, 2))                  # (H, W, ...) each
        enter, passes = neighbours(enter), nn.sigmoid(passes)
        ways = lambda value: [passes * v + into - leave for v, into in zip(neighbours(value), enter)]
        # A loop: where sweeps are written out, XLA's fusion computes neighbours anew, four times as many in each.
        sweep = lambda value, _: (functools.reduce(larger, ways(value)), None)
        value, _ = lax.scan(sweep, jnp.zeros_like(leave), length=self.sweeps)
        worth = jnp.stack([value, *ways(value)])                                               # (5, H, W, ...)
        here = jnp.moveaxis(x[..., self.agent], (-2, -1), (0, 1))
        return jnp.moveaxis((worth * here).sum((1, 2)), 0, -1)


def neighbours(x: Float[Array, "H W *B"]) -> list[Float[Array, "H W *B"]]:
    """Of every cell what lies above, below, left and right of it; beyond the edge lies the cell itself."""
    H, W = x.shape[:2]
    wide = jnp.pad(x, [(1, 1), (1, 1)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    return [wide[1 + i:1 + i + H, 1 + j:1 + j + W] for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
