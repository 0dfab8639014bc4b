"""Value propagation (after Nardelli et al. 2019, "Value Propagation Networks", section 3): a policy that plans on a map.

It is value iteration on a grid of which all is written down but what a cell means: what it pays to enter it, what it costs to
leave it, and how much of a neighbour's value it takes over. That is read off each cell alone, so few maps teach it, and what
is learned holds on maps of any size. `config.model = dict(name="value_propagation", sweeps=24, agent=1)` for actions that lead
up, down, left and right, in this order (grid_nav's); the paper's diagonals are left out.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError
from karpjax.envs import spaces
from karpjax.envs.protocol import array_of
from karpjax.envs.spaces import Discrete
from karpjax.models.layers.conv import larger


class ValuePropagation(nn.Module):
    """Maps (..., H, W, C), with {"obs", "legal"} or without -> (logits (..., 4): what the ways are worth, values (...))."""
    actions: tuple             # a space
    obs_shape: tuple           # (H, W, C); what stands before are batch axes
    agent: int                 # the channel that is 1 where the agent stands, else 0
    sweeps: int = 24           # how many steps a plan looks ahead
    width: int = 16            # of the layer that reads a cell
    critic: bool = True        # False: no value, values are 0

    @nn.compact
    def __call__(self, obs, train: bool = False):
        if self.actions != Discrete(4) or len(self.obs_shape) != 3:
            raise UserError("config.model.name = 'value_propagation' expects maps (H, W, C) and the actions up, down, left, "
                            f"right, found observations {self.obs_shape} and {self.actions}")
        x = array_of(obs)
        cell = nn.relu(nn.Dense(self.width, name="cell")(x))
        # Small, and open as a forget gate is: values are near 0 at first, and far ones are heard of.
        small, start = nn.initializers.normal(0.1 * self.width**-0.5), lambda key, shape, dtype: jnp.array([0, 0, 3], dtype)
        reading = nn.Dense(3, kernel_init=small, bias_init=start, name="reading")(cell)        # (..., H, W, 3)
        # Cells first: a sweep moves whole maps then, which CPUs do several at a time.
        enter, leave, passes = jnp.moveaxis(reading, (-1, -3, -2), (0, 1, 2))                  # (H, W, ...) each
        enter, passes = neighbours(enter), nn.sigmoid(passes)
        ways = lambda value: [passes * v + into - leave for v, into in zip(neighbours(value), enter)]
        # A loop: where sweeps are written out, XLA's fusion computes neighbours anew, four times as many in each.
        sweep = lambda value, _: (functools.reduce(larger, ways(value)), None)
        value, _ = lax.scan(sweep, jnp.zeros_like(leave), length=self.sweeps)
        here = jnp.moveaxis(x[..., self.agent], (-2, -1), (0, 1))
        worth = jnp.moveaxis((jnp.stack(ways(value)) * here).sum((1, 2)), 0, -1)               # (..., 4)
        sharpness = self.param("sharpness", nn.initializers.ones, ()).astype(worth.dtype)
        outputs = spaces.allowed(worth * sharpness, obs)
        if not self.critic:
            return outputs, jnp.zeros(outputs.shape[:-1], outputs.dtype)
        best = worth.max(-1, keepdims=True)
        return outputs, nn.Dense(1, kernel_init=nn.initializers.constant(0.1), name="value")(best)[..., 0]


def neighbours(x: Float[Array, "H W *B"]) -> list[Float[Array, "H W *B"]]:
    """Of every cell what lies above, below, left and right of it; beyond the edge lies the cell itself."""
    H, W = x.shape[:2]
    wide = jnp.pad(x, [(1, 1), (1, 1)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    return [wide[1 + i:1 + i + H, 1 + j:1 + j + W] for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
