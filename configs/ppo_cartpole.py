"""PPO on CartPole-v1 (at most 500 steps an episode, solved at a mean return of 475).

    python -m karpjax.train --config=configs/ppo_cartpole.py --workdir=runs/cartpole

Return 500 on 10 of 10 seeds. 475 is reached after 96,000 environment steps, 2 s of training on two
cores (experiments/policy_gradients).
"""
import karpjax

ENVS, LENGTH, MINIBATCHES, EPOCHS = 32, 32, 4, 10
# Rollouts of 1,024 environment steps: 153,600 in all.
CHUNK, ROLLOUTS = MINIBATCHES * EPOCHS, 150


def get_config():
    return karpjax.config(
        task="ppo",
        env=dict(name="cartpole"),
        steps=ROLLOUTS * CHUNK,
        model=dict(name="actor_critic", width=64),
        data=dict(num_envs=ENVS, num_steps=LENGTH, minibatches=MINIBATCHES, epochs=EPOCHS,
                  normalize=(), eval_episodes=64),
        # discount, gae_lambda and rate are RL Zoo's for this task, which need the fewest samples of
        # those published.
        discount=0.98, gae_lambda=0.8,
        clip=0.2, value_clip=0.0, value_coefficient=0.5, entropy_coefficient=0.0, target_kl=0.0,
        optimizer=dict(name="adam", clip=0.5, eps=1e-5,
                       learning_rate=dict(name="linear_schedule", init_value=1e-3, end_value=0.0)),
        log_every=CHUNK, eval_every=50 * CHUNK, save_every=50 * CHUNK,
        dispatch="scan", steps_per_dispatch=10 * CHUNK,
        best="max eval/return",
    )
