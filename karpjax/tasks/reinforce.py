"""REINFORCE (Williams 1992; return-to-go: Sutton and Barto 2018, section 13.3), with the mean return as baseline or, with
config.baseline, a learned value (section 13.4).

Monte-Carlo returns: a step learns only if its episode ended inside the rollout; the others have weight 0, so a rollout should
be several episodes long. An episode that was cut counts as ended: for tasks without an end take A2C. What is left of the return
is normalised over the rollout. What it reaches, and how fast: configs/reinforce_cartpole.py.
"""
import jax.numpy as jnp

import karpjax as kj
from karpjax.rl import advantages
from karpjax.tasks.agent import Agent, recent


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=("baseline",), env=env, critic=bool(config.get("baseline")))

    def examples(trajectory, variables):
        over = (trajectory["terminated"] | trajectory["truncated"]).astype(jnp.float32)                   # (E, T)
        returns, known = advantages.returns_to_go(trajectory["reward"], over, agent.discount)
        known = known * trajectory.get("own", 1.0)                             # moves of a pool's players teach nothing
        better = returns - trajectory["value"] if config.baseline else returns
        return {"obs": trajectory["obs"], "action": trajectory["action"], "return": returns, "weight": known,
                "advantage": advantages.normalized(better, known)}

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)                       # (E, T)
        weight = batch["weight"]
        losses = {"policy": kj.mean(-policy.log_prob(batch["action"]) * batch["advantage"], weight)}
        if config.baseline:
            losses["value"] = kj.mean((values - batch["return"]) ** 2 / 2, weight)
        return losses, {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}, model_state

    return agent.task(examples, loss)
