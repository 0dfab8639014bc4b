"""A causal language model: each token is predicted from those before it in its document.

    config.model = dict(name="causal_lm", layers=4, width=128, heads=4)            # today's blocks
    config.model = dict(name="causal_lm", layers=12, width=768, heads=12, context=1024,
                        **kj.models.GPT2)

It is the encoder of models/encoder.py with another mask. With GPT2 (Radford et al. 2019) it takes
Hugging Face's weights (karpjax/weights/gpt2.py). To continue texts, a cache keeps the keys and
values of their tokens (layers/transformer.py):

    cache = model.empty_cache(B, L)
    logits, cache = model.apply(variables, prompts, cache=cache, at=lengths[:, None] - 1)
    logits, cache = model.apply(variables, tokens, cache=cache, positions=positions)

Both logits are (B, 1, V): after each row's prompt, and after the token (B, 1) at its position. The
first token after a prompt of n has position n, whatever follows the prompt in its row.
"""
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from karpjax.core.errors import UserError, check_choice
from karpjax.models.encoder import POSITIONS, Encoder, mean_of_tokens, segment_positions
from karpjax.models.layers.embed import Embed
from karpjax.models.layers.transformer import causal_mask, empty_cache, norm, segment_mask

# Dropout is on embeddings and branches. GPT-2's on the attention's probabilities is not here.
GPT2 = dict(norm="pre", mlp="gelu_tanh", bias=True, positions="learned", eps=1e-5)


class CausalLM(Encoder):
    """Tokens (B, T) -> logits (B, T, vocabulary) of each token's successor.

    segments   (B, T), the documents that share a row: none sees another; 0 is padding
    cache      of the tokens before, with which the result is (logits, cache), a document a row
    positions  (B, T) of the tokens, with a cache; None: 0, 1, 2, ...
    at         (B, K), the places in the row whose logits are asked for; None: all
    features   whether the result is (logits, each layer's states), without a cache

    Input and output share a table.
    """

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None,
                 cache: dict | None = None, positions: Int[Array, "B T"] | None = None,
                 at: Int[Array, "B K"] | None = None, features: bool = False):
        self.check_form(segments, cache)
        mask = causal_mask(tokens.shape[1])                                       # (1, 1, T, T)
        if segments is not None:
            positions = segment_positions(segments)
            mask = mask & segment_mask(segments)                                  # (B, 1, T, T)
        table = Embed(self.vocabulary, self.width, name="embed")
        x = self.embeddings(table, tokens, positions, train)                      # (B, T, D)
        if self.norm == "pre":  # the other form has it already
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        states, filled = [x], {}
        for i in range(self.layers):
            block, name = self.block(i), f"block{i}"
            if cache is None:
                x = block(x, mask, positions, train)
            else:
                x, filled[name] = block(x, None, positions, train, cache[name])
            states.append(x)
        if self.norm == "pre":
            states[-1] = norm(self.eps, self.bias, "norm")(x)
        x = states[-1]                                                            # (B, T, D)
        if at is not None:  # before the vocabulary's matmul, as in MaskedLM
            x = jnp.take_along_axis(x, at[..., None], axis=1)                     # (B, K, D)
        logits = table.attend(x)                                                  # (B, K, V)
        if cache is not None:
            return logits, filled
        if features:
            by_layer = {f"state{i}": state for i, state in enumerate(states)}
            return logits, {"pooled": mean_of_tokens(states[-1], segments), **by_layer}
        return logits

    def check_form(self, segments, cache) -> None:
        """Check what a decoder cannot be."""
        check_choice(self.positions, POSITIONS, "config.model.positions")
        if self.transform:
            raise UserError("config.model.transform = True: expected False, only masked_lm has "
                            "BERT's layer before the output; leave it out")
        if cache is not None and segments is not None:
            raise UserError("a cache and segments: expected one document a row with a cache, found "
                            "rows that documents share; give a row to each document")

    def empty_cache(self, batch: int, length: int, dtype=jnp.float32) -> dict:
        """Return the cache of rows of at most `length` tokens, of which none is there yet."""
        if self.positions == "learned" and length > self.context:
            raise UserError(f"a text of {length} tokens is longer than the model's context, "
                            f"{self.context}; expected at most that: give a shorter prompt, or a "
                            "smaller length")
        names = [f"block{i}" for i in range(self.layers)]
        return empty_cache(names, batch, length, self.heads, self.width, dtype)
