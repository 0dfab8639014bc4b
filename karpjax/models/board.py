"""A residual network with a policy and a value, for board games (Silver et al. 2017, "Mastering the game of Go without human
knowledge", figure 1 of the methods), small: 2 blocks of 32 where theirs has 19 of 256.

    config.model = dict(name="board", width=32, blocks=2)

Unlike theirs there is no BatchNorm: what a move is thought of should not depend on the other games of a batch. A block starts
as the identity instead, its last kernel zero (Zhang et al. 2019, "Fixup").
"""
from flax import linen as nn
import jax.numpy as jnp

from karpjax.envs import spaces
from karpjax.envs.protocol import array_of
from karpjax.models.layers.conv import small_convolution
from karpjax.models.policy import dense
from karpjax.rl import distributions


class Board(nn.Module):
    """Boards (..., H, W, C), with {"obs", "legal"} or without -> (the policy's outputs (..., A), values (...) in -1 to 1)."""
    actions: tuple             # a space
    obs_shape: tuple           # (H, W, C); what stands before are batch axes
    width: int = 32
    blocks: int = 2
    critic: bool = True        # False: no value, values are 0

    @nn.compact
    def __call__(self, obs, train: bool = False):
        x = array_of(obs)
        batch = x.shape[:x.ndim - 3]
        x = nn.relu(conv(self.width, 3, "stem")(x.reshape(-1, *x.shape[-3:])))                        # (B, H, W, F)
        for i in range(self.blocks):
            y = nn.relu(conv(self.width, 3, f"block{i}_conv1")(x))
            x = nn.relu(x + conv(self.width, 3, f"block{i}_conv2", nn.initializers.zeros)(y))
        planes = lambda name: nn.relu(conv(max(self.width // 4, 1), 1, name)(x)).reshape(len(x), -1)
        outputs = dense(distributions.size(self.actions), 0.01, "policy")(planes("policy_planes")).reshape(*batch, -1)
        outputs = spaces.allowed(outputs, obs)
        if not self.critic:
            return outputs, jnp.zeros(batch, x.dtype)
        hidden = nn.relu(dense(2 * self.width, 2**0.5, "value_hidden")(planes("value_planes")))
        return outputs, jnp.tanh(dense(1, 0.1, "value")(hidden)).reshape(batch)


def conv(width: int, size: int, name: str, kernel_init=nn.initializers.orthogonal(2**0.5)):
    return nn.Conv(width, (size, size), kernel_init=kernel_init, conv_general_dilated=small_convolution, name=name)
