"""Proximal policy optimisation with a clipped ratio, PPO (Schulman et al. 2017, eq. 7 and 9).

A rollout is learned from `epochs` times in minibatches. The ratio of the policy that learns to the
one that acted does not pay beyond 1 +- clip. Advantages are normalised over the rollout. Most codes
normalise them in each minibatch, but here a batch and its micro-batches give one result.
config.normalize_advantages = False leaves them as they are (`Agent.with_advantages` says when).

    value_clip   > 0: the value may not gain from moving further than that from its old one (as in
                 the reference code)
    target_kl    > 0: a minibatch on which the policy has moved further than that teaches nothing
                 (the optimizer's momentum still moves). This is a statistic over the minibatch, so
                 accumulation and pmap, which divide it, are refused
"""
from jax import lax
import jax.numpy as jnp

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.tasks.agent import Agent, entropy_bonus, recent

OWN = ("gae_lambda", "clip", "value_clip", "value_coefficient", "entropy_coefficient", "target_kl")


def build(config, env=None) -> kj.Task:
    agent = Agent(config, own=OWN, env=env, optional=("normalize_advantages",))
    check_options(config)

    def loss(params, model_state, batch, key):
        policy, values, model_state = agent(params, model_state, batch["obs"], key)    # (E, T)
        log_ratio = policy.log_prob(batch["action"]) - batch["log_prob"]
        ratio = jnp.exp(log_ratio)
        clip = config.clip
        advantage = batch["advantage"]
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
        # >= 0, and its mean estimates KL(old, new) (Schulman 2020, "k3").
        kl = ratio - 1 - log_ratio
        weight = batch["weight"]
        if config.target_kl:  # by the learner's own moves, and not by those of a pool's player
            total, count = kj.mean(lax.stop_gradient(kl), weight)
            weight = weight * (total / count <= config.target_kl)
        error = config.value_coefficient * value_error(values, batch, config.value_clip)
        losses = {"policy": kj.mean(-gain, weight), "value": kj.mean(error, weight),
                  "entropy_bonus": entropy_bonus(policy, config.entropy_coefficient, weight)}
        metrics = {"entropy": policy.entropy(), "approx_kl": kl,
                   "clipped": (jnp.abs(ratio - 1) > clip).astype(jnp.float32)}
        means = {name: kj.mean(x, batch["weight"]) for name, x in metrics.items()}
        return losses, {**means, **recent(batch)}, model_state

    return agent.task(agent.with_advantages, loss)


def check_options(config) -> None:
    """Check the ranges of PPO's own options."""
    if config.clip <= 0:
        raise UserError(f"config.clip: expected more than 0, found {config.clip}")
    for name in ("value_clip", "target_kl"):
        if config[name] < 0:
            raise UserError(f"config.{name}: expected 0 (off) or more, found {config[name]}")
    if config.target_kl and (config.accumulate > 1 or config.parallel == "pmap"):
        raise UserError("config.target_kl judges a minibatch as a whole: expected "
                        "config.accumulate = 1 and config.parallel = 'jit' with it, found "
                        f"{config.accumulate} and {config.parallel!r}; or set it to 0")


def value_error(values, batch: dict, clip: float):
    """Return the values' squared error (E, T).

    With a clip, it is the larger of that and the error of a value within `clip` of the old one.
    """
    error = (values - batch["target"]) ** 2
    if not clip:
        return error
    near = batch["value"] + jnp.clip(values - batch["value"], -clip, clip)
    return jnp.maximum(error, (near - batch["target"]) ** 2)
