"""Rollouts of PPO on CartPole, and the learning from them, by karpjax or the monolith.

    python experiments/policy_speed/jax_worker.py WHO ENVS LENGTH MINIBATCHES EPOCHS

A "step" of the harness is ten rollouts: one dispatch, here and there.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments.policy_speed import monolith  # noqa: E402
from experiments.runs import config_of  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.programs import make_programs  # noqa: E402

ROLLOUTS = 10  # a dispatch


def by_karpjax(envs, length, minibatches, epochs):
    chunk = minibatches * epochs
    config, task_file = config_of("ppo_cartpole", steps=10_000 * chunk,
                                  steps_per_dispatch=ROLLOUTS * chunk, **{
        "data.num_envs": envs, "data.num_steps": length, "data.minibatches": minibatches,
        "data.epochs": epochs})
    exp = assemble(config, task_file, make_mesh(1, 1, jax.devices()[:1]))
    programs, state = make_programs(exp), exp.fresh_state()
    programs.compile(state, {}, ROLLOUTS * chunk)

    def run_steps(n):
        nonlocal state
        for _ in range(n):
            state, metrics, _ = programs.run(state, {}, ROLLOUTS * chunk)
        jax.block_until_ready((state, metrics))
        assert jnp.isfinite(metrics["loss"]).all()
    return run_steps


def by_monolith(envs, length, minibatches, epochs):
    start, train = monolith.make(envs=envs, length=length, minibatches=minibatches, epochs=epochs,
                                 updates=ROLLOUTS,
                                 steps=10_000 * minibatches * epochs)
    carry = start(jax.random.key(0))
    carry, _ = train(carry)

    def run_steps(n):
        nonlocal carry
        for _ in range(n):
            carry, returns = train(carry)
        jax.block_until_ready((carry, returns))
        assert jnp.isfinite(returns).all()
        assert all(jnp.isfinite(p).all() for p in jax.tree.leaves(carry[0]))
    return run_steps


if __name__ == "__main__":
    who, *shape = sys.argv[1:]
    serve({"karpjax": by_karpjax, "monolith": by_monolith}[who](*map(int, shape)))
