"""PPO on MinAtar's games (Young and Tian 2019), as gymnax has them.

    pip install -e ".[gymnax]"
    python -m karpjax.train --config=configs/ppo_minatar.py --workdir=runs/breakout
    python -m karpjax.train --config=configs/ppo_minatar.py:Asterix-MinAtar --workdir=runs/asterix

The criterion for Breakout is that of gymnax's own checkpoint: a mean return of 28 within 1e7
steps. Settings and network are PureJaxRL's for these games (Lu et al. 2022), except that
advantages are not normalised. The game is the same every time except for its start. With
normalised advantages, a policy that always ended the same was driven by the values' errors, and
stayed there (22.5 over three seeds). Without: 34.9 (sd 10.1) over 5 seeds, 3 of them above 28. On
seeds 0 and 1, on which this was chosen, it reached 77.2 and 29.0 (experiments/policy_gradients).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 64, 128, 8, 4
# Rollouts of 8,192 environment steps: 9,994,240 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 1220


def get_config(game: str = "Breakout-MinAtar"):
    return karpjax.config(
        task="ppo",
        env=dict(name=f"gymnax:{game}"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", torso="mlp", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=(), eval_episodes=64),
        discount=0.99, gae_lambda=0.95, normalize_advantages=False,
        clip=0.2, value_clip=0.2, value_coefficient=0.25, entropy_coefficient=0.01, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=5e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=122 * CHUNK, save_every=122 * CHUNK,
        dispatch="scan", steps_per_dispatch=CHUNK,
        best="max eval/return",
    )
