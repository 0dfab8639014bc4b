"""Made tests/data/goldens/envs.npz: steps of Gymnasium's classic control, from states all over.

    pip install gymnasium==1.4.0 && python tests/data/goldens/make_envs.py

tests/test_envs.py compares karpjax/envs with it and, if Gymnasium is installed, with a roll made
on the spot.
"""
import json
import pathlib
import platform

import numpy as np

TARGET = pathlib.Path(__file__).parent / "envs.npz"
# Every other episode starts as Gymnasium's own, the others anywhere in here, so that all bounds and
# thresholds are crossed.
SPREAD = {"CartPole-v1": [2.4, 20.0, 0.2, 2.0], "Acrobot-v1": [3.1, 3.1, 12.0, 28.0],
          "Pendulum-v1": [9.0, 8.0]}


def roll(name: str, seed: int = 0, episodes: int = 30, steps: int = 15) -> dict:
    """Return state (N, S), action, after (N, S), obs, reward and terminated of N steps.

    Each starts from float32 values, as ours do.
    """
    import gymnasium
    rng, env, rows = np.random.default_rng(seed), gymnasium.make(name).unwrapped, []
    for episode in range(episodes):
        env.reset(seed=1000 * seed + episode)
        if episode % 2:
            env.state = rng.uniform(-1, 1, len(env.state)) * SPREAD[name]
        for _ in range(steps):
            env.state = np.asarray(env.state, np.float32).astype(np.float64)
            state = env.state.astype(np.float32)
            if name == "Pendulum-v1":
                action = rng.uniform(-3, 3, 1).astype(np.float32)
            else:
                action = rng.integers(env.action_space.n)
            obs, reward, terminated, _, _ = env.step(action)
            rows.append(dict(state=state, action=action, after=np.float32(env.state), obs=obs,
                             reward=np.float32(reward), terminated=terminated))
            if terminated:
                break
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def main():
    import gymnasium
    versions = {"python": platform.python_version(), "gymnasium": gymnasium.__version__,
                "numpy": np.__version__}
    arrays = {f"{name}/{key}": array for name in SPREAD for key, array in roll(name).items()}
    np.savez_compressed(TARGET, **arrays, versions=json.dumps(versions))


if __name__ == "__main__":
    main()
