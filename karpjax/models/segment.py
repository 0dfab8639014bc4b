"""Semantic segmentation: a class for every pixel, by three heads on a backbone's maps.

    config.model = dict(name="semantic_fpn", backbone=dict(name="efficientnet_lite0"), width=96)
    config.model = dict(name="fcn", backbone=dict(name="resnet", depth=50, dilated=2))
    config.model = dict(name="deeplab", backbone=dict(name="resnet", depth=50, dilated=2))

`SemanticFPN` adds up the levels of a feature pyramid (Kirillov et al. 2019, "Panoptic Feature
Pyramid Networks", section 3.1). `FCN` (Long et al. 2015) and `DeepLab` (Chen et al. 2017,
arXiv:1706.05587, DeepLabV3) are torchvision's fcn_resnet50 and deeplabv3_resnet50, whose published
weights reach 60.5 and 66.4 mIoU on the classes of Pascal VOC in COCO's val2017. All are (B, H, W,
C) -> logits (B, H, W, classes).
"""
from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError
from karpjax.models.layers.conv import Conv
from karpjax.models.pyramid import GROUPS, OnBackbone, Pyramid, check_width, convolve, resized
from karpjax.models.resnet import ResNet, kaiming, norm


class SemanticFPN(OnBackbone):
    """The network on a pyramid: each level is convolved, laid on the finest, and added.

    backbone  a model with `levels` (models/pyramid.py)
    strides   of the levels
    width     of the pyramid and the head
    """
    strides: Sequence[int] = (4, 8, 16, 32)
    width: int = 96

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"],
                 train: bool = False) -> Float[Array, "B H W K"]:
        maps = self.backbone.levels(images, train)
        check_width(self.width)
        levels = Pyramid(self.strides, self.width, name="pyramid")(maps)          # [(B, h, w, F)]
        finest = levels[0].shape[1:3]
        x = 0
        for stride, level in zip(self.strides, levels, strict=True):
            y = convolve(self.width, 3, f"level{stride}")(level)
            y = nn.relu(nn.GroupNorm(GROUPS, epsilon=1e-5, name=f"norm{stride}")(y))
            x = x + resized(y, finest)                                            # (B, h, w, F)
        logits = convolve(self.classes, 1, "head")(x)                             # (B, h, w, K)
        return resized(logits, images.shape[1:3])


class FCN(OnBackbone):
    """The network on the last map: two convolutions.

    backbone   a resnet
    auxiliary  a second head on the map before, as in torchvision's files. Training returns
               (logits, its logits), evaluation too with `both`
    """
    auxiliary: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, both: bool = False):
        return of_maps(self, PlainHead(self.classes, name="head"), images, train, both)


class DeepLab(OnBackbone):
    """The network on the last map, which convolutions of several reaches see at once.

    reaches    dilations of the 3x3 convolutions
    auxiliary  as of FCN
    """
    reaches: Sequence[int] = (12, 24, 36)
    width: int = 256
    auxiliary: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, both: bool = False):
        head = PyramidHead(self.classes, self.reaches, self.width, name="head")
        return of_maps(self, head, images, train, both)


def of_maps(model: FCN | DeepLab, head: nn.Module, images: Float[Array, "B H W C"], train: bool,
            both: bool):
    """Return the logits of a head on the last map, and those of the auxiliary one if asked for."""
    if not isinstance(model.backbone, ResNet):
        raise UserError(f"config.model.backbone: expected a resnet for {type(model).__name__}, "
                        f"found {type(model.backbone).__name__}; config.model.name = "
                        "'semantic_fpn' takes any backbone")
    states = model.backbone(images, train, features=True)
    logits = resized(head(states["stage4"], train), images.shape[1:3])            # (B, H, W, K)
    if not model.auxiliary:
        return logits
    second = PlainHead(model.classes, name="auxiliary_head")(states["stage3"], train)
    return (logits, resized(second, images.shape[1:3])) if train or both else logits


class PlainHead(nn.Module):
    """A 3x3 convolution to a quarter of the width, then a 1x1: (B, h, w, F) -> (B, h, w, K)."""
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"], train: bool) -> Float[Array, "B h w K"]:
        x = normed(x, x.shape[-1] // 4, 3, "conv", train)
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return convolve(self.classes, 1, "logits")(x)


class PyramidHead(nn.Module):
    """DeepLab's: (B, h, w, F) -> (B, h, w, K)."""
    classes: int
    reaches: Sequence[int]
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"], train: bool) -> Float[Array, "B h w K"]:
        parts = [normed(x, self.width, 1, "point", train)]
        parts += [normed(x, self.width, 3, f"reach{i}", train, dilation)
                  for i, dilation in enumerate(self.reaches)]
        whole = normed(x.mean((1, 2), keepdims=True), self.width, 1, "whole", train)
        parts.append(resized(whole, x.shape[1:3]))                                # (B, h, w, F)
        x = normed(jnp.concatenate(parts, axis=-1), self.width, 1, "join", train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = normed(x, self.width, 3, "conv", train)
        return convolve(self.classes, 1, "logits")(x)


def normed(x: Float[Array, "B h w F"], width: int, size: int, name: str, train: bool,
           dilation: int = 1) -> Float[Array, "B h w G"]:
    """Return a convolution without bias, BatchNorm and ReLU."""
    y = Conv(width, (size, size), padding=size // 2 * dilation, kernel_dilation=dilation,
             use_bias=False, kernel_init=kaiming, name=name)(x)
    return nn.relu(norm(train, f"{name}_norm")(y))
