"""Convolution and pooling whose gradients are fast on CPUs too: flax's, for all models of images (experiments/speed).

XLA's weight gradient on the CPU is a convolution over the batch, and at hundreds of images leaves the cache: 2 to 5 times
slower a FLOP than at 32. So there, and only there, a large batch is convolved in parts; nothing else changes, and the parts
are strided rows, j::k, as the step's micro-batches are, so that a sharded batch stays where it is.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

CACHE = 1 << 18  # input values, a megabyte: less is convolved at once
PARTS = 64       # at most: each is compiled by itself


def in_parts(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated, in parts of the batch where the program is for a CPU."""
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    rows = part_size(x.shape[0])
    if rows == x.shape[0] or x.size < CACHE:
        return convolve(x, kernel)

    def on_cpu(x, kernel):
        parts = jnp.unstack(x.reshape(rows, -1, *x.shape[1:]), axis=1)                     # k of (rows, H, W, C)
        y = jnp.stack([convolve(part, kernel) for part in parts], axis=1)                  # (rows, k, h, w, F)
        return y.reshape(x.shape[0], *y.shape[2:])
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


@functools.cache
def part_size(batch: int) -> int:
    """Rows of a part: 16 or a little more; of those that divide the batch the first that 8 (4, 2) devices can share."""
    fewest = max(16, -(-batch // PARTS))
    fitting = [n for n in range(fewest, 4 * fewest + 1) if batch % n == 0]
    return max(fitting, key=lambda n: (min(n & -n, 8), -n)) if fitting else batch


Conv = functools.partial(nn.Conv, conv_general_dilated=in_parts)


def max_pool(x, n: int):
    """(B, H, W, C) -> (B, H // n, W // n, C): the largest of n x n. On CPUs its gradient selects where XLA's scatters."""
    B, H, W, C = x.shape

    def windows(x):
        x = x[:, :H // n * n, :W // n * n].reshape(B, H // n, n, W // n, n, C)
        x = functools.reduce(larger, jnp.unstack(x, axis=4))                               # (B, H/n, n, W/n, C)
        return functools.reduce(larger, jnp.unstack(x, axis=2))
    return lax.platform_dependent(x, cpu=windows, default=lambda x: nn.max_pool(x, (n, n), (n, n)))


def larger(a, b):
    """Elementwise; of equals the first; NaN stays. Not jnp.max: its gradient asks which inputs equal the result, and where XLA
    computes those anew, rounded otherwise, none may: 0 / 0, as the guarantee tests found with the airbench network.
    """
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
