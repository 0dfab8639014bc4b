"""ResNets for CIFAR (He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2).

The depth is 6n + 2: three stages of n blocks, 16, 32 and 64 wide. Shortcuts have no parameters
(option A). At the start of a stage they take every second pixel and pad the channels with zeros,
half before and half after. So do the published PyTorch weights (akamaster/pytorch_resnet_cifar10).
Those of ResNet-20 and -56 score 91.73 % and 93.39 % here as there (experiments/published_weights).
The paper has 91.25 % and 93.03 %. To train one: configs/cifar10_resnet.py.
"""
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError
from karpjax.models.layers import Natural
from karpjax.models.layers.conv import Conv
from karpjax.models.resnet import conv, kaiming, norm


class CifarResNet(nn.Module):
    """The network: (B, H, W, C) -> logits (B, classes).

    With features it also returns {"stem", "stage1" to "stage3", "pooled"}.

    depth  20, 32, 44, 56, 110: 0.27, 0.46, 0.66, 0.85, 1.7 million parameters
    """
    classes: Natural           # 0: the backbone alone, whose result is the features
    depth: int = 20

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        if self.depth % 6 != 2 or self.depth < 8:
            raise UserError("config.model.depth: expected 6n + 2, as in 20, 32, 44, 56, 110; "
                            f"found {self.depth}")
        x = Conv(16, (3, 3), padding=1, use_bias=False, kernel_init=kaiming, name="stem")(images)
        x = nn.relu(norm(train, "stem_norm")(x))                                # (B, H, W, 16)
        states = {"stem": x}
        for stage, width in enumerate((16, 32, 64), start=1):
            for i in range(self.depth // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                block = CifarBlock(width, stride, name=f"stage{stage}_block{i}")
                x = block(x, train)                                      # (B, H/s, W/s, width)
            states[f"stage{stage}"] = x
        states["pooled"] = x = x.mean((1, 2))                                   # (B, 64)
        if not self.classes:
            return states
        logits = nn.Dense(self.classes, kernel_init=kaiming, name="head")(x)    # (B, classes)
        return (logits, states) if features else logits

    def levels(self, images: Float[Array, "B H W C"],
               train: bool = False) -> dict[int, Float[Array, "B h w F"]]:
        """Return maps by their strides, the last of each: what a pyramid is built on."""
        states = self(images, train, features=True)
        return {1: states["stage1"], 2: states["stage2"], 4: states["stage3"]}


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        y = nn.relu(norm(train, "norm1")(conv(self.width, 3, self.stride, "conv1")(x)))
        y = norm(train, "norm2")(conv(self.width, 3, 1, "conv2")(y))           # (B, H/s, W/s, F)
        side = (self.width - x.shape[-1]) // 2
        every_second = x[:, ::self.stride, ::self.stride]                      # (B, H/s, W/s, C)
        return nn.relu(y + jnp.pad(every_second, ((0, 0), (0, 0), (0, 0), (side, side))))
