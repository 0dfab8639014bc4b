"""PPO on Acrobot-v1: swing two links above a line by a torque between them, -1 a step.

    python -m karpjax.train --config=configs/ppo_acrobot.py --workdir=runs/acrobot

The criterion is a mean return of -90, after a second of training. The return is -81 (sd 2.2) over 5
seeds, a random policy's is -499 (experiments/policy_gradients).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 32, 64, 8, 4
# Rollouts of 2,048 environment steps: 307,200 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 150


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="acrobot"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=("obs", "reward"), eval_episodes=256),
        discount=0.99, gae_lambda=0.94,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.0, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=50 * CHUNK, save_every=50 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
