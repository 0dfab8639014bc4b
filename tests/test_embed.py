"""The gradient of a table's rows: exact in bf16, by a matmul (on CUDA) as by a scatter."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.models.layers.embed import Embed, by_matmul, by_scatter, lookup

ROWS, WIDTH = 11, 3


def example(dtype):
    """Return a table, row numbers (4, 500), half of which are 2, and a gradient."""
    rng = np.random.default_rng(0)
    at = np.where(rng.random((4, 500)) < 0.5, 2, rng.integers(ROWS, size=(4, 500)))
    table, g = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(4, 500, WIDTH)) + 1
    return jnp.array(table, dtype), jnp.array(at), jnp.array(g, dtype)


def summed(table, at, g):
    """Return the gradients summed row by row, in float64."""
    total = np.zeros(table.shape)
    np.add.at(total, np.asarray(at).ravel(), np.asarray(g, np.float64).reshape(-1, WIDTH))
    return total


def gradient(f, table, at, g):
    return jax.vjp(lambda table: f(table, at), table)[1](g)[0]


@pytest.mark.parametrize("way", (by_matmul, by_scatter))
# Half a last digit of bf16 is 1/256.
@pytest.mark.parametrize("dtype,bound", ((jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)))
def test_ways_sum_gradients(way, dtype, bound):
    table, at, g = example(dtype)
    rows = way(table, at.ravel(), g.reshape(-1, WIDTH))
    assert rows.dtype == dtype
    np.testing.assert_allclose(np.asarray(rows, np.float64), summed(table, at, g), rtol=bound,
                               atol=1e-5)


def test_bf16_loses_nothing():
    table, at, g = example(jnp.bfloat16)

    def error(f):
        rows = np.asarray(gradient(f, table, at, g), np.float64)
        return np.abs(rows / summed(table, at, g) - 1).max()
    assert error(lookup) < 4e-3
    # The mutant does as nn.Embed.
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
