"""A policy that learned on the embedded motorway, in the real highway-env, beside random actions
and doing nothing.

    pip install -e ".[highway]"
    python experiments/highway/run.py --workdir=runs/highway
    python experiments/highway/run.py --quick --log=FILE

First the speed of both, in turns. Then seeds 10, 11, 12 of configs/ppo_highway.py (choices were
made on seed 0). The most likely actions of each are evaluated in highway-fast-v0 on the same 200
episodes as the other two. A row has the crash rate with Wilson's interval and the return. Against
each of the two it has the exact McNemar test of the crashes and the mean difference of the returns,
paired by episode. real.gif stands beside the embedded episode.gif in each run's folder. All
intervals are of 95 %.
"""
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from scipy.stats import binomtest  # noqa: E402

from experiments.runs import Log, command, config_of, trained  # noqa: E402
import karpjax as kj  # noqa: E402
from karpjax.core.errors import UserError  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.envs import highway, spaces  # noqa: E402
from karpjax.envs.protocol import auto_reset  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.pictures import save_gif  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

REAL = dict(name="gymnasium:highway_env:highway-fast-v0", max_steps=30)
EPISODES, SEEDS = 200, (10, 11, 12)
ENVS = 32                                     # of the embedded one, as many as the config's


def speed(real, rounds: int, steps: int, real_steps: int) -> dict:
    """Time random actions: the embedded one's as a compiled rollout of ENVS, the real one's step by
    step."""
    env = kj.envs.make_env("highway")

    @jax.jit
    def roll(carry, key):
        def step(carry, key):
            keys = jax.random.split(key, ENVS)
            actions = jax.vmap(lambda key: env.actions.sample(key))(keys)
            carry, out = jax.vmap(lambda state, action, key: auto_reset(env, state, action, key))(
                carry, actions, keys)
            return carry, out.reward
        return jax.lax.scan(step, carry, jax.random.split(key, steps))

    def one(simulator, rng) -> float:
        start = time.perf_counter()
        for _ in range(real_steps):
            _, _, terminated, truncated, _ = simulator.step(rng.integers(5))
            if terminated or truncated:
                simulator.reset()
        return real_steps / (time.perf_counter() - start)

    carry, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), ENVS))
    carry, _ = jax.block_until_ready(roll(carry, jax.random.key(0)))
    simulator, rng = real.simulators.make(), np.random.default_rng(0)
    simulator.reset(seed=0)
    ours, theirs = [], []
    for i in range(rounds):
        start = time.perf_counter()
        carry, _ = jax.block_until_ready(roll(carry, jax.random.key(i)))
        ours.append(ENVS * steps / (time.perf_counter() - start))
        theirs.append(one(simulator, rng))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"embedded": statistics.median(ours), "real": statistics.median(theirs),
            "ratio": statistics.median(ratios),
            "ratios": ratios}


def play(real, act, episodes: int) -> tuple[dict, list]:
    """Return {"return", "length", "crashed"} (B,) of the episodes that keys 0 to B-1 start.

    The pictures of the first episode come second.
    """
    keys = jax.vmap(jax.random.key)(jnp.arange(episodes))
    state, obs = jax.vmap(real.reset)(keys)
    step = jax.jit(jax.vmap(real.step))
    totals = {"return": np.zeros(episodes), "length": np.zeros(episodes, int),
             "crashed": np.zeros(episodes, bool)}
    alive, frames = np.ones(episodes, bool), []
    for t in range(real.max_steps):
        if alive[0]:
            frames.append(real.draw(jax.tree.map(lambda x: np.asarray(x[0]), state)))
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t)
        state, out = step(state, act(obs, now), keys)
        obs, reward, terminated, truncated = \
            jax.device_get((out.obs, out.reward, out.terminated, out.truncated))
        totals["return"] += reward * alive
        totals["length"] += alive
        totals["crashed"] |= terminated & alive
        alive &= ~(terminated | truncated)
    return totals, frames


def described(episodes: dict) -> dict:
    crashes, n = int(episodes["crashed"].sum()), len(episodes["crashed"])
    interval = binomtest(crashes, n).proportion_ci(method="wilson")
    return {"episodes": n, "crash_rate": crashes / n,
            "crash_interval": [interval.low, interval.high],
            "return": episodes["return"].mean(), "return_sd": episodes["return"].std(ddof=1),
            "length": episodes["length"].mean()}


def against(these: dict, other: dict) -> dict:
    """Compare by episode: the exact McNemar test of the crashes, and the difference of the returns
    with its interval."""
    ours, theirs = (int((a["crashed"] & ~b["crashed"]).sum())
                    for a, b in ((these, other), (other, these)))
    gain = these["return"] - other["return"]
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    return {"crashed_alone": ours, "other_crashed_alone": theirs, "return_gain": gain.mean(),
            "return_gain_interval": [gain.mean() - half, gain.mean() + half],
            "p_crashes": binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0}


def likeliest(run):
    """Return act(obs, keys) of a restored run's most likely actions."""
    return lambda obs, keys: run.act(obs)


def study(options, workdir):
    if options.quick and pathlib.Path(options.log) == HERE / "results.jsonl":
        raise UserError("--quick needs a --log of its own: results.jsonl is for whole runs")
    log, real = Log(options.log), kj.envs.make_env(**REAL)
    import highway_env
    log({"versions": {**versions(), "highway-env": highway_env.__version__},
         "device": device(make_mesh(1, 1, jax.devices()[:1]))})
    rounds, steps, real_steps = (1, 2, 5) if options.quick else (9, 50, 60)
    log({"speed": speed(real, rounds, steps, real_steps)})
    episodes = 4 if options.quick else EPISODES

    def at_random(obs, keys):
        return jax.vmap(lambda key: real.actions.sample(key))(keys)

    def idle(obs, keys):
        return jnp.full(len(obs), highway.IDLE)
    others = {"random": at_random, "idle": idle}
    for name, act in others.items():
        others[name], _ = play(real, act, episodes)
        log({"policy": name, **described(others[name])})
    source = assemble(*config_of("ppo_highway")).source
    quick = {"steps": source.steps_per_chunk, "eval_every": source.steps_per_chunk,
             "save_every": source.steps_per_chunk, "data.eval_episodes": 4,
             "steps_per_dispatch": source.steps_per_chunk} if options.quick else {}
    for seed in SEEDS[:1 if options.quick else None]:
        folder = workdir / f"ppo_highway_{seed}"
        summary = trained("ppo_highway", folder, seed=seed, **quick)
        outcomes, frames = play(real, likeliest(kj.restore(folder)), episodes)
        save_gif(folder / "real.gif", frames)
        log({"policy": "ppo", "seed": seed, **described(outcomes),
             "against": {n: against(outcomes, o) for n, o in others.items()},
             "run": summary})


if __name__ == "__main__":
    command(study, log=HERE / "results.jsonl")
