"""Transformer blocks that encoders and decoders share, in the forms that the field compares.

The default is today's: norm first (Xiong et al. 2020), rotary positions (RoPE, Su et al. 2021),
gated MLP (GeGLU, Shazeer 2020), no biases. BERT's (Devlin et al. 2019) is norm="post", mlp="gelu",
bias=True, rotary=False. ViT's (Dosovitskiy et al. 2021) is the same with norm="pre".

With `lora` > 0 the matrices of the attention have a second, low-rank part (LoRA, Hu et al. 2022):
W + lora_alpha / lora A B, with A of (D, lora), and B of (lora, F) that starts at 0. To train that
part and the head alone:

    config.model.lora = 8, config.optimizer.freeze = ["(?!head)(?!.*lora_).*"]

A decoder makes one token after the other. So it keeps the keys and values of those before in a
cache, {"key": (B, L, H, C), "value": (B, L, H, C)} a layer, which is an argument and a result: row
b's token at position p lies in slot p, and sees slots 0 to p. Later slots hold junk, which is
overwritten before it is seen. So rows of unequal length need no further mask.
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
PICTURES = "intermediates"  # the collection of attention's probabilities, made for pictures alone


def init(key, shape, dtype=jnp.float32):
    """Draw BERT's and ViT's initial weights: normal, of standard deviation 0.02."""
    return nn.initializers.normal(0.02)(key, shape, dtype)


class Block(nn.Module):
    """Attention and MLP, each with its norm and residual. A translator's has cross-attention too.

    Arguments of a decoder: `cache` is described above, and with it the block returns (x, cache).
    `memory` is (keys, values, mask) of the texts to translate, see CrossAttention. With a
    `condition` the block is DiT's, see `Modulation`.
    """
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
    def __call__(self, x: Float[Array, "B T D"], mask: Bool[Array, "#B 1 T T"] | None = None,
                 positions: Int[Array, "B T"] | None = None, train: bool = False,
                 cache: dict | None = None, memory: tuple | None = None,
                 condition: Float[Array, "B D"] | None = None):
        check_choice(self.norm, NORMS, "config.model.norm")
        check_choice(self.mlp, MLPS, "config.model.mlp")
        attention = Attention(self.heads, self.bias, self.rotary, self.lora, self.lora_alpha,
                              name="attention")

        def to_row(x):
            nonlocal cache
            y, cache = attention(x, mask, positions, cache)
            return y

        def to_memory(x):
            return CrossAttention(self.heads, self.bias, name="cross")(x, *memory)
        parts = [] if condition is None else Modulation(6, name="modulation")(condition)
        x = self.residual(to_row, "attention", x, train, parts[:3])
        if memory is not None:
            x = self.residual(to_memory, "cross", x, train)
        x = self.residual(MLP(self.mlp, self.bias, name="mlp"), "mlp", x, train, parts[3:])
        return x if cache is None else (x, cache)

    def residual(self, branch, name: str, x, train: bool, parts=()) -> Float[Array, "B T D"]:
        """Add a branch to its input, with the norm before it or after the sum.

        parts  shift, scale and gate of a condition
        """
        if parts:
            shift, scale, gate = parts
            normed = norm(self.eps, False, f"norm_{name}", scale=False)
            return x + gate * self.skip(branch(normed(x) * (1 + scale) + shift), train)
        normed = norm(self.eps, self.bias, f"norm_{name}")
        if self.norm == "pre":
            return x + self.skip(branch(normed(x)), train)
        return normed(x + self.skip(branch(x), train))

    def skip(self, y, train: bool):
        """Apply dropout, and leave the whole branch out of some rows."""
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)(y)


class Modulation(nn.Module):
    """The effect of a condition on branches: shift, scale and gate of each, which begin at 0.

    So a gated branch begins as left out ("adaLN-Zero", Peebles & Xie 2023, section 3.2).
    """
    parts: int

    @nn.compact
    def __call__(self, condition: Float[Array, "B D"]) -> list[Float[Array, "B 1 D"]]:
        D = condition.shape[-1]
        zeros = nn.initializers.zeros
        y = nn.Dense(self.parts * D, kernel_init=zeros, name="dense")(nn.silu(condition))
        return jnp.split(y[:, None], self.parts, axis=-1)


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
    """Multi-head self-attention. Returns (outputs, cache), the latter None if none is given."""
    heads: int
    bias: bool
    rotary: bool
    lora: int = 0
    lora_alpha: float = 16.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], mask=None, positions=None,
                 cache: dict | None = None) -> tuple[Float[Array, "B T D"], dict | None]:
        B, T, D = x.shape
        C = size_of_head(D, self.heads)

        def dense(width, name):
            return Dense(width, self.bias, self.lora, self.lora_alpha, name=name)
        qkv = dense(3 * D, "qkv")(x).reshape(B, T, 3, self.heads, C)
        q, k, v = jnp.unstack(qkv, axis=2)                                   # (B, T, H, C) each
        if self.rotary:
            q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            slots = jnp.broadcast_to(positions_of(x, positions), (B, T))
            cache = {"key": put(cache["key"], k, slots), "value": put(cache["value"], v, slots)}
            k, v = cache["key"].astype(q.dtype), cache["value"].astype(q.dtype)  # (B, L, H, C)
            mask = jnp.arange(k.shape[1]) <= slots[:, None, :, None]         # (B, 1, T, L)
        y = attend(self, q, k, v, mask)                                      # (B, T, H, C)
        return dense(D, "out")(y.reshape(B, T, D)), cache


class CrossAttention(nn.Module):
    """Multi-head attention from x to a memory, whose keys and values are given.

    A decoder attends to the same memory at each of its tokens. So keys and values are computed
    once, by whoever has the memory (models/seq2seq.py). They have no positions.
    """
    heads: int
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], key: Float[Array, "B S H C"],
                 value: Float[Array, "B S H C"], mask=None) -> Float[Array, "B T D"]:
        B, T, D = x.shape
        q = Dense(D, self.bias, name="q")(x).reshape(B, T, self.heads, size_of_head(D, self.heads))
        y = attend(self, q, key, value, mask)                                # (B, T, H, C)
        return Dense(D, self.bias, name="out")(y.reshape(B, T, D))


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


def size_of_head(width: int, heads: int) -> int:
    """Return the width of each head."""
    if not heads or width % heads:
        raise UserError(f"a transformer of width {width}: expected a number of heads that divides "
                        f"it, found {heads}")
    return width // heads


def attend(module: nn.Module, q: Float[Array, "B T H C"], k: Float[Array, "B S H C"],
           v: Float[Array, "B S H C"], mask=None) -> Float[Array, "B T H C"]:
    """Return the values, weighted by the softmax of q k / sqrt(C) where the mask is true."""
    if module.is_mutable_collection(PICTURES):  # for `attention_of` alone
        scores = jnp.einsum("bthc,bshc->bhts", q, k) / q.shape[-1]**0.5      # (B, H, T, S)
        scores = scores if mask is None else jnp.where(mask, scores, -1e30)
        module.sow(PICTURES, "probabilities", jax.nn.softmax(scores))
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def attention_of(model: nn.Module, variables: dict, *inputs, **options) -> dict[str, Array]:
    """Return how much each token looks at each other one, by the attention's name.

    They are probabilities: {"block0/attention": (B, H, T, S)}.
    """
    _, kept = model.apply(variables, *inputs, **options, mutable=[PICTURES])
    flat = traverse_util.flatten_dict(kept[PICTURES])
    return {"/".join(module): probabilities for (*module, _), (probabilities,) in flat.items()}


def put(cached: Float[Array, "B L H C"], new: Float[Array, "B T H C"],
        slots: Int[Array, "B T"]) -> Float[Array, "B L H C"]:
    """Return a cache with new keys or values in each row's own slots. Slots from L on are lost."""
    L, T = cached.shape[1], new.shape[1]
    if T > L:
        raise UserError(f"a cache of {L} tokens got rows of {T} at once, expected at most {L}; "
                        f"make it with empty_cache(batch, {T})")
    return jax.vmap(lambda row, x, at: row.at[at].set(x))(cached, new.astype(cached.dtype), slots)


