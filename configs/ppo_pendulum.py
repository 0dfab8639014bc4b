"""PPO on Pendulum-v1: swing a pole up with a torque, 200 steps an episode.

    python -m karpjax.train --config=configs/ppo_pendulum.py --workdir=runs/pendulum

The criterion, a mean return of -150, is not reached: -152.2 (sd 4.5) over 5 seeds. The optimum is
-140.7, and a random policy gets -1246 (experiments/policy_gradients).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 32, 128, 8, 10
# Rollouts of 4,096 environment steps: 819,200 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 200


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="pendulum"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=("obs", "reward"), eval_episodes=64),
        discount=0.97, gae_lambda=0.9,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.0, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=50 * CHUNK, save_every=50 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
