"""Translations by a model that encodes a source and decodes a target, token by token.

The model has the methods `encode`, `keys_and_values`, `decode` and `empty_cache` of
karpjax/models/seq2seq.py.
"""
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from karpjax.generation.beam import beam_search


def translate(model, variables: dict, source: Int[Array, "B S"], vocabulary, length: int,
              beams: int, length_penalty: float = 1.0) -> Int[Array, "B T"]:
    """Return the best translation of each row: at most `length` ids with the end, then padding.

    beams            1 is greedy decoding
    length_penalty   see karpjax/generation/beam.py
    """
    B, segments = len(source), vocabulary.segments(source)                             # (B, S)
    apply = functools.partial(model.apply, variables)
    states = apply(source, segments, method="encode")                                  # (B, S, D)
    memory = apply(states, method="keys_and_values")  # once, not at every token

    def step_with(memory, segments):
        def step(tokens, positions, cache):
            logits, cache = apply(tokens[:, None], memory, segments, cache=cache,
                                  positions=positions[:, None], method="decode")
            return logits[:, 0], cache                                                 # (B, V)
        return step
    zero = jnp.zeros(B, jnp.int32)                                                     # (B,)
    begin = jnp.full_like(zero, vocabulary.cls)
    cache = model.empty_cache(B, length, states.dtype)
    logits, cache = step_with(memory, segments)(begin, zero, cache)
    # A row's beams lie side by side and never leave it, so that their source needs no moving.
    of_beams = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), (memory, segments))
    special = tuple(np.flatnonzero(~vocabulary.can_follow).tolist())
    ids, _ = beam_search(step_with(*of_beams), cache, logits, zero + 1, length, beams,
                         eos=vocabulary.sep, pad=vocabulary.pad, banned=special,
                         length_penalty=length_penalty)                                # (B, K, T)
    return ids[:, 0]


def texts_of(vocabulary, rows) -> list[str]:
    """Return rows of ids (B, T) as texts up to their ends, without special tokens."""
    special = (vocabulary.pad, vocabulary.cls, vocabulary.sep)

    def text(ids):
        return vocabulary.decode([i for i in until_end(vocabulary, ids) if i not in special])
    return [text(ids).strip() for ids in np.asarray(rows).tolist()]


def words_of(vocabulary, ids) -> list[str]:
    """Return each token of a row (T,) as a text, the end among them."""
    return [vocabulary.decode([i]).strip() for i in until_end(vocabulary, np.asarray(ids).tolist())]


def until_end(vocabulary, ids: list[int]) -> list[int]:
    """Return the ids up to the first end token, with it."""
    return ids[:ids.index(vocabulary.sep) + 1] if vocabulary.sep in ids else ids
