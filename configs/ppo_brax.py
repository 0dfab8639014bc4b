"""PPO on Brax's robots (Freeman et al. 2021): an arm that reaches for points, or an ant that runs.

    pip install -e ".[brax]"
    python -m karpjax.train --config=configs/ppo_brax.py --workdir=runs/reacher
    python -m karpjax.train --config=configs/ppo_brax.py:ant --workdir=runs/ant

The backend is "spring". Settings are PureJaxRL's for Brax (Lu et al. 2022), except for longer
rollouts, which here are cut by time, and the discounts of Brax's own training. Made for one GPU:
the ant takes a minute there, to a return of 12,151. Two cores take hours (experiments/brax).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 2048, 16, 16, 4
# Rollouts of 32,768 environment steps: 49,152,000 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 1500
DISCOUNTS = {"reacher": 0.95, "ant": 0.97}


def get_config(robot: str = "reacher"):
    return karpjax.config(
        task="ppo",
        env=dict(name=f"brax:{robot}", max_steps=1000),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=256),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=("obs", "reward"), eval_episodes=256),
        discount=DISCOUNTS.get(robot, 0.97), gae_lambda=0.95,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.0, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=3e-4, end_value=0.0)),
        log_every=10 * CHUNK, eval_every=300 * CHUNK, save_every=300 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
