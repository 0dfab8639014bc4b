"""A translator: an encoder reads the source, a decoder writes the target token by token.

    config.model = dict(name="seq2seq", layers=4, width=128, heads=4)              # today's blocks
    config.model = dict(name="seq2seq", layers=6, width=512, heads=8, **kj.models.MARIAN)

This is the Transformer (Vaswani et al. 2017) of layers/transformer.py's blocks. The decoder's also
attend to the encoder's output, the memory. One table serves source, target and output. With MARIAN
(Junczys-Dowmunt et al. 2018) it takes the weights of Hugging Face's MarianMTModel
(karpjax/weights/marian.py).

The target that is given is shifted by the caller: its token t is the one *before* the t-th that is
predicted. To translate:

    apply = functools.partial(model.apply, variables)
    memory = apply(source, segments, method="encode")                              # (B, S, D)
    memory = apply(memory, method="keys_and_values")        # optional: once, not at every token
    cache = model.empty_cache(B, L)
    logits, cache = apply(tokens, memory, segments, cache=cache, positions=at, method="decode")
"""
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from karpjax.core.errors import UserError, check_choice
from karpjax.models.encoder import mean_of_tokens, segment_positions
from karpjax.models.layers import transformer
from karpjax.models.layers.embed import Embed
from karpjax.models.layers.transformer import (
    Dense, block_class, causal_mask, norm, positions_of, segment_mask, size_of_head)

MARIAN = dict(norm="post", mlp="silu", bias=True, positions="sinusoids", scale_embedding=True,
              final_bias=True, eps=1e-5)
POSITIONS = ("rope", "learned", "sinusoids")


