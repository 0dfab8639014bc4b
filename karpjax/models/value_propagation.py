"""A policy that plans on a map: value propagation (Nardelli et al. 2019, section 3).

    config.model = dict(name="value_propagation", sweeps=24, agent=1)

After "Value Propagation Networks". The network is value iteration on a grid. Three numbers of each
cell are learned: what it pays to enter it, what it costs to leave it, and how much of a
neighbour's value it takes over. They are computed from each cell alone, so few maps teach it, and
the result holds on maps of any size. Actions lead up, down, left and right, in this order
(grid_nav's). The paper's diagonals are left out.
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
from karpjax.models.layers import Natural
from karpjax.models.layers.conv import larger
from karpjax.models.policy import check_pictures


class ValuePropagation(nn.Module):
    """Network from maps to (logits (..., 4), one for each move, values (...)).

    Maps are (..., H, W, C), alone or as {"obs", "legal"}.
    """
    actions: tuple             # a space
    obs_shape: tuple           # (H, W, C); axes before these are batch axes
    agent: Natural             # the channel that is 1 where the agent stands, else 0
    sweeps: Natural = 24       # number of steps that a plan looks ahead
    width: int = 16            # of the layer that reads a cell
    critic: bool = True        # False: no value, values are 0

    @nn.compact
    def __call__(self, obs, train: bool = False):
        if self.actions != Discrete(4) or len(self.obs_shape) != 3:
            raise UserError("config.model.name = 'value_propagation' expects maps (H, W, C) and "
                            "the actions up, down, left, right, found observations "
                            f"{self.obs_shape} and {self.actions}")
        check_pictures(self.obs_shape, "config.model.name = 'value_propagation': expected maps",
                       train)
        if not 0 <= self.agent < self.obs_shape[-1]:  # XLA would read the last channel instead
            raise UserError("config.model.agent: expected a channel of the maps, 0 to "
                            f"{self.obs_shape[-1] - 1}, found {self.agent}")
        x = array_of(obs)
        cell = nn.relu(nn.Dense(self.width, name="cell")(x))
        # Small, so values are near 0 at first; open as a forget gate is, so distant ones arrive.
        small = nn.initializers.normal(0.1 * self.width**-0.5)
        reading = nn.Dense(3, kernel_init=small, bias_init=open_gate, name="reading")(cell)
        # Cells first: a sweep moves whole maps then, which CPUs do several at a time.
        enter, leave, passes = jnp.moveaxis(reading, (-1, -3, -2), (0, 1, 2))          # (H, W, ...)
        enter = neighbours(enter)
        passes = nn.sigmoid(passes)

        def moves(value):  # four of (H, W, ...): the value of each move from each cell
            return [passes * v + into - leave
                    for v, into in zip(neighbours(value), enter, strict=True)]

        def sweep(value, _):
            return functools.reduce(larger, moves(value)), None

        # A loop: if sweeps were written out, XLA's fusion would compute neighbours again, four
        # times as many in each.
        value, _ = lax.scan(sweep, jnp.zeros_like(leave), length=self.sweeps)
        here = jnp.moveaxis(x[..., self.agent], (-2, -1), (0, 1))
        worth = (jnp.stack(moves(value)) * here).sum((1, 2))
        worth = jnp.moveaxis(worth, 0, -1)                                             # (..., 4)
        sharpness = self.param("sharpness", nn.initializers.ones, ()).astype(worth.dtype)
        outputs = spaces.allowed(worth * sharpness, obs)
        if not self.critic:
            return outputs, jnp.zeros(outputs.shape[:-1], outputs.dtype)
        best = worth.max(-1, keepdims=True)
        value = nn.Dense(1, kernel_init=nn.initializers.constant(0.1), name="value")(best)
        return outputs, value[..., 0]


def open_gate(key, shape, dtype):
    """Initialise the biases of (enter, leave, passes): the last so that its sigmoid is 0.95."""
    return jnp.array([0, 0, 3], dtype)


def neighbours(x: Float[Array, "H W *B"]) -> list[Float[Array, "H W *B"]]:
    """Return each cell's neighbours above, below, left and right, at the edge the cell itself."""
    H, W = x.shape[:2]
    wide = jnp.pad(x, [(1, 1), (1, 1)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    return [wide[1 + i:1 + i + H, 1 + j:1 + j + W] for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
