"""U-Net: convolutions down to small maps and up again, with a time and a class (Ho et al. 2020).

    config.model = dict(name="unet", width=64, multiples=(1, 2, 2), attention=(2,))
    config.model = dict(name="unet", width=128, multiples=(1, 2, 2, 2), attention=(2,), dropout=0.1)
                                                                # DDPM's for CIFAR-10: 35.7 million

The form is that of arXiv:2006.11239, appendix B: residual blocks at each level, self-attention at
some, and each map of the way down is seen again on the way up. Of Nichol & Dhariwal 2021
(arXiv:2102.09672) are `scale_shift` and heads of the attention. At the start the last layer and the
second convolution of each block are 0, so that the network returns 0. Its outputs equal those of
diffusers' UNet2DModel with the same weights (karpjax/weights/unet.py).
"""
from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError
from karpjax.models.dit import TIMES, waves
from karpjax.models.layers import Natural
from karpjax.models.layers.conv import Conv
from karpjax.models.layers.transformer import Attention

zeros = nn.initializers.zeros


class UNet(nn.Module):
    """The network: pictures (B, H, W, C), times and classes -> (B, H, W, C).

    classes            0: there are none
    multiples          of `width` at each level, from the pictures' size on; each next is half
    blocks             a level on the way down; the way up has one more
    attention          the strides of levels with self-attention: 2 is at half the pictures' size
    middle_attention   self-attention between the middle's two blocks
    head_width         channels of a head; 0: one head has all
    groups             of the norms
    scale_shift        the condition scales and shifts the second norm's result; else it is added
    dropout            in the middle of each block
    remat              compute blocks again in the backward pass, to save memory
    """
    classes: Natural
    width: int = 64
    multiples: Sequence[int] = (1, 2, 2)
    blocks: int = 2
    attention: Sequence[int] = (2,)
    middle_attention: bool = True
    head_width: Natural = 0
    groups: int = 32
    scale_shift: bool = False
    eps: float = 1e-5
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 t: Float[Array, "B"] | None = None, label: Int[Array, "B"] | None = None):
        """Return what the task asks for, a picture or a velocity.

        t      times from 0, noise, to 1, the picture; None: 0
        label  the classes, and `classes` for none; None: none
        """
        B, H, W, C = images.shape
        self.check(H, W)
        t = jnp.zeros(B) if t is None else t
        label = jnp.full(B, self.classes) if label is None else label
        levels = [(2**i, self.width * multiple) for i, multiple in enumerate(self.multiples)]
        coarsest, deepest = levels[-1]
        x = conv(self.width, "stem")(images)                                      # (B, H, W, D)
        condition = self.condition(t, label).astype(x.dtype)                      # (B, 4 D)
        maps = [x]
        for i, (stride, F) in enumerate(levels):
            for b in range(self.blocks):
                block = self.block(F, stride in self.attention, f"down{i}_block{b}")
                maps.append(x := block(x, condition, train))                      # (B, H/s, W/s, F)
            if stride < coarsest:
                maps.append(x := conv(F, f"down{i}_conv", 2)(x))                  # half the sides
        x = self.block(deepest, self.middle_attention, "middle_block0")(x, condition, train)
        x = self.block(deepest, False, "middle_block1")(x, condition, train)
        for i, (stride, F) in enumerate(reversed(levels)):
            for b in range(self.blocks + 1):
                block = self.block(F, stride in self.attention, f"up{i}_block{b}")
                x = block(jnp.concatenate([x, maps.pop()], axis=-1), condition, train)
            if stride > 1:
                x = conv(F, f"up{i}_conv")(doubled(x))                            # twice the sides
        x = nn.silu(norm(self.groups, self.eps, "norm")(x))                       # (B, H, W, D)
        return conv(C, "pixels", kernel_init=zeros)(x)

    def condition(self, t: Float[Array, "B"], label: Int[Array, "B"]) -> Float[Array, "B E"]:
        """Return the embeddings of time and class, added."""
        E = 4 * self.width
        time = nn.Dense(E, name="time1")(nn.silu(
            nn.Dense(E, name="time0")(waves(TIMES * t, self.width, shift=0))))
        if not self.classes:
            return time
        # the last row is of no class
        return time + nn.Embed(self.classes + 1, E, name="label")(label)

    def block(self, width: int, attends: bool, name: str):
        """Return a residual block. It must be called with positional arguments."""
        # Argument 3 of self, x, condition, train.
        kind = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        heads = width // (self.head_width or width) if attends else 0
        return kind(width, heads, self.groups, self.scale_shift, self.eps, self.dropout, name=name)

    def check(self, H: int, W: int) -> None:
        """Raise a UserError unless these fields fit one another and pictures of H x W."""
        strides = [2**i for i in range(len(self.multiples))]
        if not strides or H % strides[-1] or W % strides[-1]:
            raise UserError(f"config.model.multiples = {tuple(self.multiples)}: expected one or "
                            f"more, the last of a stride that divides the pictures' sides, found "
                            f"{H} x {W} and strides {strides}; give fewer")
        if self.width % self.groups or self.width % 2:
            raise UserError(f"config.model.width = {self.width}: expected an even multiple of "
                            f"config.model.groups = {self.groups}; change one of them")
        if not set(self.attention) <= set(strides):
            raise UserError(f"config.model.attention = {tuple(self.attention)}: expected strides "
                            f"of these levels, {strides}")
        attending = [self.width * multiple for stride, multiple in
                     zip(strides, self.multiples, strict=True) if stride in self.attention]
        attending += [self.width * self.multiples[-1]] * self.middle_attention
        if self.head_width and any(width % self.head_width for width in attending):
            raise UserError(f"config.model.head_width = {self.head_width}: expected a divisor of "
                            f"the widths with attention, {attending}; 0: one head has all")


