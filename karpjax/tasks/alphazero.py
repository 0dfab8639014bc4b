"""Gumbel AlphaZero (Danihelka et al. 2022): a search plays, the network learns what it found.

The policy's target is the search's improved policy. The value's target is the result of the game
(`gae_lambda` 1), or the last position's value if the rollout ends before the game. A smaller
`gae_lambda` mixes it with the values that searches found on the way. See karpjax/games/search.py.

On several devices the searches keep in step, unlike other rollouts. mctx walks down all trees of a
batch until the last has found its leaf, so one bit crosses devices for every step of the walk.
"""
import functools

import jax
import jax.numpy as jnp

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.games.search import search
from karpjax.rl import advantages
from karpjax.tasks.agent import Agent, recent


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=("simulations", "gae_lambda", "value_coefficient"), env=env)
    if not agent.game:
        raise UserError("this task needs a game of two players, as in config.env = "
                        "dict(name='pgx:connect_four')")
    if config.data.get("normalize"):
        raise UserError("config.data.normalize: expected (), as the search meets observations and "
                        f"rewards as the game gives them, found {config.data.normalize}")
    if config.simulations < 1:
        raise UserError(f"config.simulations: expected at least 1, found {config.simulations}")

    def act(variables, obs, keys, states):
        def policy_and_value(obs):
            policy, values = agent.policy_and_value(variables, obs)
            return policy.logits, values
        one_search = functools.partial(search, agent.env, policy_and_value, config.simulations)
        result = jax.vmap(one_search)(states, obs, keys)
        return result["action"], {"weights": result["weights"], "value": result["value"]}

    def examples(trajectory, variables):
        last_obs = jax.tree.map(lambda x: x[:, -1:], trajectory["final_obs"])
        _, last_value = agent.policy_and_value(variables, last_obs)
        # (E, T): values of a search, except for the last.
        next_value = jnp.concatenate([trajectory["value"][:, 1:], last_value], 1)
        target = trajectory["value"] + advantages.gae(
            trajectory["reward"], trajectory["value"], next_value, trajectory["terminated"],
            trajectory["truncated"], agent.discount, agent.config.gae_lambda)
        return {"obs": trajectory["obs"], "weights": trajectory["weights"], "target": target,
                "weight": trajectory.get("learner", jnp.ones_like(target))}

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)    # (E, T)
        weight = batch["weight"]
        cross_entropy = -(batch["weights"] * jax.nn.log_softmax(policy.logits)).sum(-1)
        error = config.value_coefficient * (values - batch["target"]) ** 2
        losses = {"policy": kj.mean(cross_entropy, weight), "value": kj.mean(error, weight)}
        metrics = {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}
        return losses, metrics, model_state

    # Compiled, as a search takes seconds to trace: once is enough.
    return agent.task(examples, loss, jax.jit(act))
