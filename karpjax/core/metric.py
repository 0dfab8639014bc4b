"""Metrics as the step and the evaluation add them: totals over counts, divided once."""
import jax.numpy as jnp
from jaxtyping import Array, Float

from karpjax.core.errors import UserError

Pair = tuple[Float[Array, ""], Float[Array, ""]]  # (total, count): divided once, over the global batch


def mean(values: Float[Array, "B *rest"], weight: Float[Array, "*leading"] | None = None) -> Pair:
    """(total, count) of per-example (or per-token) values; the step turns it into a mean over the *global* batch.

    weight has the leading axes of values: (B,) weighs examples, (B, T) tokens; None counts every element once.
    """
    weight = jnp.ones(values.shape) if weight is None else weight
    if weight.shape != values.shape[:weight.ndim]:
        raise UserError(f"karpjax.mean: expected a weight with the leading axes of the values {values.shape}, "
                        f"found {weight.shape}; give one weight an example, (B,), or an element, {values.shape}")
    weight = jnp.broadcast_to(weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim)), values.shape)
    # A weight of 0 removes an example even if its value is inf or nan (padding).
    return jnp.sum(jnp.where(weight == 0, 0.0, values * weight)), jnp.sum(weight).astype(jnp.float32)
