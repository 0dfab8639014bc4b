"""A2C on CartPole-v1 (at most 500 steps an episode, solved at a mean return of 475).

    python -m karpjax.train --config=configs/a2c_cartpole.py --workdir=runs/a2c

It is not stable: return 400 (sd 137) over 10 seeds, 131 to 500. 9 of them passed 475 on the way
(experiments/policy_gradients).
"""
import karpjax

# Rollouts of 256 environment steps: 512,000 in all.
ENVS, LENGTH, ROLLOUTS = 32, 8, 2000


def get_config():
    return karpjax.config(
        task="a2c",
        env=dict(name="cartpole"),
        steps=ROLLOUTS,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=1, epochs=1, normalize=(),
                  eval_episodes=64),
        discount=0.99, gae_lambda=1.0, value_coefficient=0.5, entropy_coefficient=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=20, eval_every=500, save_every=500,
        dispatch="scan", steps_per_dispatch=100,
        best="max eval/return",
    )
