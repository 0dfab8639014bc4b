"""Decoding token by token: each row continues its own prompt.

    step = lambda tokens, positions, cache: ...  # one token a row, see the package's docstring
    tokens = generate(step, cache, logits, start, 200, greedy)
"""
from collections.abc import Callable
from numbers import Integral

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError


def generate(step: Callable, cache, logits: Float[Array, "B V"], start: Int[Array, "B"],
             length, choose: Callable, keys=None, eos=-1, pad=0) -> Int[Array, "B L"]:
    """Return `length` new tokens for each row. After `eos` a row holds `pad`.

    step    (tokens (B,), positions (B,), cache) -> (logits (B, V), cache)
    logits  after the prompt
    start   the position of each row's first new token: its prompt's length. The cache must have
            room for start + length - 1 tokens
    choose  (logits (B, V), keys (B,)) -> tokens (B,), as `greedy` and `sampler(...)`
    keys    (B,), one a row. The token at position p is drawn with fold_in(key, p), so a sample
            depends on its row's key alone, on no batch, mesh or device. None: `choose` needs none
    eos     the token that ends a row, -1 for none
    """
    check_length(length)

    def choose_at(logits, positions):
        if keys is None:
            return choose(logits, None)
        return choose(logits, jax.vmap(jax.random.fold_in)(keys, positions))

    def body(carry, i):
        token, ended, cache = carry
        logits, cache = step(token, start + i, cache)                               # (B, V)
        ended |= token == eos                                                       # (B,)
        token = jnp.where(ended, pad, choose_at(logits, start + i + 1))             # (B,)
        return (token, ended, cache), token

    first = choose_at(logits, start)                                                # (B,)
    ended = jnp.zeros_like(first, bool)
    # one step fewer than tokens: none follows the last one
    _, rest = lax.scan(body, (first, ended, cache), jnp.arange(length - 1))         # (L - 1, B)
    return jnp.concatenate([first[None], rest]).T


def check_length(length) -> None:
    """Check the number of new tokens, which is a size of the program."""
    if not is_whole(length, 1):
        raise UserError(f"length: expected a whole number of at least 1, found {length!r}; it is "
                        "the number of new tokens")


def is_whole(value, least: int) -> bool:
    """Return whether a value is a whole number of at least `least`. True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
