"""Connect four, step 2 of 4: PPO against itself and its past versions, from step 1's weights.

    python -m karpjax.train --config=configs/connect_four_ppo.py \\
        --config.init_from=runs/c4/supervised --workdir=runs/c4/ppo
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 64, 32, 8, 2
# Rollouts of 2,048 moves: 2,457,600 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 1200


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="pgx:connect_four", opening=6),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="board", width=16, blocks=1),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  pool=dict(size=16, every=20, random=0.1), eval_episodes=128),
        discount=1.0, gae_lambda=0.9,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.01, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=5e-4, end_value=0.0)),
        log_every=5 * CHUNK, eval_every=200 * CHUNK, save_every=100 * CHUNK,
        dispatch="scan", steps_per_dispatch=5 * CHUNK,
        best="max eval/return",
    )