class Seq2Seq(nn.Module):
    """Source (B, S) and shifted target (B, T) -> logits (B, T, vocabulary)."""
    vocabulary: int = 0
    layers: int = 2
    decoder_layers: int = 0        # 0: as many as the encoder has
    width: int = 128
    heads: int = 2
    norm: str = "pre"
    mlp: str = "geglu"             # or an ungated one, see layers/transformer.py
    bias: bool = False
    positions: str = "rope"        # in self-attention; or "learned", "sinusoids"
    context: int = 0               # with learned positions: the longest row
    eps: float = 1e-6
    dropout: float = 0.0
    scale_embedding: bool = False  # embeddings times the square root of the width
    final_bias: bool = False       # of the logits
    remat: bool = False            # compute blocks again in the backward pass, to save memory

    def setup(self):
        """Make the layers. Those of the decoder have names of their own."""
        check_choice(self.positions, POSITIONS, "config.model.positions")
        self.embed = Embed(self.vocabulary, self.width)
        self.encoder = [self.block(f"block{i}") for i in range(self.layers)]
        self.decoder = [self.block(f"decoder_block{i}") for i in range(self.depth)]
        self.memory = [Dense(2 * self.width, self.bias, name=f"decoder_memory{i}")
                       for i in range(self.depth)]
        if self.positions == "learned":
            self.position = Embed(self.context, self.width)
            self.decoder_position = Embed(self.context, self.width)
        if self.norm == "pre":
            self.encoder_norm = norm(self.eps, self.bias, "norm")
            self.decoder_norm = norm(self.eps, self.bias, "decoder_norm")
        if self.final_bias:
            self.bias_of_logits = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        self.drop = nn.Dropout(self.dropout)

    @property
    def depth(self) -> int:
        """Return the number of the decoder's layers."""
        return self.decoder_layers or self.layers

    def block(self, name: str) -> transformer.Block:
        """Return a layer."""
        return block_class(self.remat)(
            self.heads, self.norm, self.mlp, self.bias, self.positions == "rope", self.eps,
            self.dropout, name=name)

    def __call__(self, source: Int[Array, "B S"], target: Int[Array, "B T"], train: bool = False,
                 source_segments=None, target_segments=None, features: bool = False):
        """Return the logits of each target token's successor, and each layer's states if asked.

        Segments (B, S) and (B, T) number the pairs that share a row from 1, and 0 is padding. None:
        a pair a row, without padding.
        """
        states = self.encoded(source, source_segments, train)
        written, _ = self.decoded(target, states[-1], source_segments, train, target_segments)
        logits = self.logits(written[-1])                                         # (B, T, V)
        if features:
            by_layer = {f"state{i}": state for i, state in enumerate(states)}
            by_layer |= {f"decoder_state{i}": state for i, state in enumerate(written)}
            return logits, {"pooled": mean_of_tokens(states[-1], source_segments), **by_layer}
        return logits

    def encode(self, source: Int[Array, "B S"], source_segments=None,
               train: bool = False) -> Float[Array, "B S D"]:
        """Return the memory: what the decoder knows of the source."""
        return self.encoded(source, source_segments, train)[-1]

    def decode(self, target: Int[Array, "B T"], memory, source_segments=None, train: bool = False,
               target_segments=None, cache: dict | None = None,
               positions: Int[Array, "B T"] | None = None):
        """Return the logits (B, T, V) of each target token's successor.

        memory     the encoder's output (B, S, D), or what `keys_and_values` makes of it
        cache      of the tokens before, with which the result is (logits, cache), a pair a row
        positions  of the tokens; None: 0, 1, 2, ...
        """
        if cache is not None and target_segments is not None:
            raise UserError("a cache and target_segments: expected one pair a row with a cache, "
                            "found rows that pairs share; give a row to each pair")
        states, cache = self.decoded(target, memory, source_segments, train, target_segments,
                                     cache, positions)
        logits = self.logits(states[-1])                                          # (B, T, V)
        return logits if cache is None else (logits, cache)

    def keys_and_values(self, memory: Float[Array, "B S D"]) -> dict[str, tuple]:
        """Return the keys and values (B, S, H, C) that each layer of the decoder has of a memory.
        """
        B, S, D = memory.shape
        shape = B, S, 2, self.heads, size_of_head(D, self.heads)
        return {f"decoder_block{i}": tuple(jnp.unstack(dense(memory).reshape(shape), axis=2))
                for i, dense in enumerate(self.memory)}

    def empty_cache(self, batch: int, length: int, dtype=jnp.float32) -> dict:
        """Return the cache of targets of at most `length` tokens, of which none is there yet."""
        self.check_length(length)
        names = [f"decoder_block{i}" for i in range(self.depth)]
        return transformer.empty_cache(names, batch, length, self.heads, self.width, dtype)

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay.

        The decoder's layers follow the encoder's.
        """
        ours = name.replace("decoder_memory", "decoder_block")
        layer = transformer.layer_of(ours.removeprefix("decoder_"), ("embed", "position"))
        return layer + self.layers if layer and ours.startswith("decoder_") else layer

    def encoded(self, source, segments, train: bool) -> list[Float[Array, "B S D"]]:
        """Return the encoder's states: the embeddings, then each layer's output."""
        positions = None if segments is None else segment_positions(segments)     # (B, S)
        mask = None if segments is None else segment_mask(segments)               # (B, 1, S, S)
        states = [self.embedded(source, positions, "position", train)]
        for block in self.encoder:
            states.append(block(states[-1], mask, positions, train))
        if self.norm == "pre":
            states[-1] = self.encoder_norm(states[-1])
        return states

    def decoded(self, target, memory, source_segments, train: bool, segments=None, cache=None,
                positions=None) -> tuple[list[Float[Array, "B T D"]], dict | None]:
        """Return the decoder's states as the encoder's, and the cache with these tokens."""
        if not isinstance(memory, dict):
            memory = self.keys_and_values(memory)
        mask = causal_mask(target.shape[1])                                       # (1, 1, T, T)
        if segments is not None:
            positions = segment_positions(segments)                               # (B, T)
            mask = mask & segment_mask(segments)                                  # (B, 1, T, T)
        seen = memory_mask(source_segments, segments)                             # (B, 1, T, S)
        states, filled = [self.embedded(target, positions, "decoder_position", train)], {}
        for i, block in enumerate(self.decoder):
            name = f"decoder_block{i}"
            about = (*memory[name], seen)
            if cache is None:
                states.append(block(states[-1], mask, positions, train, None, about))
            else:
                x, filled[name] = block(states[-1], None, positions, train, cache[name], about)
                states.append(x)
        if self.norm == "pre":
            states[-1] = self.decoder_norm(states[-1])
        return states, None if cache is None else filled

    def embedded(self, tokens, positions, table: str, train: bool) -> Float[Array, "B T D"]:
        """Return the sum of the embeddings of tokens and positions.

        table   the name of the learned positions
        """
        x = self.embed(tokens)                                                    # (B, T, D)
        if self.scale_embedding:
            x = x * self.width**0.5
        at = positions_of(x, positions)                                           # (1 or B, T)
        if self.positions == "learned":
            self.check_length(tokens.shape[1])
            x = x + getattr(self, table)(at)
        if self.positions == "sinusoids":
            x = x + sinusoids(at, self.width).astype(x.dtype)
        return self.drop(x, deterministic=not train)

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the product with the table of embeddings."""
        logits = self.embed.attend(x)                                             # (B, T, V)
        return logits + self.bias_of_logits if self.final_bias else logits

    def check_length(self, length: int) -> None:
        """Check that a row is not longer than a table of positions."""
        if self.positions == "learned" and length > self.context:
            raise UserError(f"a row of {length} tokens is longer than the model's context, "
                            f"{self.context}; expected at most that: give a smaller length, or "
                            "make config.model.context larger")


def sinusoids(positions: Int[Array, "B T"], width: int) -> Float[Array, "B T D"]:
    """Return sines in the first half of the width, cosines in the second (Vaswani et al., 3.5)."""
    rates = 10000.0 ** (-jnp.arange(0, width, 2) / width)                         # (D/2,)
    angle = positions[..., None] * rates                                          # (B, T, D/2)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def memory_mask(source, target=None) -> Bool[Array, "B 1 T S"] | None:
    """Return which source tokens a target token sees: its pair's, by segments. None: all."""
    if source is None:
        return None
    if target is None:
        return (source == 1)[:, None, None, :]                                    # (B, 1, 1, S)
    return target[:, None, :, None] == source[:, None, None, :]                   # (B, 1, T, S)
