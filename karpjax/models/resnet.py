"""ResNets for ImageNet, 18 to 152 layers deep (He et al. 2016, table 1), in the form known as v1.5: torchvision's.

A bottleneck strides in its 3x3 convolution, not in its first 1x1 (Goyal et al. 2017, "Accurate, Large Minibatch SGD", section
5.1). Padding is symmetric, as in PyTorch: "SAME" would lay a stride of 2 on other pixels. Torchvision's first weights have a
top-1 accuracy of 69.76 (18 layers), 73.31, 76.13 (50), 77.37 and 78.31 % (152) on ImageNet; that the logits here equal those
of torchvision's own code is in tests/test_convert.py.
"""
import functools

from flax import linen as nn
import jax
from jaxtyping import Array, Float

from karpjax.core.errors import UserError
from karpjax.models.layers.conv import Conv

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# He et al. 2015 ("Delving deep into rectifiers"), by the number of outputs: gradients keep their size on the way back.
kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def norm(train: bool, name: str, scale: float = 1.0):
    """BatchNorm with the constants of the published weights; PyTorch's momentum 0.1 is 0.9 here."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5,
                        scale_init=nn.initializers.constant(scale), name=name)


class ResNet(nn.Module):
    """(B, H, W, C) -> logits (B, classes); with features also {"stem", "stage1" to "stage4", "pooled"}.

    depth      18 and 34 of plain blocks; 50, 101, 152 of bottlenecks
    zero_init  blocks start as the identity, the scale of their last norm at 0 (Goyal et al. 2017, section 5.1): steadier with
               large batches. Off, as in torchvision
    """
    classes: int
    depth: int = 50
    zero_init: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, features: bool = False):
        if self.depth not in BLOCKS:
            raise UserError(f"config.model.depth: expected one of {', '.join(map(str, BLOCKS))}; found {self.depth}")
        block = functools.partial(Block if self.depth < 50 else Bottleneck, zero_init=self.zero_init)
        x = Conv(64, (7, 7), (2, 2), padding=3, use_bias=False, kernel_init=kaiming, name="stem")(images)
        x = nn.relu(norm(train, "stem_norm")(x))                                             # (B, H/2, W/2, 64)
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))                                 # (B, H/4, W/4, 64)
        found = {"stem": x}
        for stage, blocks in enumerate(BLOCKS[self.depth], start=1):
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                x = block(64 * 2 ** (stage - 1), stride, name=f"stage{stage}_block{i}")(x, train)
            found[f"stage{stage}"] = x                                                       # (B, H/2^(s+1), W/2^(s+1), F)
        found["pooled"] = x = x.mean((1, 2))                                                 # (B, 512 or 2048)
        logits = nn.Dense(self.classes, name="head")(x)                                      # (B, classes)
        return (logits, found) if features else logits


class Block(nn.Module):
    """Two 3x3 convolutions."""
    width: int
    stride: int
    zero_init: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        y = nn.relu(norm(train, "norm1")(conv(self.width, 3, self.stride, "conv1")(x)))      # (B, H/s, W/s, F)
        y = norm(train, "norm2", scale=1.0 - self.zero_init)(conv(self.width, 3, 1, "conv2")(y))
        return nn.relu(y + shortcut(x, self.width, self.stride, train))


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3, 1x1 to four times that."""
    width: int
    stride: int
    zero_init: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        y = nn.relu(norm(train, "norm1")(conv(self.width, 1, 1, "conv1")(x)))                # (B, H, W, F/4)
        y = nn.relu(norm(train, "norm2")(conv(self.width, 3, self.stride, "conv2")(y)))      # (B, H/s, W/s, F/4)
        y = norm(train, "norm3", scale=1.0 - self.zero_init)(conv(4 * self.width, 1, 1, "conv3")(y))
        return nn.relu(y + shortcut(x, 4 * self.width, self.stride, train))


def conv(width: int, size: int, stride: int, name: str):
    return Conv(width, (size, size), (stride, stride), padding=size // 2, use_bias=False, kernel_init=kaiming, name=name)


def shortcut(x: Float[Array, "B H W C"], width: int, stride: int, train: bool) -> Float[Array, "B h w F"]:
    """x itself, or where the shape changes its projection (option B). Called inside the block, whose names it takes."""
    if x.shape[-1] == width and stride == 1:
        return x
    return norm(train, "shortcut_norm")(conv(width, 1, stride, "shortcut")(x))
