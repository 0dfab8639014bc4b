"""Estimates of how much better than expected an action was, from rewards (E environments, T steps).

Terminated: the task has ended and nothing comes after. Truncated: only the clock ran out, so the
rest is estimated from the observation that was reached. An episode is done in both cases, and no
reward counts for the steps of another.
"""
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from karpjax.core import old_names
from karpjax.core.metric import mean


@old_names.old_keywords(trace="gae_lambda")
def gae(reward: Float[Array, "E T"], value: Float[Array, "E T"], next_value: Float[Array, "E T"],
        terminated: Bool[Array, "E T"], truncated: Bool[Array, "E T"], discount: float,
        gae_lambda: float) -> Float[Array, "E T"]:
    """Return generalised advantage estimates (Schulman et al. 2016, eq. 16).

    value        of the observation acted on
    next_value   of the observation reached (`final_obs`, never a reset one)
    gae_lambda   0: one-step temporal differences; 1: returns less the value
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * ~(terminated | truncated)

    def step(later, now):
        delta, decay = now
        later = delta + decay * later
        return later, later
    return lax.scan(step, jnp.zeros(len(reward)), (delta.T, decay.T), reverse=True)[1].T


@old_names.old_keywords(over="done")
def returns_to_go(reward: Float[Array, "E T"], done: Float[Array, "E T"], discount: float):
    """Return each step's discounted return to its episode's end, and 1 where that end is known.

    Both are (E, T). An end is known if it lies inside the rollout.
    """
    def step(carry, now):
        later, known = carry
        reward, done = now
        later = reward + discount * later * (1 - done)
        known = jnp.maximum(known, done)  # backwards: all steps before an end know theirs
        return (later, known), (later, known)
    zeros = jnp.zeros(reward.shape[0])
    _, (returns, known) = lax.scan(step, (zeros, zeros), (reward.T, done.T), reverse=True)
    return returns.T, known.T


def normalized(x: Float[Array, "E T"],
               weight: Float[Array, "E T"] | None = None) -> Float[Array, "E T"]:
    """Return x with mean 0 and standard deviation 1 over the whole rollout, on all devices."""
    # Never over a minibatch: cutting the rollout into other parts (devices, micro-batches) must
    # not change what is learned.
    centred = x - average(x, weight)
    return centred / jnp.sqrt(average(centred**2, weight) + 1e-8)


def average(x: Float[Array, "E T"], weight: Float[Array, "E T"] | None) -> Float[Array, ""]:
    """Return the weighted mean of x, or 0 if all weights are 0."""
    total, count = mean(x, weight)
    return total / jnp.where(count == 0, 1, count)
