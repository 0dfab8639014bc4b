"""PPO on the motorway: the environment in JAX, the result tested in the real highway-env.

    pip install -e ".[highway]"
    python -m karpjax.train --config=configs/ppo_highway.py --workdir=runs/highway

The criterion: in the real highway-env at most 10 % of the episodes crash, and the return is above
those of random actions and of doing nothing. Over 3 seeds 3.0, 6.5 and 5.5 % crash
(experiments/highway).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 32, 32, 8, 4
# Rollouts of 1,024 environment steps: 153,600 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 150


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="highway"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=(), eval_episodes=128),
        discount=0.9, gae_lambda=0.95,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.01, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=50 * CHUNK, save_every=50 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
