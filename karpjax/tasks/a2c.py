"""Advantage actor-critic (A2C; Mnih et al. 2016, algorithm S3, in its synchronous form).

One step a rollout, so the policy that learns is the one that acted. The rollout is short: values guess the rest. Unlike there,
advantages are generalised (`gae_lambda`; 1 is theirs) and normalised over the rollout.
"""
import karpjax as kj
from karpjax.tasks.agent import Agent, entropy_bonus, recent


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=("gae_lambda", "value_coefficient", "entropy_coefficient"), env=env,
                  optional=("normalize_advantages",))

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)                       # (E, T)
        weight = batch["weight"]
        losses = {"policy": kj.mean(-policy.log_prob(batch["action"]) * batch["advantage"], weight),
                  "value": kj.mean(config.value_coefficient * (values - batch["target"]) ** 2, weight),
                  "entropy_bonus": entropy_bonus(policy, config.entropy_coefficient, weight)}
        return losses, {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}, model_state

    return agent.task(agent.judged, loss)
