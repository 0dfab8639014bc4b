"""Gumbel AlphaZero (Danihelka et al. 2022): a search plays, the network learns what it found.

The policy's target is the search's improved policy, the value's the result of the game (`gae_lambda` 1; where the rollout ends
before it, the value of where it stopped), or a mixture of it with what searches found on the way. See karpjax/games/search.py.

On several devices the searches keep in step, unlike other rollouts: mctx walks down all trees of a batch until the last has
found its leaf, so one bit crosses devices for every step of the walk.
"""
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
    if config.simulations < 1:
        raise UserError(f"config.simulations: expected at least 1, found {config.simulations}")

    def act(variables, obs, keys, states):
        def see(obs):
            policy, values = agent.see(variables, obs)
            return policy.logits, values
        found = jax.vmap(lambda state, obs, key: search(agent.env, see, config.simulations, state, obs, key))(states, obs, keys)
        return found["action"], {"weights": found["weights"], "value": found["value"]}

    def examples(trajectory, variables):
        _, last = agent.see(variables, jax.tree.map(lambda x: x[:, -1:], trajectory["final_obs"]))
        later = jnp.concatenate([trajectory["value"][:, 1:], last], 1)          # (E, T), of a search but for the last
        target = trajectory["value"] + advantages.gae(
            trajectory["reward"], trajectory["value"], later, trajectory["terminated"], trajectory["truncated"],
            agent.discount, agent.config.gae_lambda)
        return {"obs": trajectory["obs"], "weights": trajectory["weights"], "target": target,
                "weight": trajectory.get("own", jnp.ones_like(target))}

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)                       # (E, T)
        weight = batch["weight"]
        cross_entropy = -(batch["weights"] * jax.nn.log_softmax(policy.logits)).sum(-1)
        losses = {"policy": kj.mean(cross_entropy, weight),
                  "value": kj.mean(config.value_coefficient * (values - batch["target"]) ** 2, weight)}
        return losses, {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}, model_state

    return agent.task(examples, loss, jax.jit(act))  # a search takes seconds to trace: once is enough
