"""Convolution and pooling whose gradients are fast on CPUs too: flax's, for all models of images (experiments/speed).

XLA's weight gradient on the CPU is a convolution over the batch, and at hundreds of images leaves the cache: 2 to 5 times
slower a FLOP than at 32. So there, and only there, a large batch is convolved in parts; nothing else changes, and the parts
are strided rows, j::k, as the step's micro-batches are, so that a sharded batch stays where it is. Depthwise convolution,
for which XLA has no kernel there, is a sum over the taps.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

CACHE = 1 << 18  # input values, a megabyte: less is convolved at once
PARTS = 64       # at most: each is compiled by itself


def convolution(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated of (B, H, W, C) by (h, w, C / groups, F), where the program is for a CPU as said above."""
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    if options.get("feature_group_count", 1) == x.shape[-1] == kernel.shape[-1] > 1 and not dilated(**options):
        by_taps = functools.partial(depthwise, strides=strides, padding=padding)
        return lax.platform_dependent(x, kernel, cpu=by_taps, default=convolve)
    rows = part_size(x.shape[0])
    if rows == x.shape[0] or x.size < CACHE:
        return convolve(x, kernel)

    def on_cpu(x, kernel):
        parts = jnp.unstack(x.reshape(rows, -1, *x.shape[1:]), axis=1)                     # k of (rows, H, W, C)
        y = jnp.stack([convolve(part, kernel) for part in parts], axis=1)                  # (rows, k, h, w, F)
        return y.reshape(x.shape[0], *y.shape[2:])
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


def dilated(lhs_dilation=None, rhs_dilation=None, **_) -> bool:
    return any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))


def depthwise(x, kernel, strides, padding):
    """Every channel by a kernel of its own, (h, w, 1, C): the sum over the taps of the picture, moved, times the tap."""
    h, w, _, C = kernel.shape
    taps = kernel.astype(jnp.float32).reshape(h * w, C)
    copies = moved(x.astype(jnp.float32), (h, w), strides, padding)
    return sum(copy * tap for copy, tap in zip(copies, taps)).astype(x.dtype)


def small_convolution(x, kernel, strides, padding, **options):
    """lax.conv_general_dilated, not grouped or dilated, for small pictures in a loop, as in a rollout or a search: there a
    CPU's convolution is 7-20x slower than outside (jax-ml/jax#12868), so where the program is for one it is a product."""
    h, w, C, F = kernel.shape

    def by_product(x, kernel):
        return jnp.concatenate(moved(x, (h, w), strides, padding), -1) @ kernel.reshape(h * w * C, F)
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    return lax.platform_dependent(x, kernel, cpu=by_product, default=convolve)


def moved(x, size, strides, padding) -> list:
    """(B, H, W, C) -> for each tap of a kernel (h, w), row by row, what it meets: (B, H', W', C) of the output's H' and W'."""
    (h, w), (down, across) = size, strides
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    wide = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (wide.shape[1] - h) // down, (wide.shape[2] - w) // across           # of the output, but one
    return [wide[:, i:i + rows * down + 1:down, j:j + columns * across + 1:across] for i in range(h) for j in range(w)]


@functools.cache
def part_size(batch: int) -> int:
    """Rows of a part: 16 or a little more; of those that divide the batch the first that 8 (4, 2) devices can share."""
    fewest = max(16, -(-batch // PARTS))
    fitting = [n for n in range(fewest, 4 * fewest + 1) if batch % n == 0]
    return max(fitting, key=lambda n: (min(n & -n, 8), -n)) if fitting else batch


Conv = functools.partial(nn.Conv, conv_general_dilated=convolution)


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
