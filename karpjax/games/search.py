"""Search with a network, by mctx: Gumbel AlphaZero (Danihelka et al. 2022).

After "Policy improvement by planning with Gumbel". The rules of the game are the model, so only
policy and value are learned. Players alternate, so the discount is -1.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from karpjax.core import old_names
from karpjax.core.errors import extra
from karpjax.games.players import policy_and_value as network_of


@old_names.old_keywords(see="policy_and_value")
def search(env, policy_and_value: Callable, simulations: int, state, obs, key, noise: float = 1.0):
    """Search from one position; return {"action", "weights" (A,), "value"}.

    The weights are the improved policy.

    policy_and_value   obs (1, ...) -> (logits (1, A) with illegal ones low, value (1,))
    noise              scale of the Gumbel draw at the root: 1 explores, as in training; 0 plays
                       the best action found
    """
    mctx = extra("mctx", "pgx")

    def recurrent(_, key, action, states):
        states, out = jax.vmap(env.step, (0, 0, None))(states, action, key)
        logits, value = policy_and_value(out.obs)
        done = out.terminated | out.truncated
        return mctx.RecurrentFnOutput(
            reward=out.reward, discount=jnp.where(done, 0.0, -1.0), prior_logits=logits,
            value=jnp.where(done, 0.0, value)), states

    batch_of_one = jax.tree.map(lambda x: x[None], {"state": state, "obs": obs})
    logits, value = policy_and_value(batch_of_one["obs"])
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=batch_of_one["state"])
    result = mctx.gumbel_muzero_policy(
        None, key, root, recurrent, simulations, invalid_actions=~obs["legal"][None],
        gumbel_scale=noise)
    return {"action": result.action[0], "weights": result.action_weights[0],
            "value": result.search_tree.summary().value[0]}


def searching(run, env, simulations: int) -> Callable:
    """Return the player of a trained network (karpjax.restore) with a search before each move."""
    def player(state, obs, key):
        return search(env, network_of(run), simulations, state, obs, key, noise=0.0)["action"]
    return player
