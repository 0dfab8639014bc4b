"""Rows of a table by number, as in nn.Embed, with a better gradient.

It is exact in bf16 and fast on GPUs. Texts repeat "the", padding and the mask token, so thousands
of gradients fall on one row. Summed in bf16 most of them are lost (256 + 1 is 256). XLA's scatter
on CUDA adds them one by one, each waiting for the other: 341 ms for 65,536 tokens on an H200. So
sums are in float32. On CUDA they are a matmul with the one-hot rows (2.3 ms). There a scatter in
float32 is as slow with jaxlib 0.10.2 to 0.11.0 (openxla/xla issues 26371 and 46225,
experiments/gpu).
"""
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.models.layers.transformer import init

MATMUL_ROWS = 1 << 16  # of a table: one-hot rows of more, as for hashed n-grams, fill the memory


class Embed(nn.Module):
    """A table of embeddings (rows, width)."""
    rows: int
    width: int

    def setup(self):
        """Make the table."""
        self.embedding = self.param("embedding", init, (self.rows, self.width))

    def __call__(self, at: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        return lookup(jnp.asarray(self.embedding), at)               # a restored table is NumPy's

    def attend(self, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return the product with every row: logits."""
        return jnp.dot(x, self.embedding.T)


@jax.custom_vjp
def lookup(table: Float[Array, "V D"], at: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """Return the rows of a table by number."""
    return jnp.take(table, at, axis=0)


def by_scatter(table, at, g):
    """Return the table's gradient (V, D) by a scatter of g (N, D)."""
    summed = jnp.zeros(table.shape, jnp.float32).at[at].add(g.astype(jnp.float32))
    return summed.astype(table.dtype)


def by_matmul(table, at, g):
    """Return the table's gradient (V, D) by a product of one-hot rows with g (N, D)."""
    one_hot = (at[:, None] == jnp.arange(len(table))).astype(g.dtype)           # (N, V)
    summed = jnp.matmul(one_hot.T, g, precision="highest", preferred_element_type=jnp.float32)
    return summed.astype(table.dtype)                                           # (V, D)


def forward(table, at):
    """Return the rows, and what the backward pass needs."""
    return lookup(table, at), (table, at)


def backward(kept, g):
    """Return the gradients of table and numbers (none)."""
    table, at = kept
    at, g = at.reshape(-1), g.reshape(-1, g.shape[-1])                          # (N,), (N, D)
    on_cuda = by_matmul if len(table) <= MATMUL_ROWS else by_scatter
    return lax.platform_dependent(table, at, g, cuda=on_cuda, default=by_scatter), None


lookup.defvjp(forward, backward)
