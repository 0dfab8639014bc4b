"""The k largest values of each row, found on the device that holds the row.

XLA sends the rows of a sharded array to every device before `lax.top_k`: its partitioner splits a
top-k by the values alone, not by rows. It splits maxima by both.
"""
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

WIDTH = 128  # of a group: a maximum of each, then k groups, is as fast as top_k on a CPU


def largest(values: Float[Array, "B N"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """Return (values, places) as `lax.top_k`: the largest first, of equal ones the first."""
    B, N = values.shape
    if N <= k * WIDTH:
        places = one_by_one(values, k)                                              # (B, k)
    else:
        padding = ((0, 0), (0, -N % WIDTH))
        groups = jnp.pad(values, padding, constant_values=-jnp.inf).reshape(B, -1, WIDTH)
        # They lie in the k groups of the largest maxima. In order, or equal values would not be.
        best = jnp.sort(one_by_one(groups.max(-1), k), axis=-1)                     # (B, k)
        inside = one_by_one(pick(groups, best).reshape(B, k * WIDTH), k)            # (B, k)
        places = pick(best, inside // WIDTH) * WIDTH + inside % WIDTH
    return pick(values, places), places


def one_by_one(values: Float[Array, "B N"], k: int) -> Int[Array, "B k"]:
    """Return the places of the k largest, by k passes, each of which takes one out."""
    numbers = jnp.arange(values.shape[1])
    # above -inf, or what is taken out would equal what is left
    left = jnp.maximum(values, jnp.finfo(values.dtype).min)

    def body(left, _):
        place = jnp.argmax(left, axis=-1)                                           # (B,)
        return jnp.where(numbers == place[:, None], -jnp.inf, left), place
    return lax.scan(body, left, None, length=k)[1].T


def pick(values: Array, index: Int[Array, "B M"]) -> Array:
    """Return (B, M, ...): the elements of each row that `index` names, out of (B, N, ...)."""
    # by row, so that rows on several devices stay where they are
    return jax.vmap(lambda row, chosen: row[chosen])(values, index)
