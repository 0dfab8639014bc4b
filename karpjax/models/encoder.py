"""Encoders of text: for masked language modelling, and for classification from what that learned.

    config.model = dict(name="masked_lm", layers=4, width=256, heads=4)                       # of today's blocks
    config.model = dict(name="masked_lm", layers=4, width=256, heads=4, context=512, **kj.models.BERT)

Sizes of Turc et al. 2019 (layers, width, heads): tiny 2/128/2, mini 4/256/4, small 4/512/8, base 12/768/12. BERT (Devlin et al.
2019) is the same code with other fields, and takes Hugging Face's weights (karpjax/weights/bert.py). Inputs are tokens (B, T);
`segments` (B, T) numbers the documents that share a row from 1, 0 being padding; without it a row is one document.
"""
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError, check_choice
from karpjax.models.layers.embed import Embed
from karpjax.models.layers.gelu import gelu
from karpjax.models.layers.transformer import Dense, block_class, layer_of, norm, segment_mask

BERT = dict(norm="post", mlp="gelu", bias=True, positions="learned", transform=True, types=2, eps=1e-12)
ROBERTA = dict(BERT, types=1, eps=1e-5, offset=2)  # Liu et al. 2019: its table has two rows before the first position
POSITIONS = ("rope", "learned")


class Encoder(nn.Module):
    """What both heads share. `encode` makes the layers, in the scope of the head that calls it: same names in both."""
    vocabulary: int = 0
    layers: int = 2
    width: int = 128
    heads: int = 2
    norm: str = "pre"
    mlp: str = "geglu"
    bias: bool = False
    positions: str = "rope"    # or "learned", up to `context`
    context: int = 0           # with learned positions: the longest row
    offset: int = 0            # the row of their table that is the first position
    types: int = 0             # BERT's table of sentence types; we only use its first row
    transform: bool = False    # BERT's dense layer before the output embedding, and its bias
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0     # of the last layer; earlier ones less, in a line
    lora: int = 0              # rank of the attention's trainable part beside frozen matrices: see transformer.py
    lora_alpha: float = 16.0
    remat: bool = False        # compute blocks anew in the backward pass, for memory

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        return layer_of(name, ("embed", "position", "type", "norm_embed"))

    def encode(self, tokens: Int[Array, "B T"], segments, train: bool):
        """The embedding table, and what each layer gives: embeddings first, the last is the encoder's output."""
        check_choice(self.positions, POSITIONS, "config.model.positions")
        B, T = tokens.shape
        table = lambda rows, name: Embed(rows, self.width, name=name)
        embed = table(self.vocabulary, "embed")
        x = embed(tokens)                                                                     # (B, T, D)
        positions = None if segments is None else place(segments)                             # (B, T)
        if self.positions == "learned":
            if T > self.context:
                raise UserError(f"a row of {T} tokens is longer than the model's context, {self.context}; expected at most "
                                "that: prepare the texts with a smaller --length, or make config.model.context larger")
            place_in_row = jnp.arange(T)[None] if positions is None else positions
            x = x + table(self.context + self.offset, "position")(place_in_row + self.offset)
        if self.types:
            x = x + table(self.types, "type")(jnp.zeros((1, 1), jnp.int32))       # all are of the first type
        if self.norm == "post":
            x = nn.Dropout(self.dropout, deterministic=not train)(norm(self.eps, self.bias, "norm_embed")(x))
        mask, states = None if segments is None else segment_mask(segments), [x]
        block = block_class(self.remat)
        for i in range(self.layers):
            drop_path = self.drop_path * i / max(1, self.layers - 1)
            x = block(self.heads, self.norm, self.mlp, self.bias, self.positions == "rope", self.eps, self.dropout, drop_path,
                      self.lora, self.lora_alpha, name=f"block{i}")(x, mask, positions, train)
            states.append(x)
        if self.norm == "pre":
            states[-1] = norm(self.eps, self.bias, "norm")(x)
        return embed, states


class MaskedLM(Encoder):
    """Tokens (B, T) -> logits (B, K, vocabulary) at the positions `at` (B, K), or at all; input and output share a table."""

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None, at: Int[Array, "B K"] | None = None,
                 features: bool = False):
        embed, states = self.encode(tokens, segments, train)
        found = {"pooled": mean_of_tokens(states[-1], segments), **{f"state{i}": state for i, state in enumerate(states)}}
        x = states[-1]
        if at is not None:  # before the vocabulary's matmul, whose cost and memory fall to K / T
            x = jnp.take_along_axis(x, at[..., None], axis=1)                                 # (B, K, D)
        if self.transform:
            x = gelu(Dense(self.width, name="transform")(x))
            x = norm(self.eps, True, "norm_transform")(x)
        logits = embed.attend(x)                                                              # (B, K, V)
        if self.transform:
            logits = logits + self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        return (logits, found) if features else logits


class TextClassifier(Encoder):
    """Tokens (B, T) -> logits (B, classes), from the mean over a row's tokens, padding aside."""
    classes: int = 0

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None, features: bool = False):
        _, states = self.encode(tokens, segments, train)
        pooled = mean_of_tokens(states[-1], segments)                                         # (B, D)
        logits = Dense(self.classes, name="head")(pooled)                                     # (B, classes)
        return (logits, {"pooled": pooled}) if features else logits


def mean_of_tokens(x: Float[Array, "B T D"], segments=None) -> Float[Array, "B D"]:
    """Padding aside."""
    if segments is None:
        return x.mean(1)
    there = (segments > 0).astype(x.dtype)[..., None]                                         # (B, T, 1)
    return (x * there).sum(1) / jnp.maximum(there.sum(1), 1)


def place(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Each token's position in its own document: 0, 1, 2, ... from where its segment starts."""
    index = jnp.arange(segments.shape[1])[None]                                               # (1, T)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))                   # (B, T), the first is 0 anyway
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
