"""Search with a network: Gumbel AlphaZero (Danihelka et al. 2022, "Policy improvement by planning with Gumbel"), by mctx.

The rules of the game are the model, so nothing is learned but policy and value. From one position to the next the player
changes: a discount of -1.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from karpjax.core.errors import extra
from karpjax.games.players import sees


def search(env, see: Callable, simulations: int, state, obs, key, noise: float = 1.0):
    """One game's search: {"action", "weights" (A,), "value", "prior" (A,)}; weights are the improved policy.

    see     obs -> (logits (A,) with illegal ones low, value)
    noise   of the Gumbel draw at the root: 1 explores, as in training; 0 plays the best found
    """
    mctx = extra("mctx", "pgx")

    def recurrent(_, key, action, states):
        states, out = jax.vmap(env.step, (0, 0, None))(states, action, key)
        logits, value = see(out.obs)
        over = out.terminated | out.truncated
        return mctx.RecurrentFnOutput(reward=out.reward, discount=jnp.where(over, 0.0, -1.0), prior_logits=logits,
                                      value=jnp.where(over, 0.0, value)), states

    one = lambda tree: jax.tree.map(lambda x: x[None], tree)
    logits, value = see(one(obs))
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=one(state))
    found = mctx.gumbel_muzero_policy(None, key, root, recurrent, simulations, invalid_actions=~obs["legal"][None],
                                      gumbel_scale=noise)
    return {"action": found.action[0], "weights": found.action_weights[0],
            "value": found.search_tree.summary().value[0]}


def searching(run, env, simulations: int) -> Callable:
    """A player: a trained network (karpjax.restore) with a search of that many simulations."""
    return lambda state, obs, key: search(env, sees(run), simulations, state, obs, key, noise=0.0)["action"]
