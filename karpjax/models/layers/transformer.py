"""Transformer blocks that text and image encoders share, in the forms that the field compares.

The default is today's: norm first (Xiong et al. 2020), rotary positions (RoPE, Su et al. 2021),
gated MLP (GeGLU, Shazeer 2020), no biases. BERT's (Devlin et al. 2019) is norm="post", mlp="gelu",
bias=True, rotary=False. ViT's (Dosovitskiy et al. 2021) is the same with norm="pre".

With `lora` > 0 the matrices of the attention have a second, low-rank part (LoRA, Hu et al. 2022):
W + lora_alpha / lora A B, with A of (D, lora), and B of (lora, F) that starts at 0. To train that
part and the head alone:

    config.model.lora = 8, config.optimizer.freeze = ["(?!head)(?!.*lora_).*"]
"""
import functools
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from karpjax.core.errors import UserError, check_choice
from karpjax.models.layers.gelu import gelu

# The functions of an ungated MLP. Published encoders have each of them.
ACTIVATIONS = {"gelu": gelu, "gelu_tanh": functools.partial(nn.gelu, approximate=True),
               "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x), "relu": nn.relu,
               "silu": nn.silu}
NORMS, MLPS = ("pre", "post"), ("geglu", *ACTIVATIONS)


def init(key, shape, dtype=jnp.float32):
    """Draw BERT's and ViT's initial weights: normal, of standard deviation 0.02."""
    return nn.initializers.normal(0.02)(key, shape, dtype)


class Block(nn.Module):
    """Attention and MLP, each with its norm and residual."""
    heads: int
    norm: str = "pre"          # "post": after the residual sum, as in BERT
    mlp: str = "geglu"         # or one of ACTIVATIONS
    bias: bool = False
    rotary: bool = True
    eps: float = 1e-6          # of the norms
    dropout: float = 0.0
    drop_path: float = 0.0     # chance that a row skips the branch (Huang et al. 2016)
    lora: int = 0
    lora_alpha: float = 16.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], mask: Bool[Array, "B 1 T T"] | None = None,
                 positions: Int[Array, "B T"] | None = None,
                 train: bool = False) -> Float[Array, "B T D"]:
        check_choice(self.norm, NORMS, "config.model.norm")
        check_choice(self.mlp, MLPS, "config.model.mlp")
        attention = Attention(self.heads, self.bias, self.rotary, self.lora, self.lora_alpha,
                              name="attention")
        mlp = MLP(self.mlp, self.bias, name="mlp")
        norms = [norm(self.eps, self.bias, f"norm_{part}") for part in ("attention", "mlp")]
        branches = (lambda x: attention(x, mask, positions), mlp)
        for branch, normed in zip(branches, norms, strict=True):
            if self.norm == "pre":
                x = x + self.skip(branch(normed(x)), train)
            else:
                x = normed(x + self.skip(branch(x), train))
        return x

    def skip(self, y, train: bool):
        """Apply dropout, and leave the whole branch out of some rows."""
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y)


def block_class(remat: bool):
    """Return Block, or one that is computed again in the backward pass.

    The latter (Chen et al. 2016, arXiv:1604.06174) takes a third more time, and keeps only each
    block's input in memory. It must be called with positional arguments.
    """
    # Argument 4 of self, x, mask, positions, train.
    return nn.remat(Block, static_argnums=(4,)) if remat else Block


class Dense(nn.Module):
    """The product x W + b over the last axis, with an optional low-rank part (LoRA)."""
    # The input is made one matrix: of (B, T, D) XLA's CPU compiler writes a turned copy for the
    # weight's gradient, a tenth of a tiny encoder's step.
    features: int
    bias: bool = True
    lora: int = 0
    lora_alpha: float = 16.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        D, F = x.shape[-1], self.features
        rows = x.reshape(-1, D)                                              # (N, D)
        y = rows @ self.param("kernel", init, (D, F))
        if self.lora:
            uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            a = self.param("lora_a", uniform, (D, self.lora))
            b = self.param("lora_b", nn.initializers.zeros, (self.lora, F))
            y = y + self.lora_alpha / self.lora * (rows @ a @ b)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (F,))
        return y.reshape(*x.shape[:-1], F)


