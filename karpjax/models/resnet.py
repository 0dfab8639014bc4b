"""ResNets for ImageNet, 18 to 152 layers deep (He et al. 2016, table 1), and wide ones.

The form is torchvision's, v1.5. In it a bottleneck strides in its 3x3 convolution, not in its first
1x1 (Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1). Padding is symmetric, as in
PyTorch: "SAME" would lay a stride of 2 on other pixels. Torchvision's first weights have a top-1
accuracy of 69.76 (18 layers), 73.31 (34), 76.13 (50), 77.37 (101) and 78.31 % (152) on ImageNet.
The logits here equal those of torchvision's own code (tests/test_convert.py).

    config.model = dict(name="resnet", depth=50, width_per_group=128)  # wide_resnet50_2: 78.47 %
"""
from flax import linen as nn
import jax
from jaxtyping import Array, Float

from karpjax.core.errors import UserError
from karpjax.models.layers import Natural
from karpjax.models.layers.conv import Conv

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}

# He et al. 2015 ("Delving deep into rectifiers"), by the number of outputs: gradients keep their
# size on the way back.
kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def norm(train: bool, name: str, scale: float = 1.0):
    """Return BatchNorm with the constants of the published weights.

    PyTorch's momentum 0.1 is 0.9 here.
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5,
                        scale_init=nn.initializers.constant(scale), name=name)


class ResNet(nn.Module):
    """The network: (B, H, W, C) -> logits (B, classes).

    With features it also returns {"stem", "stage1" to "stage4", "pooled"}.

    depth            18 and 34 of plain blocks; 50, 101, 152 of bottlenecks
    zero_init        blocks start as the identity, the scale of their last norm at 0 (Goyal et al.
                     2017, section 5.1): steadier with large batches. Off, as in torchvision
    width_per_group  of a bottleneck's inner convolutions in the first stage, torchvision's name;
                     128 in wide ResNets (Zagoruyko & Komodakis 2016), whose outputs are no wider
    dilated          the last stages whose 3x3 convolutions spread in place of a stride (Chen et al.
                     2017, arXiv:1706.05587): with 2 the last maps are of stride 8
    """
    classes: Natural           # 0: the backbone alone, whose result is the features
    depth: int = 50
    zero_init: bool = False
    width_per_group: int = 64
    dilated: Natural = 0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        if self.depth not in BLOCKS:
            raise UserError(f"config.model.depth: expected one of {', '.join(map(str, BLOCKS))}; "
                            f"found {self.depth}")
        if self.depth < 50 and self.width_per_group != 64:
            raise UserError(f"config.model.width_per_group = {self.width_per_group}: expected 64 "
                            f"for depth {self.depth}, whose blocks are plain; use depth 50 or more")
        stem = Conv(64, (7, 7), (2, 2), padding=3, use_bias=False, kernel_init=kaiming, name="stem")
        x = nn.relu(norm(train, "stem_norm")(stem(images)))                   # (B, H/2, W/2, 64)
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))                  # (B, H/4, W/4, 64)
        states = {"stem": x}
        for stage, blocks in enumerate(BLOCKS[self.depth], start=1):
            for i in range(blocks):
                block = self.block(stage, i, f"stage{stage}_block{i}")
                x = block(x, train)                                # (B, H/2^(s+1), W/2^(s+1), F)
            states[f"stage{stage}"] = x
        states["pooled"] = x = x.mean((1, 2))                                 # (B, 512 or 2048)
        if not self.classes:
            return states
        logits = nn.Dense(self.classes, name="head")(x)                       # (B, classes)
        return (logits, states) if features else logits

    def block(self, stage: int, index: int, name: str):
        """Return a block of a stage, 1 to 4."""
        double = 2 ** (stage - 1)
        stride = 2 if stage > 1 and index == 0 else 1
        dilation = 2 ** max(0, stage - 4 + self.dilated)
        if dilation > 1:  # the first block still sees what its neighbours before it did
            stride, dilation = 1, dilation // 2 if index == 0 else dilation
        if self.depth < 50:
            return Block(64 * double, stride, self.zero_init, dilation, name=name)
        return Bottleneck(self.width_per_group * double, stride, self.zero_init, 256 * double,
                          dilation, name=name)

    def levels(self, images: Float[Array, "B H W C"],
               train: bool = False) -> dict[int, Float[Array, "B h w F"]]:
        """Return maps by their strides, the last of each: what a pyramid is built on."""
        states, coarsest = self(images, train, features=True), 2 ** (5 - self.dilated)
        return {min(2 ** (stage + 1), coarsest): states[f"stage{stage}"] for stage in (1, 2, 3, 4)}


class Block(nn.Module):
    """Two 3x3 convolutions."""
    width: int
    stride: int
    zero_init: bool
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        scale = 1.0 - self.zero_init
        y = conv(self.width, 3, self.stride, "conv1", self.dilation)(x)
        y = nn.relu(norm(train, "norm1")(y))                                  # (B, H/s, W/s, F)
        y = norm(train, "norm2", scale)(conv(self.width, 3, 1, "conv2", self.dilation)(y))
        return nn.relu(y + shortcut(x, self.width, self.stride, train))


class Bottleneck(nn.Module):
    """Three convolutions: 1x1 to `width`, 3x3, 1x1 to `outputs`.

    outputs   0: four times the width
    """
    width: int
    stride: int
    zero_init: bool
    outputs: int = 0
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        scale, outputs = 1.0 - self.zero_init, self.outputs or 4 * self.width
        y = nn.relu(norm(train, "norm1")(conv(self.width, 1, 1, "conv1")(x)))  # (B, H, W, width)
        y = conv(self.width, 3, self.stride, "conv2", self.dilation)(y)
        y = nn.relu(norm(train, "norm2")(y))                                  # (B, H/s, W/s, width)
        y = norm(train, "norm3", scale)(conv(outputs, 1, 1, "conv3")(y))
        return nn.relu(y + shortcut(x, outputs, self.stride, train))     # (B, H/s, W/s, F)


def conv(width: int, size: int, stride: int, name: str, dilation: int = 1):
    """Return a square convolution, padded to keep the size at stride 1."""
    return Conv(width, (size, size), (stride, stride), padding=size // 2 * dilation,
                kernel_dilation=dilation, use_bias=False, kernel_init=kaiming, name=name)


def shortcut(x: Float[Array, "B H W C"], width: int, stride: int,
             train: bool) -> Float[Array, "B h w F"]:
    """Return x itself, or its projection if the shape changes (option B).

    The projection's names are those of the block that calls it.
    """
    if x.shape[-1] == width and stride == 1:
        return x
    return norm(train, "shortcut_norm")(conv(width, 1, stride, "shortcut")(x))
