"""Players: pure functions (state, obs, key) -> action of one game, of which vmap makes many."""
from collections.abc import Callable

from karpjax.core import old_names
from karpjax.rl import distributions


def policy_and_value(run) -> Callable:
    """Return a trained network (karpjax.restore) as a function: obs -> (logits, value)."""
    def judged(obs):
        if "source" in run.variables:  # the statistics that config.data.normalize trained it with
            obs = run.task.source.normalize_obs(run.variables["source"]["moments"], obs)
        return run.model.apply({"params": run.params}, obs)
    return judged


def network(run) -> Callable:
    """Return the player of a network's most likely moves, without search."""
    def player(state, obs, key):
        logits, _ = policy_and_value(run)(obs)
        return logits.argmax(-1)
    return player


def sampled(run) -> Callable:
    """Return the player whose moves are drawn from a network's policy."""
    def player(state, obs, key):
        logits, _ = policy_and_value(run)(obs)
        return distributions.Categorical(logits).sample(key)
    return player


__getattr__ = old_names.attributes("games.players")