class Block(nn.Module):
    """Two 3x3 convolutions that know a condition, beside a shortcut, and attention if it has heads.

    The second convolution begins at 0, so that a new block without attention is its shortcut.
    """
    width: int
    heads: Natural
    groups: int
    scale_shift: bool
    eps: float
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], condition: Float[Array, "B E"],
                 train: bool) -> Float[Array, "B H W F"]:
        B, H, W, C = x.shape
        F = self.width
        y = conv(F, "conv1")(nn.silu(norm(self.groups, self.eps, "norm1")(x)))    # (B, H, W, F)
        told = nn.Dense(F * (1 + self.scale_shift), name="condition")(nn.silu(condition))
        told = told[:, None, None]                                                # (B, 1, 1, F)
        norm2 = norm(self.groups, self.eps, "norm2")
        if self.scale_shift:
            scale, shift = jnp.split(told, 2, axis=-1)
            y = norm2(y) * (1 + scale) + shift
        else:
            y = norm2(y + told)
        y = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(y))
        y = conv(F, "conv2", kernel_init=zeros)(y)
        x = y + (x if C == F else Conv(F, (1, 1), name="shortcut")(x))            # (B, H, W, F)
        if not self.heads:
            return x
        y = norm(self.groups, self.eps, "attention_norm")(x).reshape(B, H * W, F)
        y, _ = Attention(self.heads, bias=True, rotary=False, name="attention")(y)
        return x + y.reshape(x.shape)


def conv(width: int, name: str, stride: int = 1, **options):
    """Return a 3x3 convolution that keeps the sides, or with a stride of 2 halves them."""
    return Conv(width, (3, 3), (stride, stride), padding=1, name=name, **options)


def norm(groups: int, eps: float, name: str) -> nn.GroupNorm:
    """Return a GroupNorm that is as exact as PyTorch's."""
    return nn.GroupNorm(groups, epsilon=eps, use_fast_variance=False, name=name)


def doubled(x: Float[Array, "B h w F"]) -> Float[Array, "B H W F"]:
    """Return maps of twice the sides, in which each value stands four times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
