"""The gradient of a table's rows: exact in bf16, and the same as a matmul, which CUDA takes, and as a scatter."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.models.layers.embed import Embed, by_matmul, by_scatter, lookup

ROWS, WIDTH = 11, 3


def example(dtype):
    """A table, numbers (4, 500) of which half are row 2, and a gradient."""
    rng = np.random.default_rng(0)
    at = np.where(rng.random((4, 500)) < 0.5, 2, rng.integers(ROWS, size=(4, 500)))
    table, g = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(4, 500, WIDTH)) + 1
    return jnp.array(table, dtype), jnp.array(at), jnp.array(g, dtype)


def summed(table, at, g):
    """Row by row, in float64."""
    found = np.zeros(table.shape)
    np.add.at(found, np.asarray(at).ravel(), np.asarray(g, np.float64).reshape(-1, WIDTH))
    return found


def gradient(f, table, at, g):
    return jax.vjp(lambda table: f(table, at), table)[1](g)[0]


@pytest.mark.parametrize("way", (by_matmul, by_scatter))
# half a last digit of bf16: 1/256
@pytest.mark.parametrize("dtype,bound", ((jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)))
def test_ways_sum_gradients(way, dtype, bound):
    table, at, g = example(dtype)
    found = way(table, at.ravel(), g.reshape(-1, WIDTH))
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), summed(table, at, g), rtol=bound,
                               atol=1e-5)


def test_bf16_loses_nothing():
    table, at, g = example(jnp.bfloat16)
    error = lambda f: np.abs(np.asarray(gradient(f, table, at, g),
                                        np.float64) / summed(table, at, g) - 1).max()
    assert error(lookup) < 4e-3
    # the mutant: what nn.Embed does
    assert error(lambda table, at: jnp.take(table, at, axis=0)) > 0.03


def test_lookup_is_the_rows():
    table, at, g = example(jnp.float32)
    np.testing.assert_array_equal(lookup(table, at), np.asarray(table)[np.asarray(at)])
    plain = gradient(lambda table, at: table[at], table, at, g)
    np.testing.assert_array_equal(gradient(lookup, table, at, g), plain)
    embed = Embed(ROWS, WIDTH)
    np.testing.assert_array_equal(embed.apply({"params": {"embedding": table}}, at),
                                  lookup(table, at))
    np.testing.assert_allclose(embed.apply({"params": {"embedding": table}}, g, method="attend"),
                               g @ table.T, rtol=1e-6)
