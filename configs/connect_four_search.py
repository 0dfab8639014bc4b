"""Connect four, step 4 of 4: Gumbel AlphaZero from the weights of step 3.

    python -m karpjax.train --config=configs/connect_four_search.py \\
        --config.init_from=runs/c4/value --workdir=runs/c4/search

A search plays, and the network learns what it found.
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 64, 32, 8, 1
# Rollouts of 2,048 moves: 204,800 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 100


def get_config():
    return karpjax.config(
        task="alphazero",
        env=dict(name="pgx:connect_four", opening=6),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="board", width=16, blocks=1),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  eval_episodes=128),
        simulations=16, discount=1.0, gae_lambda=1.0, value_coefficient=1.0,
        optimizer=dict(name="adam", clip=1.0,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=5 * CHUNK, eval_every=50 * CHUNK, save_every=10 * CHUNK,
        dispatch="scan", steps_per_dispatch=5 * CHUNK,
        best="max eval/return",
    )
