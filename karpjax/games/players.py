"""Who plays a game: a player is a pure function (state, obs, key) -> action, of one game; vmap makes many."""
from collections.abc import Callable

from karpjax.rl import distributions


def sees(run) -> Callable:
    """What a trained network (karpjax.restore) makes of an observation: (logits, value)."""
    return lambda obs: run.model.apply({"params": run.params}, obs)


def network(run) -> Callable:
    """The most likely move, without search."""
    return lambda state, obs, key: sees(run)(obs)[0].argmax(-1)


def sampled(run) -> Callable:
    """A move drawn from the policy."""
    return lambda state, obs, key: distributions.Categorical(sees(run)(obs)[0]).sample(key)
