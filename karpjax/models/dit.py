"""DiT: a transformer of patches that knows a time and a class (Peebles & Xie 2023).

    config.model = dict(name="dit", patch=2, layers=4, width=128, heads=4)
    config.model = dict(name="dit", patch=4, layers=12, width=768, heads=12)   # DiT-B

The form is that of arXiv:2212.09748, section 3.2, "adaLN-Zero": time and class are embedded and
added, and shift, scale and gate every branch of the blocks. At the start all gates and the last
layer are 0, so that the network returns 0. Its outputs equal those of diffusers'
DiTTransformer2DModel with the same weights.
"""
import math

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError
from karpjax.models.layers import Natural
from karpjax.models.layers.transformer import (Dense, Modulation, block_class, init, layer_of,
                                               norm)
from karpjax.models.vit import images_of, sines

# times from 0 to 1 are embedded as from 0 to 1000; published networks' begin at the picture
TIMES = 1000
WAVES = 256      # sines and cosines of a time


class DiT(nn.Module):
    """The network: pictures (B, H, W, C), times and classes -> (B, H, W, C).

    classes  0: there are none
    dropout  of each branch
    remat    compute blocks again in the backward pass, to save memory
    """
    classes: Natural
    patch: int = 2
    layers: Natural = 12
    width: int = 384
    heads: int = 6
    mlp: str = "gelu_tanh"     # see ACTIVATIONS in layers/transformer.py
    eps: float = 1e-6
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
        P, D = self.patch, self.width
        if H % P or W % P:
            raise UserError(f"config.model.patch = {P}: expected a divisor of the images' sides, "
                            f"{H} x {W}")
        if H != W or D % 4:
            raise UserError("config.model: a dit has positions of square pictures, of a width "
                            f"that 4 divides; found {H} x {W}, width = {D}")
        t = jnp.zeros(B) if t is None else t
        label = jnp.full(B, self.classes) if label is None else label
        x = nn.Conv(D, (P, P), (P, P), padding="VALID", kernel_init=init, name="patch")(images)
        x = x.reshape(B, -1, D)                                                   # (B, N, D)
        x = x + sines(None, (x.shape[1], D), 0).astype(x.dtype)
        condition = self.condition(t, label).astype(x.dtype)                      # (B, D)
        for i in range(self.layers):
            block = block_class(self.remat)(
                self.heads, norm="pre", mlp=self.mlp, bias=True, rotary=False, eps=self.eps,
                dropout=self.dropout, name=f"block{i}")
            x = block(x, None, None, train, None, None, condition)
        shift, scale = Modulation(2, name="modulation")(condition)
        x = norm(self.eps, False, "norm", scale=False)(x) * (1 + scale) + shift
        zeros = nn.initializers.zeros
        x = nn.Dense(P * P * C, kernel_init=zeros, name="pixels")(x)              # (B, N, P P C)
        return images_of(x, P, (H, W, C))

    def condition(self, t: Float[Array, "B"], label: Int[Array, "B"]) -> Float[Array, "B D"]:
        """Return the embeddings of time and class, added."""
        time = Dense(self.width, name="time1")(nn.silu(
            Dense(self.width, name="time0")(waves(TIMES * t))))
        # the last row is of no class
        return time + nn.Embed(self.classes + 1, self.width, embedding_init=init,
                               name="label")(label)

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        return layer_of(name, ("patch", "time0", "time1", "label"))


def waves(t: Float[Array, "B"], size: int = WAVES, shift: int = 1) -> Float[Array, "B F"]:
    """Return `size` cosines and sines of times, of wave lengths from 2 pi to 20,000 pi.

    shift  1: the last is the longest; 0: it is one step shorter
    """
    half = size // 2
    frequency = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - shift))
    angle = t[:, None] * frequency                                                # (B, F / 2)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
