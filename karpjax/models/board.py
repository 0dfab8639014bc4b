"""A small residual network with a policy and a value, for board games.

    config.model = dict(name="board", width=32, blocks=2)

After Silver et al. 2017, "Mastering the game of Go without human knowledge", figure 1 of the
methods: 2 blocks of width 32, theirs has 19 of 256. Unlike theirs it has no BatchNorm, as the
output for a position should not depend on the other games of a batch. Instead a block starts as
the identity, its last kernel zero (Zhang et al. 2019, "Fixup").
"""
from flax import linen as nn
import jax.numpy as jnp

from karpjax.envs import spaces
from karpjax.envs.protocol import array_of
from karpjax.models.layers import Natural
from karpjax.models.layers.conv import small_convolution
from karpjax.models.policy import check_pictures, dense
from karpjax.rl import distributions


class Board(nn.Module):
    """Network from boards to (the policy's outputs (..., A), values (...) in -1 to 1).

    Boards are (..., H, W, C), alone or as {"obs", "legal"}.
    """
    actions: tuple             # a space
    obs_shape: tuple           # (H, W, C); axes before these are batch axes
    width: int = 32
    blocks: Natural = 2
    critic: bool = True        # False: no value, values are 0

    @nn.compact
    def __call__(self, obs, train: bool = False):
        check_pictures(self.obs_shape, "config.model.name = 'board': expected boards", train)
        x = array_of(obs)
        batch = x.shape[:x.ndim - 3]
        x = x.reshape(-1, *x.shape[-3:])                                          # (B, H, W, C)
        x = nn.relu(conv(self.width, 3, "stem")(x))                               # (B, H, W, F)
        for i in range(self.blocks):
            y = nn.relu(conv(self.width, 3, f"block{i}_conv1")(x))
            x = nn.relu(x + conv(self.width, 3, f"block{i}_conv2", nn.initializers.zeros)(y))
        planes = nn.relu(conv(max(self.width // 4, 1), 1, "policy_planes")(x)).reshape(len(x), -1)
        outputs = dense(distributions.size(self.actions), 0.01, "policy")(planes)
        outputs = spaces.allowed(outputs.reshape(*batch, -1), obs)
        if not self.critic:
            return outputs, jnp.zeros(batch, x.dtype)
        planes = nn.relu(conv(max(self.width // 4, 1), 1, "value_planes")(x)).reshape(len(x), -1)
        hidden = nn.relu(dense(2 * self.width, 2**0.5, "value_hidden")(planes))
        return outputs, jnp.tanh(dense(1, 0.1, "value")(hidden)).reshape(batch)


def conv(width: int, size: int, name: str, kernel_init=None):
    """Return a convolution of stride 1 that keeps the board's size, orthogonal by default."""
    kernel_init = kernel_init or nn.initializers.orthogonal(2**0.5)
    return nn.Conv(width, (size, size), kernel_init=kernel_init,
                   conv_general_dilated=small_convolution, name=name)
