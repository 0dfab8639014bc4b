"""Connect four, step 1 of 4: a policy from the recorded games of a plain tree search.

    python -m karpjax.games.record --env=pgx:connect_four --simulations=100 --positions=30000 \\
        --seed=1 --to=runs/uct.npz
    python -m karpjax.train --config=configs/connect_four_supervised.py \\
        --config.data.file=runs/uct.npz --workdir=runs/c4/supervised

The search is UCT with 100 playouts a move. The steps are AlphaGo's (Silver et al. 2016): this one,
connect_four_ppo.py, _value.py and _search.py. experiments/games plays them.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="imitate",
        env=dict(name="pgx:connect_four"),
        steps=3000,
        model=dict(name="board", width=16, blocks=1),
        data=dict(file="", batch_size=128, mirror=True),
        policy_coefficient=1.0, value_coefficient=0.5,
        optimizer=dict(name="adamw", weight_decay=1e-4,
                       learning_rate=dict(name="cosine_decay_schedule", init_value=2e-3,
                                          decay_steps=3000)),
        log_every=100, eval_every=500, save_every=500,
        # Scanned on CPUs too: no convolution is left in their program.
        dispatch="scan", steps_per_dispatch=100,
        best="max validation/accuracy",
    )
