"""A small CNN for small images: three 3x3 convolutions, mean pooling, a linear head.

Dropout comes before the head. The shape is that of the field's first exercises (LeCun et al. 1998).
Its parts are today's: BatchNorm after each convolution (Ioffe and Szegedy 2015), global pooling
(Lin et al. 2014). On the UCI digits it reaches 98.5 % and more in half a minute on two cores, see
configs/digits_cnn.py.
"""
from flax import linen as nn
from jaxtyping import Array, Float

from karpjax.models.layers.conv import Conv


class CNN(nn.Module):
    """The network: (B, H, W, C) -> logits (B, classes).

    BatchNorm sees the global batch under jit.
    """
    classes: int
    width: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        x, states = images, {}
        widths = ((self.width, 1), (2 * self.width, 2), (4 * self.width, 1))
        for i, (width, stride) in enumerate(widths):
            # No bias: BatchNorm's own makes it redundant.
            conv = Conv(width, (3, 3), (stride, stride), use_bias=False, name=f"conv{i}")
            x = conv(x)                                                           # (B, H/s, W/s, F)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
            states[f"conv{i}"] = x = nn.relu(x)
        states["pooled"] = x = x.mean((1, 2))                                     # (B, F)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.classes, name="head")(x)                           # (B, classes)
        return (logits, states) if features else logits
