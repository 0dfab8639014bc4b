"""Convolution and pooling whose gradients are fast on CPUs too, for all models of images.

They are flax's, with another implementation on CPUs (measured in experiments/speed). XLA's weight
gradient on the CPU is a convolution over the batch. At hundreds of images it leaves the cache: a
FLOP takes 2 to 5 times as long as at 32. So there, and only there, a large batch is convolved in
parts. The parts are strided rows, j::k, as the step's micro-batches are, so
that a sharded batch stays where it is. Depthwise convolution, for which XLA has no kernel there, is
a sum over the taps.
"""
import functools

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

CACHE = 1 << 18  # input values, a megabyte: less is convolved at once
PARTS = 64       # at most: each is compiled by itself


def convolution(x, kernel, strides, padding, **options):
    """Convolve (B, H, W, C) by (h, w, C / groups, F), as lax.conv_general_dilated does.

    On CPUs a large batch is convolved in parts, and a depthwise convolution tap by tap.
    """
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding,
                                 **options)
    groups = options.get("feature_group_count", 1)
    if groups == x.shape[-1] == kernel.shape[-1] > 1 and not is_dilated(**options):
        by_taps = functools.partial(depthwise, strides=strides, padding=padding)
        return lax.platform_dependent(x, kernel, cpu=by_taps, default=convolve)
    rows = part_size(x.shape[0])
    if rows == x.shape[0] or x.size < CACHE:
        return convolve(x, kernel)

    def on_cpu(x, kernel):
        parts = jnp.unstack(x.reshape(rows, -1, *x.shape[1:]), axis=1)       # k of (rows, H, W, C)
        y = jnp.stack([convolve(part, kernel) for part in parts], axis=1)    # (rows, k, h, w, F)
        return y.reshape(x.shape[0], *y.shape[2:])
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


def is_dilated(lhs_dilation=None, rhs_dilation=None, **_) -> bool:
    """Return whether a convolution's options ask for a dilation."""
    return any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))


def depthwise(x, kernel, strides, padding):
    """Convolve every channel by a kernel of its own, (h, w, 1, C).

    The result is a sum over the taps: the picture, moved, times the tap.
    """
    h, w, _, C = kernel.shape
    taps = kernel.astype(jnp.float32).reshape(h * w, C)
    copies = moved(x.astype(jnp.float32), (h, w), strides, padding)
    return sum(copy * tap for copy, tap in zip(copies, taps, strict=True)).astype(x.dtype)


def small_convolution(x, kernel, strides, padding, **options):
    """Convolve small pictures in a loop, as in a rollout or a search, neither grouped nor dilated.

    In a loop a CPU's convolution is 7-20x slower than outside (jax-ml/jax#12868), so there it is a
    matrix product.
    """
    h, w, C, F = kernel.shape

    def by_product(x, kernel):
        windows = jnp.concatenate(moved(x, (h, w), strides, padding), -1)      # (B, H', W', h w C)
        return windows @ kernel.reshape(h * w * C, F)
    convolve = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding,
                                 **options)
    return lax.platform_dependent(x, kernel, cpu=by_product, default=convolve)


def moved(x, size, strides, padding) -> list:
    """Return what each tap of a kernel (h, w) meets, row by row.

    Each is (B, H', W', C) with the output's H' and W', from (B, H, W, C).
    """
    (h, w), (down, across) = size, strides
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding) \
        if isinstance(padding, str) else padding
    wide = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    # From the first to the last row and column that a tap meets.
    rows = (wide.shape[1] - h) // down * down
    columns = (wide.shape[2] - w) // across * across
    return [wide[:, i:i + rows + 1:down, j:j + columns + 1:across]
            for i in range(h) for j in range(w)]


@functools.cache
def part_size(batch: int) -> int:
    """Return the rows of a part, 16 or a little more, that divide the batch.

    Chosen is the first that 8 (4, 2) devices can share.
    """
    fewest = max(16, -(-batch // PARTS))
    fitting = [n for n in range(fewest, 4 * fewest + 1) if batch % n == 0]
    return max(fitting, key=lambda n: (min(n & -n, 8), -n)) if fitting else batch


Conv = functools.partial(nn.Conv, conv_general_dilated=convolution)


def max_pool(x, n: int):
    """Return the largest of each n x n: (B, H, W, C) -> (B, H // n, W // n, C).

    On CPUs its gradient selects, while XLA's scatters.
    """
    B, H, W, C = x.shape

    def windows(x):
        x = x[:, :H // n * n, :W // n * n].reshape(B, H // n, n, W // n, n, C)
        x = functools.reduce(larger, jnp.unstack(x, axis=4))                   # (B, H/n, n, W/n, C)
        return functools.reduce(larger, jnp.unstack(x, axis=2))                # (B, H/n, W/n, C)
    return lax.platform_dependent(x, cpu=windows, default=lambda x: nn.max_pool(x, (n, n), (n, n)))


def larger(a, b):
    """Return the elementwise maximum: of equals the first, and NaN stays."""
    # Not jnp.max: its gradient asks which inputs equal the result. XLA may compute those again,
    # rounded otherwise, and none is equal: 0 / 0, as the guarantee tests found with airbench.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