def empty_cache(names, batch: int, length: int, heads: int, width: int, dtype) -> dict:
    """Return {name: {"key": zeros, "value": zeros}} for the layers of these names."""
    shape = (batch, length, heads, size_of_head(width, heads))               # (B, L, H, C)
    return {name: {part: jnp.zeros(shape, dtype) for part in ("key", "value")} for name in names}


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


def norm(eps: float, bias: bool, name: str, scale: bool = True) -> nn.LayerNorm:
    """Return a LayerNorm that is as exact as PyTorch's."""
    # Flax's fast variance, E[x^2] - E[x]^2, loses digits.
    return nn.LayerNorm(epsilon=eps, use_bias=bias, use_scale=scale, use_fast_variance=False,
                        name=name)


def rotate(x: Float[Array, "B T H C"],
           positions: Int[Array, "B T"] | None = None) -> Float[Array, "B T H C"]:
    """Rotate queries or keys by their positions (RoPE).

    Pair (i, i + C/2) turns by position / 10000^(2i/C), so that q.k depends on the distance alone.
    """
    C = x.shape[3]
    positions = positions_of(x, positions)                                   # (1 or B, T)
    angle = positions[..., None] * 10000.0 ** (-jnp.arange(0, C, 2) / C)     # (B, T, C/2)
    cos = jnp.cos(angle)[:, :, None].astype(x.dtype)                         # (B, T, 1, C/2)
    sin = jnp.sin(angle)[:, :, None].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def positions_of(x: Float[Array, "B T ..."], positions=None) -> Int[Array, "#B T"]:
    """Return the positions of tokens: those that are given, else 0, 1, 2, ... (1, T)."""
    return jnp.arange(x.shape[1])[None] if positions is None else positions


def segment_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Return the attention mask of rows that documents share: tokens see their own document.

    Padding, segment 0, is seen by padding only.
    """
    return segments[:, None, :, None] == segments[:, None, None, :]


def causal_mask(length: int) -> Bool[Array, "1 1 T T"]:
    """Return the attention mask of rows in which tokens see themselves and those before."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]
