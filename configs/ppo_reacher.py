"""PPO on a two-link arm that reaches for a point.

    python -m karpjax.train --config=configs/ppo_reacher.py --workdir=runs/reacher

The criterion is 90 % of the way from random to inverse kinematics: -18, after five seconds of
training. The return is -16.8 (sd 0.5) over 5 seeds, a random policy's is -84
(experiments/policy_gradients).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 32, 64, 8, 4
# Rollouts of 2,048 environment steps: 1,638,400 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 800


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="reacher"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=("reward",), eval_episodes=256),
        discount=0.9, gae_lambda=0.95,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.0, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=200 * CHUNK, save_every=200 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
