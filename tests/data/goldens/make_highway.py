"""Made tests/data/goldens/highway.npz: all states of episodes of highway-env's highway-fast-v0.

    pip install highway-env==1.12.1 && python tests/data/goldens/make_highway.py

Actions are random and fixed. tests/test_highway.py compares karpjax/envs/highway.py with it and,
if highway-env is installed, with episodes made on the spot.
"""
import json
import pathlib
import platform

import numpy as np

TARGET = pathlib.Path(__file__).parent / "highway.npz"
# Left, idle, right, faster, slower: one drives slowly and long, the other fast until it crashes.
LIKELY = [[0.1, 0.3, 0.1, 0.05, 0.45], [0.15, 0.25, 0.15, 0.35, 0.1]]


def state_of(env) -> dict:
    """Return the state of karpjax.envs.highway, except for the time."""
    def rows(read, dtype=np.float32):
        return np.array([read(car) for car in env.road.vehicles], dtype)
    return {"x": rows(lambda car: car.position[0]), "y": rows(lambda car: car.position[1]),
            "heading": rows(lambda car: car.heading), "speed": rows(lambda car: car.speed),
            "target_lane": rows(lambda car: car.target_lane_index[2], np.int32),
            "target_speed": rows(lambda car: car.target_speed),
            "delta": rows(lambda car: getattr(car, "DELTA", 4.0)),
            "timer": rows(lambda car: getattr(car, "timer", 0.0)),
            "crashed": rows(lambda car: car.crashed, bool),
            "impact": rows(lambda car: np.zeros(2) if car.impact is None else car.impact)}


def episode(seed: int) -> dict:
    """Return an episode of at most 30 steps, until a crash.

    state {name: (T + 1, n)}, obs (T + 1, 5, 5), and action, reward, terminated (T,).
    """
    import gymnasium
    import highway_env  # noqa: F401
    rng = np.random.default_rng(seed)
    env = gymnasium.make("highway-fast-v0").unwrapped
    first, _ = env.reset(seed=seed)
    rows, states, seen = [], [state_of(env)], [first]
    for _ in range(30):
        action = rng.choice(5, p=LIKELY[seed % 2])
        obs, reward, terminated, _, _ = env.step(action)
        rows.append((action, np.float32(reward), terminated))
        states.append(state_of(env))
        seen.append(obs)
        if terminated:
            break
    action, reward, terminated = map(np.array, zip(*rows, strict=True))
    return {**{f"state/{name}": np.stack([state[name] for state in states]) for name in states[0]},
            "obs": np.stack(seen), "action": action, "reward": reward, "terminated": terminated}


def main():
    import highway_env
    versions = {"python": platform.python_version(), "highway-env": highway_env.__version__,
                "numpy": np.__version__}
    arrays = {f"{seed}/{key}": array for seed in range(8) for key, array in episode(seed).items()}
    np.savez_compressed(TARGET, **arrays, versions=json.dumps(versions))


if __name__ == "__main__":
    main()
