"""Feature pyramids: maps of one width at several strides, made of a backbone's.

The form is FPN (Lin et al. 2017, section 3), with torchvision's levels above the backbone's last.
A backbone of one map, a ViT, gets the simple pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527,
section 3): finer maps by transposed convolutions, coarser ones by strides.

A backbone is a model with `levels`: images -> {stride: (B, H / stride, W / stride, F)}.
"""
from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from karpjax.core.errors import UserError
from karpjax.models.layers.conv import Conv

# He et al. 2015 by the inputs, and with a gain of 1: torchvision's start of a pyramid.
uniform = jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


GROUPS = 32  # of the heads' norms


def check_width(width: int) -> None:
    """Raise a UserError if a head's norms cannot divide its channels."""
    if width % GROUPS:
        raise UserError(f"config.model.width = {width}: expected a multiple of {GROUPS}, the "
                        "groups of the heads' norms")


class OnBackbone(nn.Module):
    """A network on a backbone, which knows of the backbone's parameters what that knows."""
    backbone: nn.Module
    classes: int

    def adapt(self, name: str, stored, shape):
        """Return a stored array of the backbone's in another shape, as it adapts its own, or None.
        """
        own = name.removeprefix("backbone/")
        known = own != name and hasattr(self.backbone, "adapt")
        return self.backbone.adapt(own, stored, shape) if known else None

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        if not hasattr(self.backbone, "layer_of"):
            raise UserError("config.optimizer.layer_decay: expected a backbone with layers, a vit, "
                            f"found {type(self.backbone).__name__}; use lr_scale")
        own = name.removeprefix("backbone/")
        return self.backbone.layer_of(own) if own != name else None


class Pyramid(nn.Module):
    """The network: {stride: (B, h, w, F)} -> [(B, h, w, width)], the finest first.

    strides  of the result, each twice the one before. Those beyond the backbone's are made of the
             one before by a convolution of stride 2
    """
    strides: Sequence[int]
    width: int = 256

    @nn.compact
    def __call__(self, maps: dict[int, Float[Array, "B _ _ _"]]) -> list[Float[Array, "B _ _ W"]]:
        finest = self.strides[0]
        if len(maps) == 1:
            maps = self.from_one(maps)
        if finest not in maps:
            raise UserError(f"config.model.strides: expected to begin with one of the backbone's, "
                            f"{', '.join(map(str, maps))}; found {finest}")
        missing = [s for s in self.strides if s < max(maps) and s not in maps]
        doubled = [finest * 2**i for i in range(len(self.strides))]
        if missing or list(self.strides) != doubled:
            raise UserError(f"config.model.strides = {tuple(self.strides)}: expected each twice "
                            f"the one before, the first of {', '.join(map(str, maps))}; take "
                            f"{tuple(doubled)}")
        levels, x = {}, None
        for stride in reversed([s for s in self.strides if s in maps]):
            inner = convolve(self.width, 1, f"inner{stride}")(maps[stride])       # (B, h, w, W)
            x = inner if x is None else inner + enlarged(x, inner.shape[1:3])
            levels[stride] = convolve(self.width, 3, f"layer{stride}")(x)
        coarsest = max(levels)
        for stride in self.strides:
            if stride > coarsest:
                y = levels[stride // 2]
                y = y if stride // 2 == coarsest else nn.relu(y)
                levels[stride] = convolve(self.width, 3, f"extra{stride}", stride=2)(y)
        return [levels[stride] for stride in self.strides]

    def from_one(self, maps: dict) -> dict:
        """Return maps of the finer strides too, made of the one of a ViT."""
        (stride, x), = maps.items()                                               # (B, h, w, D)
        finer, D = {stride: x}, x.shape[-1]
        while stride > self.strides[0]:
            stride //= 2
            up = nn.ConvTranspose(D // 2, (2, 2), (2, 2), kernel_init=uniform, name=f"up{stride}")
            x = nn.gelu(nn.LayerNorm(name=f"norm{stride}")(up(x)))
            D, finer[stride] = D // 2, x
        return finer


def convolve(width: int, size: int, name: str, stride: int = 1) -> nn.Module:
    """Return a square convolution with a bias, padded to keep the size at stride 1."""
    return Conv(width, (size, size), (stride, stride), padding=size // 2, kernel_init=uniform,
                name=name)


def enlarged(x: Float[Array, "B h w F"], shape: tuple) -> Float[Array, "B H W F"]:
    """Return a map on a finer grid (H, W): each cell takes its nearest, as in PyTorch."""
    (h, w), (H, W) = x.shape[1:3], shape
    if (H, W) == (2 * h, 2 * w):  # a broadcast, where a gather would be slow
        x = jnp.broadcast_to(x[:, :, None, :, None], (x.shape[0], h, 2, w, 2, x.shape[3]))
        return x.reshape(x.shape[0], H, W, -1)
    return x[:, np.arange(H) * h // H][:, :, np.arange(W) * w // W]


def resized(x: Float[Array, "B h w F"], shape: tuple) -> Float[Array, "B H W F"]:
    """Return a map on another grid (H, W), bilinear.

    It equals PyTorch's interpolate with align_corners=False: pixels are areas, and nothing is
    antialiased.
    """
    return jax.image.resize(x, (x.shape[0], *shape, x.shape[3]), "linear", antialias=False)
