"""Gumbel AlphaZero on tic-tac-toe: its policy, without search, never loses.

    python -m karpjax.train --config=configs/tic_tac_toe.py --workdir=runs/tic_tac_toe

Of the 586 lines of play it wins 497 and draws 89 (experiments/games).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 64, 16, 4, 2
# Rollouts of 1,024 moves: 819,200 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 800


def get_config():
    return karpjax.config(
        task="alphazero",
        # Openings, or it would only learn positions that it plays itself.
        env=dict(name="pgx:tic_tac_toe", opening=6),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", torso="mlp", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  pool=dict(size=4, every=20, random=0.5), eval_episodes=64),
        simulations=32, discount=1.0, gae_lambda=1.0, value_coefficient=1.0,
        optimizer=dict(name="adam", clip=1.0,
                       learning_rate=dict(name="linear_schedule", init_value=3e-3, end_value=0.0)),
        log_every=5 * CHUNK, eval_every=100 * CHUNK, save_every=100 * CHUNK,
        dispatch="scan", steps_per_dispatch=5 * CHUNK,
        best="max eval/return",
    )
