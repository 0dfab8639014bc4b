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
    x = jax.random.normal(jax.random.key(0), (batch, 6, 5, 3))
    return x, 0.1 * jax.random.normal(jax.random.key(1), (3, 3, 3, 4))


def loss(convolve):
    return lambda x, kernel: jnp.sum(jnp.tanh(convolve(x, kernel, (2, 1), "SAME", **OPTIONS)) ** 2)


def test_part_sizes():
    assert [part_size(n) for n in (1, 64, 127, 128, 200, 512, 1000, 2000)] == [1, 16, 127, 16, 40, 16, 40, 40]
    assert all(n % part_size(n) == 0 for n in range(1, 3000))


@pytest.mark.parametrize("batch", [16, 130, 160])
def test_values_and_gradients_are_those_of_a_convolution(batch):
    x, kernel = inputs(batch)
    for take in (lambda f: f(x, kernel), lambda f: jax.grad(f, (0, 1))(x, kernel),
                 # of second order, forward
                 lambda f: jax.jvp(jax.grad(f, 1), (x, kernel), (x, kernel)),
                 lambda f: jax.vmap(jax.grad(f, 1), (None, 0))(x, kernel[None])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
                     jax.jit(lambda: take(loss(convolution)))(),
                     jax.jit(lambda: take(loss(lax.conv_general_dilated)))())


@pytest.mark.parametrize("kernel,strides,padding",
                         [((3, 3), (1, 1), "SAME"), ((5, 5), (2, 2), "SAME"),
                          ((3, 2), (2, 1), "VALID"), ((3, 3), (2, 2), ((1, 1), (0, 2)))], ids=str)
def test_depthwise_convolution_is_a_convolution(kernel, strides, padding):
    """On this platform by taps: the compiled program has no convolution."""
    x, taps = jax.random.normal(jax.random.key(0),
                                (3, 9, 8, 6)), jax.random.normal(jax.random.key(1), (*kernel, 1, 6))
    ours = nn.Conv(6, kernel, strides, padding, feature_group_count=6, use_bias=False,
                   conv_general_dilated=convolution)
    plain = nn.Conv(6, kernel, strides, padding, feature_group_count=6, use_bias=False)
    loss = lambda layer: lambda x, taps: jnp.sum(jnp.tanh(layer.apply({"params": {"kernel": taps}}, x)) ** 2)
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
    """On 8 devices nothing is exchanged but the sums of loss and gradient; contiguous parts would move rows."""
    mesh = mesh_of(8)
    x, kernel = inputs(128)
    x = jax.device_put(x, sharding.batch_sharding(mesh))
    moved = ("all-gather", "collective-permute", "all-to-all")

    def text(convolve):
        return jax.jit(jax.value_and_grad(loss(convolve), argnums=1)).lower(x, kernel).compile().as_text()

    def contiguous(x, kernel, *args, **options):  # the mutant
        return jnp.concatenate([lax.conv_general_dilated(part, kernel, *args, **options)
                                for part in jnp.split(x, 2)])
    assert "all-reduce" in text(convolution)
    assert not any(word in text(convolution) for word in moved)
    assert any(word in text(contiguous) for word in moved)


@pytest.mark.parametrize("kind", ["all differ", "ties"])
def test_pooling_is_flaxs_and_so_is_its_gradient(kind):
    """Bit by bit; of equal values the first has all of the gradient."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 6, 2))
    x = jnp.round(x) if kind == "ties" else x
    whole = lambda x: nn.max_pool(x, (3, 3), (3, 3))
    np.testing.assert_array_equal(max_pool(x, 3), whole(x))
    weight = jax.random.normal(jax.random.key(1), whole(x).shape)
    gradient = lambda pool: jax.grad(lambda x: jnp.sum(weight * pool(x)))(x)
    np.testing.assert_array_equal(gradient(lambda x: max_pool(x, 3)), gradient(whole))


def test_pooling_keeps_what_is_not_a_number():
    """Wherever it stands in its window: or a bad step would pass for a good one (G9)."""
    for at in np.ndindex(2, 2):
        x = jnp.ones((1, 2, 2, 1)).at[0, *at, 0].set(jnp.nan)
        assert jnp.isnan(max_pool(x, 2)).all()


@pytest.mark.parametrize("size, strides, padding",
                         [(3, (1, 1), "SAME"), (1, (1, 1), "SAME"), (4, (1, 1), "SAME"),
                          (3, (2, 1), "VALID"), (3, (2, 2), ((1, 1), (0, 2)))])
def test_small_convolution_is_lax_s(size, strides, padding):
    """And its gradients."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))
    ours = lambda x, k: small_convolution(x, k, strides, padding, **OPTIONS)
    expected = lambda x, k: lax.conv_general_dilated(x, k, strides, padding, **OPTIONS)
    np.testing.assert_allclose(ours(x, kernel), expected(x, kernel), atol=1e-5)
    for argument in (0, 1):
        slope = lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), argument)(x, kernel)
        np.testing.assert_allclose(slope(ours), slope(expected), rtol=1e-4, atol=1e-3)