class Attention(nn.Module):
    """Multi-head self-attention."""
    heads: int
    bias: bool
    rotary: bool
    lora: int = 0
    lora_alpha: float = 16.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], mask=None,
                 positions=None) -> Float[Array, "B T D"]:
        B, T, D = x.shape
        if not self.heads or D % self.heads:
            raise UserError(f"a transformer of width {D}: expected a number of heads that divides "
                            f"it, found {self.heads}")

        def dense(width, name):
            return Dense(width, self.bias, self.lora, self.lora_alpha, name=name)
        qkv = dense(3 * D, "qkv")(x).reshape(B, T, 3, self.heads, D // self.heads)
        q, k, v = jnp.unstack(qkv, axis=2)                                   # (B, T, H, D/H) each
        if self.rotary:
            q, k = rotate(q, positions), rotate(k, positions)
        y = jax.nn.dot_product_attention(q, k, v, mask=mask)                 # (B, T, H, D/H)
        return dense(D, "out")(y.reshape(B, T, D))


class MLP(nn.Module):
    """The block's MLP: one of ACTIVATIONS, or gated (GeGLU) and two thirds as wide."""
    kind: str
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        D = x.shape[-1]

        def dense(width, name):
            return Dense(width, self.bias, name=name)
        if self.kind in ACTIVATIONS:
            y = ACTIVATIONS[self.kind](dense(4 * D, "up")(x))                # (B, T, 4D)
        else:  # two thirds as wide, so that both kinds have the same number of parameters
            F = round(8 * D / 3 / 32) * 32 or 32
            gate, y = jnp.split(dense(2 * F, "up")(x), 2, axis=-1)           # (B, T, F) each
            y = gelu(gate) * y
        return dense(D, "down")(y)


def merge_lora(model: nn.Module, variables: dict) -> tuple[nn.Module, dict]:
    """Return the model without LoRA and its variables.

    Every W + lora_alpha / lora A B becomes one matrix. The outputs are the same.
    """
    if not getattr(model, "lora", 0):
        return model, variables
    flat = traverse_util.flatten_dict(variables["params"])
    for *module, _ in [name for name in flat if name[-1] == "lora_a"]:
        a, b = flat.pop((*module, "lora_a")), flat.pop((*module, "lora_b"))
        update = model.lora_alpha / model.lora * jnp.matmul(a, b, precision="highest")
        flat[*module, "kernel"] = flat[*module, "kernel"] + update
    return model.clone(lora=0), {**variables, "params": traverse_util.unflatten_dict(flat)}


def layer_of(name: str, embeddings) -> int | None:
    """Return 0 for a parameter of the `embeddings`, i + 1 for one of block i, None for the head."""
    module = name.partition("/")[0]
    if module in embeddings:
        return 0
    block = re.fullmatch(r"block(\d+)", module)
    return int(block[1]) + 1 if block else None


def norm(eps: float, bias: bool, name: str) -> nn.LayerNorm:
    """Return a LayerNorm that is as exact as PyTorch's."""
    # Flax's fast variance, E[x^2] - E[x]^2, loses digits.
    return nn.LayerNorm(epsilon=eps, use_bias=bias, use_fast_variance=False, name=name)


def rotate(x: Float[Array, "B T H C"],
           positions: Int[Array, "B T"] | None = None) -> Float[Array, "B T H C"]:
    """Rotate queries or keys by their positions (RoPE).

    Pair (i, i + C/2) turns by position / 10000^(2i/C), so that q.k depends on the distance alone.
    """
    T, C = x.shape[1], x.shape[3]
    positions = jnp.arange(T)[None] if positions is None else positions      # (1 or B, T)
    angle = positions[..., None] * 10000.0 ** (-jnp.arange(0, C, 2) / C)     # (B, T, C/2)
    cos = jnp.cos(angle)[:, :, None].astype(x.dtype)                         # (B, T, 1, C/2)
    sin = jnp.sin(angle)[:, :, None].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def segment_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Return the attention mask of rows that documents share: tokens see their own document.

    Padding, segment 0, is seen by padding only.
    """
    return segments[:, None, :, None] == segments[:, None, None, :]
