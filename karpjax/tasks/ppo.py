"""Proximal policy optimisation with a clipped ratio (PPO; Schulman et al. 2017, eq. 7 and 9).

A rollout is learned from `epochs` times in minibatches; the ratio of the policy that learns to the one that acted is kept from
paying beyond 1 +- clip. Advantages are normalised over the rollout, where most codes do it in each minibatch: here a batch and
its micro-batches give one result. config.normalize_advantages = False leaves them as they are (karpjax/tasks/agent.py says when).

    value_clip   > 0: the value may not gain from moving further than that from its old one (the reference code's)
    target_kl    > 0: a minibatch on which the policy has moved further than that teaches nothing (the optimizer's momentum
                 still moves). A statistic over the minibatch, so not with accumulation or pmap, which see parts of it
"""
from jax import lax
import jax.numpy as jnp

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.tasks.agent import Agent, entropy_bonus, recent

OWN = ("gae_lambda", "clip", "value_clip", "value_coefficient", "entropy_coefficient", "target_kl")


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=OWN, env=env, optional=("normalize_advantages",))
    for name in ("clip", "value_clip", "target_kl"):
        if config[name] < 0 or (name == "clip" and not config[name]):
            raise UserError(f"config.{name}: expected {'more than 0' if name == 'clip' else '0 (off) or more'}, found "
                            f"{config[name]}")
    if config.target_kl and (config.accumulate > 1 or config.parallel == "pmap"):
        raise UserError("config.target_kl judges a minibatch as a whole: expected config.accumulate = 1 and config.parallel = "
                        f"'jit' with it, found {config.accumulate} and {config.parallel!r}; or set it to 0")

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)                       # (E, T)
        log_ratio = policy.log_prob(batch["action"]) - batch["log_prob"]
        ratio, clip, advantage = jnp.exp(log_ratio), config.clip, batch["advantage"]
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
        kl = ratio - 1 - log_ratio                                 # >= 0, of mean KL(old, new) (Schulman 2020, "k3")
        near = batch["weight"]
        if config.target_kl:
            near = near * (lax.stop_gradient(kl).mean() <= config.target_kl)
        losses = {"policy": kj.mean(-gain, near),
                  "value": kj.mean(config.value_coefficient * value_error(values, batch, config.value_clip), near),
                  "entropy_bonus": entropy_bonus(policy, config.entropy_coefficient, near)}
        found = {"entropy": policy.entropy(), "approx_kl": kl, "clipped": (jnp.abs(ratio - 1) > clip).astype(jnp.float32)}
        return losses, {**{name: kj.mean(x, batch["weight"]) for name, x in found.items()}, **recent(batch)}, model_state

    return agent.task(agent.judged, loss)


def value_error(values, batch: dict, clip: float):
    """Squared, (E, T); with a clip the larger of that and the error of a value that stays within it of the old one."""
    error = (values - batch["target"]) ** 2
    if not clip:
        return error
    near = batch["value"] + jnp.clip(values - batch["value"], -clip, clip)
    return jnp.maximum(error, (near - batch["target"]) ** 2)
