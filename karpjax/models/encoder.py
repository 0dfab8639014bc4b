"""Encoders of text, for masked language modelling and for classification.

    config.model = dict(name="masked_lm", layers=4, width=256, heads=4)            # today's blocks
    config.model = dict(name="masked_lm", layers=4, width=256, heads=4, context=512,
                        **kj.models.BERT)

A classifier can start from the weights of a masked language model. Sizes of Turc et al. 2019
(layers, width, heads): tiny 2/128/2, mini 4/256/4, small 4/512/8, base 12/768/12. BERT (Devlin et
al. 2019) is the same code with other fields, and takes Hugging Face's weights
(karpjax/weights/bert.py). Inputs are tokens (B, T). `segments` (B, T) numbers the documents that
share a row from 1, and 0 is padding. Without it a row is one document.
"""
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError, check_choice
from karpjax.models.layers import Natural
from karpjax.models.layers.embed import Embed
from karpjax.models.layers.transformer import (
    ACTIVATIONS, Block, Dense, block_class, layer_of, norm, segment_mask)

BERT = dict(norm="post", mlp="gelu", bias=True, positions="learned", transform=True, types=2,
            eps=1e-12)
# RoBERTa (Liu et al. 2019): its table has two rows before the first position.
ROBERTA = dict(BERT, types=1, eps=1e-5, offset=2)
POSITIONS = ("rope", "learned")
PER_TOKEN = ("embed/embedding", "bias")  # parameters with a row for each token of the vocabulary
PADDED_TO = 1024                         # the largest power of two that files pad vocabularies to


class Encoder(nn.Module):
    """The part that both heads share.

    `encode` makes the layers in the scope of the head that calls it, so both have the same names.
    """
    vocabulary: int = 0
    layers: Natural = 2
    width: int = 128
    heads: int = 2
    norm: str = "pre"
    mlp: str = "geglu"         # or an ungated one, see layers/transformer.py
    bias: bool = False
    positions: str = "rope"    # or "learned", up to `context`
    context: int = 0           # with learned positions: the longest row
    offset: int = 0            # the row of their table that is the first position
    types: int = 0             # BERT's table of sentence types; we only use its first row
    transform: bool = False    # BERT's dense layer before the output embedding, and its bias
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0     # of the last layer; it grows linearly from 0 at the first
    lora: int = 0              # rank of the attention's trainable part, see layers/transformer.py
    lora_alpha: float = 16.0
    remat: bool = False        # compute blocks again in the backward pass, to save memory

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        return layer_of(name, ("embed", "position", "type", "norm_embed"))

    def adapt(self, name: str, stored, shape):
        """Return the rows of a padded vocabulary that have a token. None for other parameters."""
        if name in PER_TOKEN and is_padded(stored.shape[0], shape[0]) and \
                stored.shape[1:] == tuple(shape[1:]):
            return stored[:shape[0]]
        return None

    def encode(self, tokens: Int[Array, "B T"], segments, train: bool):
        """Return the embedding table and the states, each (B, T, D).

        States are the embeddings, then each layer's output. The last is the encoder's.
        """
        check_choice(self.positions, POSITIONS, "config.model.positions")
        table = Embed(self.vocabulary, self.width, name="embed")
        positions = None if segments is None else segment_positions(segments)         # (B, T)
        x = self.embeddings(table, tokens, positions, train)                          # (B, T, D)
        mask = None if segments is None else segment_mask(segments)
        states = [x]
        for i in range(self.layers):
            x = self.block(i)(x, mask, positions, train)
            states.append(x)
        if self.norm == "pre":
            states[-1] = norm(self.eps, self.bias, "norm")(x)
        return table, states

    def block(self, i: int) -> Block:
        """Return layer i."""
        drop_path = self.drop_path * i / max(1, self.layers - 1)
        return block_class(self.remat)(
            self.heads, self.norm, self.mlp, self.bias, self.positions == "rope", self.eps,
            self.dropout, drop_path, self.lora, self.lora_alpha, name=f"block{i}")

    def embeddings(self, table: Embed, tokens, positions, train: bool) -> Float[Array, "B T D"]:
        """Return the sum of the embeddings of tokens, learned positions and types."""
        T = tokens.shape[1]
        x = table(tokens)                                                             # (B, T, D)
        if self.positions == "learned":
            if T > self.context:
                raise UserError(f"a row of {T} tokens is longer than the model's context, "
                                f"{self.context}; expected at most that: prepare the texts with a "
                                "smaller --length, or make config.model.context larger")
            in_row = jnp.arange(T)[None] if positions is None else positions
            position_table = Embed(self.context + self.offset, self.width, name="position")
            x = x + position_table(in_row + self.offset)
        if self.types:
            types = Embed(self.types, self.width, name="type")
            x = x + types(jnp.zeros((1, 1), jnp.int32))                # all are of the first type
        if self.norm == "post":
            x = norm(self.eps, self.bias, "norm_embed")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x


class MaskedLM(Encoder):
    """Tokens (B, T) -> logits (B, K, vocabulary) at the positions `at` (B, K), or at all.

    Input and output share a table.
    """

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None,
                 at: Int[Array, "B K"] | None = None, features: bool = False):
        table, states = self.encode(tokens, segments, train)
        x = states[-1]                                                                # (B, T, D)
        if at is not None:  # before the vocabulary's matmul: its cost and memory fall to K / T
            x = jnp.take_along_axis(x, at[..., None], axis=1)                         # (B, K, D)
        if self.transform:
            # BERT's has the activation of the blocks.
            x = ACTIVATIONS.get(self.mlp, ACTIVATIONS["gelu"])(
                Dense(self.width, name="transform")(x))
            x = norm(self.eps, True, "norm_transform")(x)
        logits = table.attend(x)                                                      # (B, K, V)
        if self.transform:
            logits = logits + self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        pooled = mean_of_tokens(states[-1], segments)                                 # (B, D)
        by_layer = {f"state{i}": state for i, state in enumerate(states)}
        return (logits, {"pooled": pooled, **by_layer}) if features else logits


class TextClassifier(Encoder):
    """Tokens (B, T) -> logits (B, classes), from the mean over a row's tokens without padding."""
    classes: int = 0

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None,
                 features: bool = False):
        _, states = self.encode(tokens, segments, train)
        pooled = mean_of_tokens(states[-1], segments)                                 # (B, D)
        logits = Dense(self.classes, name="head")(pooled)                             # (B, classes)
        return (logits, {"pooled": pooled}) if features else logits


def is_padded(rows: int, size: int) -> bool:
    """Return whether `rows` is a vocabulary's size, made the next multiple of a power of two."""
    multiple = min(rows & -rows, PADDED_TO)  # the largest power of two that divides rows
    # A quarter more is no padding: the tokenizer is another one.
    return size < rows < size + min(multiple, size // 4)


def mean_of_tokens(x: Float[Array, "B T D"], segments=None) -> Float[Array, "B D"]:
    """Return the mean over a row's tokens, without padding."""
    if segments is None:
        return x.mean(1)
    real = (segments > 0).astype(x.dtype)[..., None]                                  # (B, T, 1)
    return (x * real).sum(1) / jnp.maximum(real.sum(1), 1)


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return each token's position in its own document: 0, 1, 2, ... from its segment's start."""
    index = jnp.arange(segments.shape[1])[None]                                       # (1, T)
    changes = segments[:, 1:] != segments[:, :-1]                                     # (B, T-1)
    starts = jnp.pad(changes, ((0, 0), (1, 0)))                 # (B, T), the first is 0 anyway
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
