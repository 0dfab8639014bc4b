"""REINFORCE on CartPole-v0: at most 200 steps an episode, solved at a mean return of 195.

    python -m karpjax.train --config=configs/reinforce_cartpole.py --workdir=runs/cartpole

Evaluation return 200 of 200 on 5 of 5 seeds (experiments/toys), in 6 to 8 s on two cores.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="reinforce",
        env=dict(name="cartpole", max_steps=200),
        steps=100,                        # rollouts, each 32 x 400 environment steps
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=32, num_steps=400, minibatches=1, eval_episodes=64),
        discount=0.99, baseline=False,
        # Ten times PPO's rate, since each rollout is used once. Down to 0, or a late bad step can
        # undo a solved policy.
        optimizer=dict(name="adam", clip=1.0,
                       learning_rate=dict(name="linear_schedule", init_value=1e-2, end_value=0.0)),
        log_every=1, eval_every=20, save_every=20,
        dispatch="scan", steps_per_dispatch=10,
        best="max eval/return",
    )
