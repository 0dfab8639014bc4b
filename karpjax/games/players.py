"""Who plays a game: a player is a pure function (state, obs, key) -> action, of one game; vmap makes many."""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from karpjax import distributions


def at_random(state, obs, key):
    """A legal move, all as likely as one another."""
    return jax.random.categorical(key, distributions.allowed(jnp.zeros(obs["legal"].shape), obs))


def sees(run) -> Callable:
    """What a trained network (karpjax.restore) makes of an observation: (logits, value)."""
    return lambda obs: run.model.apply({"params": run.params}, obs)


def network(run) -> Callable:
    """The most likely move, without search."""
    return lambda state, obs, key: sees(run)(obs)[0].argmax(-1)


def sampled(run) -> Callable:
    """A move drawn from the policy."""
    return lambda state, obs, key: distributions.Categorical(sees(run)(obs)[0]).sample(key)
