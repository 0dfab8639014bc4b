"""Running mean and variance of observations and rewards (Chan et al. 1983, eq. 2.1).

They are updated once a rollout, not once a step. So all steps of a rollout, and all that is learned
from it, see the same numbers, and the devices add up theirs once.
"""
import jax
import jax.numpy as jnp


def init(shape) -> dict:
    """Return the statistics before the first rollout: count 0, mean 0, variance 1."""
    return {"count": jnp.float32(0), "mean": jnp.zeros(shape), "var": jnp.ones(shape)}


def update(stats: dict, x) -> dict:
    """Return the statistics with the rows x (E, T, ...) added, unchanged if a row is not finite."""
    # The whole rollout is left out then: one bad reward would stay in them for ever.
    old, new = stats["count"], jnp.float32(x.shape[0] * x.shape[1])
    mean, var = x.mean((0, 1)), x.var((0, 1))
    share, delta = new / (old + new), mean - stats["mean"]
    merged = {"count": old + new, "mean": stats["mean"] + delta * share,
              "var": stats["var"] * (1 - share) + var * share + delta**2 * share * (1 - share)}
    finite = jnp.isfinite(mean).all() & jnp.isfinite(var).all()
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), merged, stats)


def normalize(stats: dict, x):
    """Return x with mean 0 and deviation 1, clipped to -10 .. 10.

    The first rollout is only clipped.
    """
    return jnp.clip((x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-8), -10, 10)


def scale(stats: dict, x):
    """Return rewards x over the discounted return's deviation, clipped to -10 .. 10."""
    # The mean is kept: a reward's sign means something.
    return jnp.clip(x / jnp.sqrt(stats["var"] + 1e-8), -10, 10)
