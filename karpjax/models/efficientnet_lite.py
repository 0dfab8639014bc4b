"""EfficientNet-Lite0 (Google 2020, tensorflow/tpu, models/official/efficientnet/lite).

It is EfficientNet-B0 (Tan and Le 2019, table 1) for edge devices, without squeeze-and-excitation
and with ReLU6 in place of swish. With 1,000 classes it has 4,652,008 parameters. The published
weights have a top-1 accuracy of 75.1 % on ImageNet, from images of 224 x 224 pixels, normalised as
(image - 127) / 128. With them the logits here equal those of an independent implementation
(tests/test_convert.py). Padding is TensorFlow's "SAME", as the weights were trained.
"""
from flax import linen as nn
from jaxtyping import Array, Float

from karpjax.models.layers import Natural
from karpjax.models.layers.conv import Conv
from karpjax.models.resnet import kaiming

# (blocks, kernel, stride of the first, expansion, width), a stage a row
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
          (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


class EfficientNetLite0(nn.Module):
    """The network: (B, H, W, C) -> logits (B, classes).

    With features it also returns {"stem", "stage1" to "stage7", "pooled"}.

    drop_connect  chance in training that an example skips the last block; less for earlier blocks,
                  in proportion to their depth (Huang et al. 2016, "Stochastic depth")
    """
    classes: Natural           # 0: the backbone alone, whose result is the features of the stages
    dropout: float = 0.2
    drop_connect: float = 0.2

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        x = Conv(32, (3, 3), (2, 2), use_bias=False, kernel_init=kaiming, name="stem")(images)
        x = nn.relu6(norm(train, "stem_norm")(x))                                # (B, H/2, W/2, 32)
        states = {"stem": x}
        blocks = sum(stage[0] for stage in STAGES)
        index = 0
        for stage, (repeats, kernel, stride, expansion, width) in enumerate(STAGES, start=1):
            for i in range(repeats):
                block = MBConv(kernel, stride if i == 0 else 1, expansion, width,
                               self.drop_connect * index / blocks, name=f"block{index}")
                x = block(x, train)                                           # (B, H/s, W/s, width)
                index += 1
            states[f"stage{stage}"] = x
        if not self.classes:
            return states
        x = Conv(1280, (1, 1), use_bias=False, kernel_init=kaiming, name="top")(x)
        x = nn.relu6(norm(train, "top_norm")(x))                           # (B, H/32, W/32, 1280)
        states["pooled"] = x = x.mean((1, 2))                              # (B, 1280)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.classes, name="head")(x)                    # (B, classes)
        return (logits, states) if features else logits

    def levels(self, images: Float[Array, "B H W C"],
               train: bool = False) -> dict[int, Float[Array, "B h w F"]]:
        """Return maps by their strides, the last of each: what a pyramid is built on."""
        states = self(images, train, features=True)
        return {4: states["stage2"], 8: states["stage3"], 16: states["stage5"],
                32: states["stage7"]}


class MBConv(nn.Module):
    """A wide depthwise convolution between two narrow layers (Sandler et al. 2018, MobileNetV2)."""
    kernel: int
    stride: int
    expansion: int
    width: int
    drop: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        C, k = x.shape[-1], self.kernel
        wide = C * self.expansion

        def conv(width, name):
            return Conv(width, (1, 1), use_bias=False, kernel_init=kaiming, name=name)
        y = x
        if self.expansion > 1:
            y = nn.relu6(norm(train, "expand_norm")(conv(wide, "expand")(x)))        # (B, H, W, eC)
        y = Conv(wide, (k, k), (self.stride, self.stride), feature_group_count=wide,
                 use_bias=False, kernel_init=kaiming, name="depthwise")(y)       # (B, H/s, W/s, eC)
        y = nn.relu6(norm(train, "depthwise_norm")(y))
        y = norm(train, "project_norm")(conv(self.width, "project")(y))           # (B, H/s, W/s, F)
        if self.stride > 1 or C != self.width:
            return y
        # An example keeps the whole branch or nothing of it.
        return x + nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


def norm(train: bool, name: str):
    """Return BatchNorm with the constants of the published weights."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, name=name)
