"""A convolution layer whose gradient is fast on CPUs too: flax's, for all models of images.

XLA's weight gradient on the CPU is a convolution over the batch, and at hundreds of images leaves the cache: 2 to 5 times
slower a FLOP than at 32 (experiments/speed). So there, and only there, a large batch is convolved in parts; nothing else
changes, and the parts are strided rows, j::k, as the step's micro-batches are, so that a sharded batch stays where it is.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

SMALLEST, PARTS = 128, 64  # of a batch that is cut; at most so many parts: each is compiled by itself


def in_parts(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated, in parts of the batch where the program is for a CPU."""
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    rows = part_size(x.shape[0])
    if rows == x.shape[0]:
        return convolve(x, kernel)

    def on_cpu(x, kernel):
        parts = jnp.unstack(x.reshape(rows, -1, *x.shape[1:]), axis=1)                     # k of (rows, H, W, C)
        y = jnp.stack([convolve(part, kernel) for part in parts], axis=1)                  # (rows, k, h, w, F)
        return y.reshape(x.shape[0], *y.shape[2:])
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


@functools.cache
def part_size(batch: int) -> int:
    """Rows of a part: about 16 to 64, of those that divide the batch the one that most devices can share."""
    fewest = max(16, -(-batch // PARTS))
    fitting = [n for n in range(fewest, 4 * fewest + 1) if batch % n == 0]
    return max(fitting, key=lambda n: (n & -n, -n)) if batch >= SMALLEST and fitting else batch


Conv = functools.partial(nn.Conv, conv_general_dilated=in_parts)
