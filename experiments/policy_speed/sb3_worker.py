"""Rollouts of the same shape by Stable-Baselines3 (PyTorch).

    python experiments/policy_speed/sb3_worker.py ENVS LENGTH MINIBATCHES EPOCHS

A "step" of the harness is ten rollouts. Its environments run in this process (DummyVecEnv, its
default).
"""
import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
import torch  # noqa: E402

from experiments.speed.harness import serve  # noqa: E402

ROLLOUTS = 10


def main(envs: int, length: int, minibatches: int, epochs: int):
    torch.set_num_threads(1)  # as its documentation advises for small networks on CPUs
    agent = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=envs, seed=0), n_steps=length,
                n_epochs=epochs, gamma=0.98,
                batch_size=envs * length // minibatches, gae_lambda=0.8, learning_rate=1e-3, seed=0,
                device="cpu")
    serve(lambda n: agent.learn(n * ROLLOUTS * envs * length, reset_num_timesteps=False),
          ", ".join(f"{name} {importlib.metadata.version(name)}"
                    for name in ("torch", "stable-baselines3", "gymnasium")))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
