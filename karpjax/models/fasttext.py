"""Averaged n-gram embeddings (Joulin et al. 2016, "Bag of Tricks for Efficient Text
Classification", sections 2 and 2.2).

Each token and each n-gram of a row has an embedding, and a linear head reads their mean. No order
is left but that inside an n-gram. N-grams of two or more tokens share `buckets` rows of the table,
by fastText's hash. It is for few labels and no pretraining. configs/labelled_texts.py says what to
expect.
"""
from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from karpjax.models.encoder import mean_of_tokens
from karpjax.models.layers.embed import Embed

FACTOR = 116_049_371  # of fastText's hash of an n-gram, h = FACTOR h + next, there in 64 bits


class FastText(nn.Module):
    """The network: tokens (B, T) -> logits (B, classes), from the mean over a row's n-grams.

    Those with padding, or of two documents, are left out.

    ngrams   tokens of the longest n-gram; 1: tokens alone
    buckets  rows of the table that all n-grams of two or more tokens share
    """
    classes: int
    vocabulary: int
    width: int = 16
    ngrams: int = 2
    buckets: int = 1 << 18     # twice as many as 2,000 reviews of 64 tokens have bigrams

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], train: bool = False, segments=None,
                 features: bool = False):
        rows = self.vocabulary + (self.buckets if self.ngrams > 1 else 0)
        ids, real = ngram_rows(tokens, segments, self.ngrams, self.vocabulary, self.buckets)
        x = Embed(rows, self.width, name="embed")(ids)                                # (B, G, D)
        pooled = mean_of_tokens(x, real)                                              # (B, D)
        logits = nn.Dense(self.classes, name="head")(pooled)                          # (B, classes)
        return (logits, {"pooled": pooled}) if features else logits


def ngram_rows(tokens: Int[Array, "B T"], segments, longest: int, vocabulary: int, buckets: int
               ) -> tuple[Int[Array, "B G"], Bool[Array, "B G"]]:
    """Return the table's row of every n-gram, tokens first, and whether it is real.

    A real one has no padding, and all its tokens are of one document.
    """
    T = tokens.shape[1]
    segments = jnp.ones_like(tokens) if segments is None else segments
    hashed = tokens.astype(jnp.uint32)                                                # (B, T)
    rows, real = [tokens], [segments > 0]
    for n in range(2, min(longest, T) + 1):
        following = tokens[:, n - 1:].astype(jnp.uint32)                              # (B, T-n+1)
        hashed = hashed[:, :-1] * jnp.uint32(FACTOR) + following      # in 32 bits, overflow wraps
        rows.append(vocabulary + (hashed % buckets).astype(jnp.int32))
        first, last = segments[:, :T - n + 1], segments[:, n - 1:]
        real.append((first == last) & (last > 0))
    return jnp.concatenate(rows, 1), jnp.concatenate(real, 1)
