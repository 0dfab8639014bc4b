"""The convolution in parts (karpjax/models/layers/conv.py) is a convolution."""
from flax import linen as nn
from guarantees.harness import mesh_of
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.core import sharding
from karpjax.models.layers import conv
from karpjax.models.layers.conv import convolution, max_pool, part_size, small_convolution

OPTIONS = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture(autouse=True)
def small_ones_are_cut_too(monkeypatch):
    monkeypatch.setattr(conv, "CACHE", 0)


def inputs(batch):
    """Return images (batch, 6, 5, 3) and a kernel (3, 3, 3, 4)."""
    x = jax.random.normal(jax.random.key(0), (batch, 6, 5, 3))
    return x, 0.1 * jax.random.normal(jax.random.key(1), (3, 3, 3, 4))


def loss(convolve):
    return lambda x, kernel: jnp.sum(jnp.tanh(convolve(x, kernel, (2, 1), "SAME", **OPTIONS)) ** 2)


def test_part_sizes():
    sizes = [part_size(n) for n in (1, 64, 127, 128, 200, 512, 1000, 2000)]
    assert sizes == [1, 16, 127, 16, 40, 16, 40, 40]
    assert all(n % part_size(n) == 0 for n in range(1, 3000))


@pytest.mark.parametrize("batch", [16, 130, 160])
def test_values_and_gradients_are_those_of_a_convolution(batch):
    x, kernel = inputs(batch)

    def values(f):
        return f(x, kernel)

    def gradients(f):
        return jax.grad(f, (0, 1))(x, kernel)

    def second_order(f):  # forward over reverse
        return jax.jvp(jax.grad(f, 1), (x, kernel), (x, kernel))

    def batched(f):
        return jax.vmap(jax.grad(f, 1), (None, 0))(x, kernel[None])
    for take in (values, gradients, second_order, batched):
        ours, plain = (jax.jit(take, static_argnums=0)(loss(convolve))
                       for convolve in (convolution, lax.conv_general_dilated))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                     ours, plain)


@pytest.mark.parametrize("kernel,strides,padding",
                         [((3, 3), (1, 1), "SAME"), ((5, 5), (2, 2), "SAME"),
                          ((3, 2), (2, 1), "VALID"), ((3, 3), (2, 2), ((1, 1), (0, 2)))], ids=str)
def test_depthwise_convolution_is_a_convolution(kernel, strides, padding):
    """On this platform it is computed by taps: the compiled program has no convolution."""
    x = jax.random.normal(jax.random.key(0), (3, 9, 8, 6))
    taps = jax.random.normal(jax.random.key(1), (*kernel, 1, 6))
    ours = nn.Conv(6, kernel, strides, padding, feature_group_count=6, use_bias=False,
                   conv_general_dilated=convolution)
    plain = nn.Conv(6, kernel, strides, padding, feature_group_count=6, use_bias=False)

    def loss(layer):
        def of(x, taps):
            return jnp.sum(jnp.tanh(layer.apply({"params": {"kernel": taps}}, x)) ** 2)
        return of
    program = jax.jit(jax.value_and_grad(loss(ours), (0, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                 program(x, taps), jax.jit(jax.value_and_grad(loss(plain), (0, 1)))(x, taps))
    assert "convolution(" not in program.lower(x, taps).compile().as_text()


def test_dilated_and_grouped_convolutions_are_not_depthwise():
    x = jax.random.normal(jax.random.key(0), (3, 9, 8, 6))
    for options in (dict(kernel_dilation=2, feature_group_count=6), dict(feature_group_count=3)):
        ours, plain = (nn.Conv(6, (3, 3), use_bias=False, **options, **own) for own in (
            dict(conv_general_dilated=convolution), {}))
        variables = plain.init(jax.random.key(1), x)
        np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), rtol=1e-5,
                                   atol=1e-5)


def test_a_sharded_batch_stays_where_it_is():
    """8 devices exchange only sums of loss and gradient. Contiguous parts would move rows."""
    mesh = mesh_of(8)
    x, kernel = inputs(128)
    x = jax.device_put(x, sharding.batch_sharding(mesh))
    moved = ("all-gather", "collective-permute", "all-to-all")

    def text(convolve):
        program = jax.jit(jax.value_and_grad(loss(convolve), argnums=1))
        return program.lower(x, kernel).compile().as_text()

    def contiguous(x, kernel, *args, **options):  # the mutant
        return jnp.concatenate([lax.conv_general_dilated(part, kernel, *args, **options)
                                for part in jnp.split(x, 2)])
    assert "all-reduce" in text(convolution)
    assert not any(word in text(convolution) for word in moved)
    assert any(word in text(contiguous) for word in moved)


@pytest.mark.parametrize("kind", ["all differ", "ties"])
def test_pooling_is_flaxs_and_so_is_its_gradient(kind):
    """Values and gradients are the same bits. The first of equal values has all the gradient."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 6, 2))
    x = jnp.round(x) if kind == "ties" else x

    def whole(x):
        return nn.max_pool(x, (3, 3), (3, 3))
    np.testing.assert_array_equal(max_pool(x, 3), whole(x))
    weight = jax.random.normal(jax.random.key(1), whole(x).shape)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weight * pool(x)))(x)
    np.testing.assert_array_equal(gradient(lambda x: max_pool(x, 3)), gradient(whole))


def test_pooling_keeps_what_is_not_a_number():
    """A nan is kept wherever it stands in its window, or a bad step would pass as good (G9)."""
    for at in np.ndindex(2, 2):
        x = jnp.ones((1, 2, 2, 1)).at[0, *at, 0].set(jnp.nan)
        assert jnp.isnan(max_pool(x, 2)).all()


@pytest.mark.parametrize("size, strides, padding",
                         [(3, (1, 1), "SAME"), (1, (1, 1), "SAME"), (4, (1, 1), "SAME"),
                          (3, (2, 1), "VALID"), (3, (2, 2), ((1, 1), (0, 2)))])
def test_small_convolution_is_lax_s(size, strides, padding):
    """Values and gradients agree."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))

    def ours(x, kernel):
        return small_convolution(x, kernel, strides, padding, **OPTIONS)

    def expected(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, padding, **OPTIONS)

    def slope(f, argument):
        return jax.grad(lambda *a: (f(*a) ** 2).sum(), argument)(x, kernel)
    np.testing.assert_allclose(ours(x, kernel), expected(x, kernel), atol=1e-5)
    for argument in (0, 1):
        np.testing.assert_allclose(slope(ours, argument), slope(expected, argument),
                                   rtol=1e-4, atol=1e-3)
