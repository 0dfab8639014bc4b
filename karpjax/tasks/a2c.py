"""Advantage actor-critic (A2C; Mnih et al. 2016, algorithm S3, in its synchronous form).

One step a rollout, so the policy that learns is the one that acted. The rollout is short: values
estimate the rest. Unlike there, advantages are generalised (`gae_lambda`; 1 is theirs) and
normalised over the rollout.
"""
import karpjax as kj
from karpjax.tasks.agent import Agent, entropy_bonus, recent


def build(config, env=None) -> kj.Task:
    own = ("gae_lambda", "value_coefficient", "entropy_coefficient")
    agent = Agent(config, own=own, env=env, optional=("normalize_advantages",))

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)    # (E, T)
        weight = batch["weight"]
        policy_loss = -policy.log_prob(batch["action"]) * batch["advantage"]
        error = config.value_coefficient * (values - batch["target"]) ** 2
        losses = {"policy": kj.mean(policy_loss, weight), "value": kj.mean(error, weight),
                  "entropy_bonus": entropy_bonus(policy, config.entropy_coefficient, weight)}
        metrics = {"entropy": kj.mean(policy.entropy(), weight), **recent(batch)}
        return losses, metrics, model_state

    return agent.task(agent.with_advantages, loss)
