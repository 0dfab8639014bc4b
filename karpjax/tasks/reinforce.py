"""REINFORCE (Williams 1992; return-to-go: Sutton and Barto 2018, section 13.3).

The baseline is the mean return or, with config.baseline, a learned value (section 13.4). Returns
are Monte-Carlo: a step teaches only if its episode ended inside the rollout. Other steps have
weight 0, so a rollout should be several episodes long. An episode that was cut counts as ended:
for tasks without an end take A2C. The return less the baseline is normalised over the rollout. For
what it reaches, and how fast, see configs/reinforce_cartpole.py.
"""
import jax.numpy as jnp

import karpjax as kj
from karpjax.rl import advantages
from karpjax.tasks.agent import Agent, recent


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=("baseline",), env=env, critic=bool(config.get("baseline")))

    def examples(trajectory, variables):
        done = trajectory["terminated"] | trajectory["truncated"]                      # (E, T)
        returns, known = advantages.returns_to_go(trajectory["reward"], done.astype(jnp.float32),
                                                  agent.discount)
        weight = known * trajectory.get("learner", 1.0)    # the pool's moves teach nothing
        advantage = returns - trajectory["value"] if config.baseline else returns
        return {"obs": trajectory["obs"], "action": trajectory["action"], "return": returns,
                "weight": weight, "advantage": advantages.normalized(advantage, weight)}

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)    # (E, T)
        weight = batch["weight"]
        policy_loss = -policy.log_prob(batch["action"]) * batch["advantage"]
        losses = {"policy": kj.mean(policy_loss, weight)}
        if config.baseline:
            losses["value"] = kj.mean((values - batch["return"]) ** 2 / 2, weight)
        metrics = {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}
        return losses, metrics, model_state

    return agent.task(examples, loss)
