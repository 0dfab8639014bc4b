"""Running mean and variance of what environments give, brought up to date once a rollout (Chan et al. 1983, eq. 2.1).

Once a rollout, not once a step: all steps of a rollout, and all that is learned from it, see the same numbers, and the
devices add up theirs once.
"""
import jax
import jax.numpy as jnp


def init(shape) -> dict:
    return {"count": jnp.float32(0), "mean": jnp.zeros(shape), "var": jnp.ones(shape)}


def update(moments: dict, x) -> dict:
    """With the rows x (E, T, ...); as they were where a row is not finite: one bad reward must not stay for ever."""
    old, new = moments["count"], jnp.float32(x.shape[0] * x.shape[1])
    mean, var = x.mean((0, 1)), x.var((0, 1))
    share, delta = new / (old + new), mean - moments["mean"]
    merged = {"count": old + new, "mean": moments["mean"] + delta * share,
              "var": moments["var"] * (1 - share) + var * share + delta**2 * share * (1 - share)}
    finite = jnp.isfinite(mean).all() & jnp.isfinite(var).all()
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), merged, moments)


def normalize(moments: dict, x):
    """Mean 0, deviation 1, at most 10 deviations from 0; in the first rollout mean and deviation count as 0 and 1."""
    return jnp.clip((x - moments["mean"]) / jnp.sqrt(moments["var"] + 1e-8), -10, 10)


def scale(moments: dict, x):
    """Rewards x by the deviation of the discounted return; the mean is kept: a reward's sign means something."""
    return jnp.clip(x / jnp.sqrt(moments["var"] + 1e-8), -10, 10)
