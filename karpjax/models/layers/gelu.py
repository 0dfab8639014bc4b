"""The exact GELU (Hendrycks & Gimpel 2016), x Phi(x), that every model here uses."""
from flax import linen as nn
from jax import lax


def gelu(x):
    """Return x Phi(x), elementwise."""
    # The barrier keeps the result: a TPU's compiler would compute erf again in each matrix product
    # and convolution that reads it, and take five times as long to compile a transformer layer.
    return lax.optimization_barrier(nn.gelu(x, approximate=False))
