"""Inception-v3 as FID uses it, to compare pictures by its features (Szegedy et al. 2016).

The form is pytorch-fid's, of TensorFlow's network of 2015, whose weights it carries over; the paper
is arXiv:1512.00567 (table 1, figures 5 to 7). It differs from torchvision's in its means, which
leave padding out, in a maximum in the last block, and in its 1,008 classes. Its 2,048 features are
those of pytorch-fid with the same weights (tests/test_inception.py). 23,850,960 parameters, 11
GFLOP a picture. It is not trained here: norms use the statistics that they have.

    logits, features = InceptionV3().apply(variables, prepared(pictures))
    features["pooled"]                                                           # (B, 2048)
"""
from collections.abc import Callable

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from karpjax.models.layers.conv import Conv
from karpjax.models.pyramid import resized

SIDE, CLASSES = 299, 1008
ONE, THREE, FIVE, ACROSS, DOWN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def prepared(pictures: UInt8[Array, "B H W C"]) -> Float[Array, "B 299 299 3"]:
    """Return pictures of 0 to 255 as the network reads them, of -1 to 1, grey ones in 3 channels.

    They are scaled bilinearly without antialiasing, as pytorch-fid does: other scaling, other FID.
    """
    x = resized(pictures.astype(jnp.float32) / 255, (SIDE, SIDE))
    return jnp.broadcast_to(2 * x - 1, (*x.shape[:3], 3))


class InceptionV3(nn.Module):
    """The network: pictures (B, 299, 299, 3) -> logits (B, 1008), {"pooled": (B, 2048)}."""

    @nn.compact
    def __call__(self, images: Float[Array, "B 299 299 3"]):
        x = ConvNorm(32, THREE, 2, "VALID", name="conv1a")(images)            # (B, 149, 149, 32)
        x = ConvNorm(32, THREE, 1, "VALID", name="conv2a")(x)                 # (B, 147, 147, 32)
        x = halved(ConvNorm(64, THREE, name="conv2b")(x))                     # (B, 73, 73, 64)
        x = ConvNorm(80, ONE, name="conv3b")(x)                               # (B, 73, 73, 80)
        x = halved(ConvNorm(192, THREE, 1, "VALID", name="conv4a")(x))        # (B, 35, 35, 192)
        x = A(32, name="mixed5b")(x)                                          # (B, 35, 35, 256)
        x = A(64, name="mixed5c")(x)                                          # (B, 35, 35, 288)
        x = A(64, name="mixed5d")(x)
        x = B(name="mixed6a")(x)                                              # (B, 17, 17, 768)
        x = C(128, name="mixed6b")(x)
        x = C(160, name="mixed6c")(x)
        x = C(160, name="mixed6d")(x)
        x = C(192, name="mixed6e")(x)
        x = D(name="mixed7a")(x)                                              # (B, 8, 8, 1280)
        x = E(mean, name="mixed7b")(x)                                        # (B, 8, 8, 2048)
        x = E(largest, name="mixed7c")(x)
        pooled = x.mean((1, 2))                                               # (B, 2048)
        return nn.Dense(CLASSES, name="head")(pooled), {"pooled": pooled}


class ConvNorm(nn.Module):
    """A convolution, its norm and ReLU."""
    width: int
    size: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        x = Conv(self.width, self.size, (self.stride, self.stride), padding=self.padding,
                 use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="norm")(x))


# -------------------------------------------------------------------------------------- the blocks

class A(nn.Module):
    """Branches of 1x1, of 5x5 and of twice 3x3, and a mean."""
    pool: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        return joined(chain(x, "branch1x1", (64, ONE)),
                      chain(x, "branch5x5", (48, ONE), (64, FIVE)),
                      chain(x, "branch3x3dbl", (64, ONE), (96, THREE), (96, THREE)),
                      chain(mean(x), "branch_pool", (self.pool, ONE)))


class B(nn.Module):
    """A half of the side: branches whose last convolution strides, and a maximum."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        return joined(chain(x, "branch3x3", (384, THREE), halve=True),
                      chain(x, "branch3x3dbl", (64, ONE), (96, THREE), (96, THREE), halve=True),
                      halved(x))


class C(nn.Module):
    """Convolutions of 7x7 as a row and a column."""
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        n = self.width
        return joined(chain(x, "branch1x1", (192, ONE)),
                      chain(x, "branch7x7", (n, ONE), (n, ACROSS), (192, DOWN)),
                      chain(x, "branch7x7dbl", (n, ONE), (n, DOWN), (n, ACROSS), (n, DOWN),
                            (192, ACROSS)),
                      chain(mean(x), "branch_pool", (192, ONE)))


class D(nn.Module):
    """A half of the side, as B, with a row and a column."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        return joined(chain(x, "branch3x3", (192, ONE), (320, THREE), halve=True),
                      chain(x, "branch7x7x3", (192, ONE), (192, ACROSS), (192, DOWN), (192, THREE),
                            halve=True),
                      halved(x))


class E(nn.Module):
    """Branches that end in a row beside a column.

    pool   `mean`, in the last block `largest`
    """
    pool: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        def beside(x, name):
            return joined(ConvNorm(384, (1, 3), name=f"{name}a")(x),
                          ConvNorm(384, (3, 1), name=f"{name}b")(x))
        return joined(chain(x, "branch1x1", (320, ONE)),
                      beside(chain(x, "branch3x3_1", (384, ONE)), "branch3x3_2"),
                      beside(chain(x, "branch3x3dbl", (448, ONE), (384, THREE)), "branch3x3dbl_3"),
                      chain(self.pool(x), "branch_pool", (192, ONE)))


def chain(x: Float[Array, "B H W C"], name: str, *steps: tuple,
          halve: bool = False) -> Float[Array, "B h w F"]:
    """Return x after convolutions (width, size) in turn, numbered if there are several.

    halve   the side in the last one, without padding
    """
    for i, (width, size) in enumerate(steps, start=1):
        last = (2, "VALID") if halve and i == len(steps) else ()
        x = ConvNorm(width, size, *last, name=f"{name}_{i}" if len(steps) > 1 else name)(x)
    return x


def joined(*branches: Float[Array, "B H W _"]) -> Float[Array, "B H W F"]:
    """Return the branches' channels side by side."""
    return jnp.concatenate(branches, axis=-1)


def halved(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Return the largest of each 3x3, at every other place."""
    return nn.max_pool(x, (3, 3), (2, 2))


def largest(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Return the largest of the 3x3 around each place."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def mean(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Return the mean of the 3x3 around each place, at the edge of those that are there."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
