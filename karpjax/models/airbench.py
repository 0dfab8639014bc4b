"""The airbench network (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU").

It reaches 94 % on CIFAR-10 in 8 epochs. The form here is that of airbench94_muon.py in
cifar10-airbench. The recipe and its numbers: configs/cifar10_airbench.py.

Four things in it are uncommon. The first layer has frozen 2x2 filters that whiten patches of the
training images, and only learns a bias. Convolutions start as the identity. Norms have no scale,
and their statistics forget fast. Logits are scaled by 1 / width.
BatchNorm sees the global batch under jit. The original runs on one device, which is the same.
"""
from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from karpjax.core.errors import UserError
from karpjax.models.layers.conv import Conv, max_pool
from karpjax.models.layers.gelu import gelu


class Airbench(nn.Module):
    """The network: (B, H, W, C), H and W at least 25 -> logits (B, classes)."""
    classes: int
    widths: Sequence[int] = (64, 256, 256)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        _, H, W, C = images.shape
        if min(H, W) < 25:  # nothing would be left to pool: logits of 0 / 0
            raise UserError("config.model.name = 'airbench': expected images of at least 25 x 25 "
                            f"pixels, found {H} x {W}")
        filters = 2 * 4 * C                             # each whitening direction, and its negative
        x = Conv(filters, (2, 2), padding="VALID", bias_init=uniform, name="whiten")(images)
        states = {"whiten": x}                                               # (B, H-1, W-1, 8C)
        x = gelu(x)
        for i, width in enumerate(self.widths):
            x = Group(width, name=f"group{i}")(x, train)                     # (B, H/2, W/2, width)
            states[f"group{i}"] = x
        x = max_pool(x, 3)                       # (B, 1, 1, F) for images of 25 to 55 pixels
        states["pooled"] = x = x.reshape(x.shape[0], -1)                     # (B, F)
        head = nn.Dense(self.classes, use_bias=False, kernel_init=unit_std, name="head")
        logits = head(x) / x.shape[-1]                                       # (B, classes)
        return (logits, states) if features else logits

    @staticmethod
    def start(images: Float[np.ndarray, "N H W C"]) -> dict:
        """Return the parameters that preprocessed training images give.

        They are filters that whiten the images' 2x2 patches.
        """
        return {"whiten/kernel": whitening(images)}                          # (2, 2, C, 8C)


class Group(nn.Module):
    """Two convolutions, each with norm and GELU, and a 2x2 max-pool after the first."""
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        def norm(name):
            return nn.BatchNorm(use_running_average=not train, momentum=0.6, epsilon=1e-12,
                                use_scale=False, name=name)

        def conv(name):
            return Conv(self.width, (3, 3), use_bias=False, kernel_init=dirac, name=name)
        x = max_pool(conv("conv0")(x), 2)                                    # (B, H/2, W/2, F)
        x = gelu(norm("norm0")(x))
        return gelu(norm("norm1")(conv("conv1")(x)))


def uniform(key, shape, dtype=jnp.float32):
    """Draw the whitening layer's bias as PyTorch does, within 1 / sqrt(fan in)."""
    bound = (shape[-1] // 2) ** -0.5                                  # 8C filters of 4C inputs
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def dirac(key, shape, dtype=jnp.float32):
    """Draw a kernel whose first outputs pass the inputs through.

    The others start as PyTorch's, uniform within 1 / sqrt(fan in).
    """
    H, W, I, O = shape
    bound = (H * W * I) ** -0.5
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    identity = jnp.eye(I, min(I, O), dtype=dtype)
    same = jnp.zeros((H, W, I, min(I, O)), dtype).at[H // 2, W // 2].set(identity)
    return kernel.at[..., :I].set(same)


def unit_std(key, shape, dtype=jnp.float32):
    """Draw a uniform kernel, scaled to a standard deviation of 1."""
    kernel = jax.random.uniform(key, shape, dtype, -1, 1)
    return kernel / kernel.std()


def whitening(images: Float[np.ndarray, "N H W C"],
              eps: float = 5e-4) -> Float[np.ndarray, "2 2 C F"]:
    """Return filters that whiten 2x2 patches.

    They are the eigenvectors of the patches' covariance, each divided by its standard deviation,
    and their negatives.
    """
    C = images.shape[-1]
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    flat = patches.reshape(-1, 4 * C).astype(np.float64)              # of (N, H-1, W-1, C, 2, 2)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    directions = (vectors / np.sqrt(values + eps)).reshape(C, 2, 2, 4 * C)
    filters = np.concatenate([directions, -directions], axis=-1)
    return filters.transpose(1, 2, 0, 3).astype(np.float32)
