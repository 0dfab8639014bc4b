"""Policy and value networks of PPO's reference codes, for vectors and images.

    config.model = dict(name="actor_critic", width=64)     # vectors: two layers of tanh
    config.model = dict(name="actor_critic", width=128)    # images (H, W, C): MinAtar's network
                                                           # (Young and Tian 2019)
    config.model = dict(name="actor_critic", torso="atari", width=512)    # Atari's
                                                           # (Mnih et al. 2015)

Weights are initialised as there (Engstrom et al. 2020, "Implementation matters"; Andrychowicz et
al. 2021): orthogonal, the policy's last layer 100 times smaller.
"""
from flax import linen as nn
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_choice
from karpjax.datasets.columns import channels_first
from karpjax.envs import spaces
from karpjax.envs.protocol import array_of
from karpjax.envs.spaces import Box
from karpjax.models.layers.conv import convolution, small_convolution
from karpjax.rl import distributions

# (width, kernel, stride) of each layer.
CONVS = {"conv": [(16, 3, 1)], "atari": [(32, 8, 4), (64, 4, 2), (64, 3, 1)]}
TORSOS = ("", "mlp", "conv", "atari")


class ActorCritic(nn.Module):
    """Network from observations to (the policy's outputs (..., K), values (...)).

    Observations are (..., O) or (..., H, W, C), and K is distributions.size(actions). With
    {"obs": ..., "legal": (..., A) bool} illegal actions get the probability 0.
    """
    actions: tuple             # a space
    obs_shape: tuple           # (O,) or (H, W, C); axes before these are batch axes
    torso: str = ""            # "mlp" (images are flattened), "conv" or "atari"; "": by the shape
    width: int = 64
    shared: bool = False       # one torso for policy and value
    critic: bool = True        # False: no value network, values are 0

    @nn.compact
    def __call__(self, obs, train: bool = False):
        check_choice(self.torso, TORSOS, "config.model.torso")
        given = obs
        obs = array_of(given)
        if obs.dtype == jnp.uint8:
            obs = obs / 255
        kind = self.torso or ("conv" if len(self.obs_shape) == 3 else "mlp")
        if kind != "mlp":
            # Of 4 rows or fewer Atari's layers leave nothing, in no run.
            check_pictures(self.obs_shape, f"config.model.torso = {kind!r}: expected images",
                           train or kind == "atari")
        else:
            obs = obs.reshape(*obs.shape[:obs.ndim - len(self.obs_shape)], -1)         # (..., O)
        name = "torso" if self.shared else "policy_torso"
        x = Torso(kind, self.width, name=name)(obs)                                    # (..., D)
        size = distributions.size(self.actions)
        if isinstance(self.actions, Box):
            # The deviation does not depend on the observation.
            means = dense(size // 2, 0.01, "policy")(x)
            log_std = self.param("log_std", nn.initializers.zeros, (size // 2,)).astype(x.dtype)
            outputs = jnp.concatenate([means, jnp.broadcast_to(log_std, means.shape)], -1)
        else:
            outputs = dense(size, 0.01, "policy")(x)
        outputs = spaces.allowed(outputs, given)
        if not self.critic:
            return outputs, jnp.zeros(x.shape[:-1], x.dtype)
        y = x if self.shared else Torso(kind, self.width, name="value_torso")(obs)
        return outputs, dense(1, 1.0, "value")(y)[..., 0]


class Torso(nn.Module):
    """Layers from an observation to features (..., width)."""
    kind: str
    width: int

    @nn.compact
    def __call__(self, x):
        if self.kind == "mlp":
            for i in range(2):
                x = nn.tanh(dense(self.width, 2**0.5, f"hidden{i}")(x))
            return x
        convolve = small_convolution if self.kind == "conv" else convolution
        for i, (width, size, stride) in enumerate(CONVS[self.kind]):
            layer = nn.Conv(width, (size, size), (stride, stride), padding="VALID",
                            conv_general_dilated=convolve,
                            kernel_init=nn.initializers.orthogonal(2**0.5), name=f"conv{i}")
            x = nn.relu(layer(x))
        return nn.relu(dense(self.width, 2**0.5, "hidden")(x.reshape(*x.shape[:-3], -1)))


def check_pictures(shape: tuple, expected: str, train: bool) -> None:
    """Raise a UserError unless a network that convolves is given observations (H, W, C)."""
    if len(shape) != 3:
        raise UserError(f"{expected} (H, W, C), found observations {shape}")
    if train and channels_first(shape):  # only here: a run that has learned so still restores
        raise UserError(f"{expected} (H, W, C), found observations {shape}, which have the "
                        "channels first; move them to the end (Gymnasium's: by "
                        "gymnasium.wrappers.TransformObservation)")


def dense(width: int, gain: float, name: str) -> nn.Dense:
    """Return a dense layer with orthogonal weights times `gain`."""
    return nn.Dense(width, kernel_init=nn.initializers.orthogonal(gain), name=name)
