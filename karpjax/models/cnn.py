"""A small CNN for small images: three 3x3 convolutions with BatchNorm, global mean pooling, dropout, a linear head.

The shape of the field's first exercises (LeCun et al. 1998) in today's parts (BatchNorm: Ioffe and Szegedy 2015; global
pooling: Lin et al. 2014). On the UCI digits: 98.5 % and more in half a minute on two cores, see configs/digits_cnn.py.
"""
from flax import linen as nn
from jaxtyping import Array, Float

from karpjax.models.layers.conv import Conv


class CNN(nn.Module):
    """(B, H, W, C) -> logits (B, classes). BatchNorm sees the global batch under jit."""
    classes: int
    width: int = 32
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, features: bool = False):
        x, found = images, {}
        for i, (width, stride) in enumerate([(self.width, 1), (2 * self.width, 2), (4 * self.width, 1)]):
            # No bias: BatchNorm's own makes it redundant.
            x = Conv(width, (3, 3), (stride, stride), use_bias=False, name=f"conv{i}")(x)  # (B, H/s, W/s, F)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
            found[f"conv{i}"] = x = nn.relu(x)
        found["pooled"] = x = x.mean((1, 2))                                                     # (B, F)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.classes, name="head")(x)                                          # (B, classes)
        return (logits, found) if features else logits
