"""How much better than expected an action was: from a rollout's rewards, (E, T), over the T steps of E environments.

Terminated: the task is over and nothing comes after. Truncated: only the clock ran out, so what would have come is estimated
from the observation that was reached. An episode is over in both cases, and no reward counts for the steps of another.
"""
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from karpjax.core import old_names
from karpjax.core.metric import mean


@old_names.old_keywords(trace="gae_lambda")
def gae(reward: Float[Array, "E T"], value: Float[Array, "E T"], next_value: Float[Array, "E T"],
        terminated: Bool[Array, "E T"], truncated: Bool[Array, "E T"], discount: float, gae_lambda: float) -> Float[Array, "E T"]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    value, next_value   of the observation acted on, and of the one reached (`final_obs`, never a reset one)
    gae_lambda               lambda: 0 one-step temporal differences, 1 returns less the value
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * ~(terminated | truncated)

    def step(later, now):
        delta, decay = now
        later = delta + decay * later
        return later, later
    return lax.scan(step, jnp.zeros(len(reward)), (delta.T, decay.T), reverse=True)[1].T


def returns_to_go(reward: Float[Array, "E T"], over: Float[Array, "E T"], discount: float):
    """Discounted return from each step to its episode's end, (E, T), and 1 where that end is inside the rollout."""
    def step(carry, now):
        later, known = carry
        reward, over = now
        later = reward + discount * later * (1 - over)
        known = jnp.maximum(known, over)  # walking backwards: once an end was seen, every earlier step's end is known
        return (later, known), (later, known)
    zeros = jnp.zeros(reward.shape[0])
    _, (returns, known) = lax.scan(step, (zeros, zeros), (reward.T, over.T), reverse=True)
    return returns.T, known.T


def normalized(x: Float[Array, "E T"], weight: Float[Array, "E T"] | None = None) -> Float[Array, "E T"]:
    """Mean 0 and deviation 1 over the whole rollout, on all devices. Never over a minibatch: cutting it in other parts
    (devices, micro-batches) must not change what is learned."""
    average = lambda x: (lambda total, count: total / jnp.maximum(count, 1))(*mean(x, weight))
    centred = x - average(x)
    return centred / jnp.sqrt(average(centred**2) + 1e-8)
