"""Connect four, step 3 of 4: a value from the results of games that the policy of step 2 plays.

    python -m karpjax.games.record --env=pgx:connect_four --workdir=runs/c4/ppo --random=5 \\
        --to=runs/ppo.npz
    python -m karpjax.train --config=configs/connect_four_value.py \\
        --config.data.file=runs/ppo.npz --config.init_from=runs/c4/ppo --workdir=runs/c4/value

The policy stays as it is.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="imitate",
        env=dict(name="pgx:connect_four"),
        steps=1500,
        model=dict(name="board", width=16, blocks=1),
        data=dict(file="", batch_size=128, mirror=True),
        policy_coefficient=0.0, value_coefficient=1.0,
        optimizer=dict(name="adamw", weight_decay=1e-4, freeze=("stem/.*", "block.*", "policy.*"),
                       learning_rate=dict(name="cosine_decay_schedule", init_value=1e-3,
                                          decay_steps=1500)),
        log_every=100, eval_every=500, save_every=500,
        dispatch="scan", steps_per_dispatch=100,
        best="min validation/value_error",
    )
