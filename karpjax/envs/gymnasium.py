"""Gymnasium's host environments as the pure functions of karpjax/envs/protocol.py.

    pip install "karpjax[gymnasium]"      config.env = dict(name="gymnasium:LunarLander-v3")
    pip install "karpjax[atari]"          name="gymnasium:ALE/Breakout-v5", max_steps=27000
    pip install "karpjax[highway]"        name="gymnasium:highway_env:highway-fast-v0", max_steps=30

A simulator does not fit into a checkpoint. But an episode follows from its seed and its actions, so
these are the state here. The simulators at hand are a cache: if none of them is at a state, after a
resume for example, the episode is played again from its seed. So rollouts, resume, evaluation and
pictures know nothing of the host. This needs simulators that give the same for the same seed, as
Gymnasium asks of all, and a check at the start notices one that does not.

Games of the Arcade Learning Environment (Bellemare et al. 2013) come as in Mnih et al. 2015:
(84, 84, 4) uint8, the last four of every fourth frame in grey, after a random start. Rewards, lives
and sticky actions are those of Gymnasium's version.
"""
from collections.abc import Callable
import functools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.trees import where
from karpjax.envs import spaces
from karpjax.envs.foreign_spaces import actions_of, observations_of
from karpjax.envs.protocol import array_of, blamed, imported, TimeStep

# The check of the seed plays so much of an episode.
CHECK_STEPS, CHECK_SECONDS = 64, 0.2


class Gymnasium:
    """Environment of Gymnasium.

    max_steps   steps after which an episode is cut; 0: as in Gymnasium's registry
    options     of gymnasium.make
    """
    on_host = True

    def __init__(self, name: str, max_steps: int = 0, **options):
        gymnasium = imported("gymnasium")
        owner = f"gymnasium:{name}"
        first = simulator(gymnasium, name, max_steps, options)
        if "rgb_array" in (first.metadata.get("render_modes") or ()):
            options = {"render_mode": "rgb_array", **options}
        make = functools.partial(simulator, gymnasium, name, max_steps, options)
        self.max_steps = max_steps or getattr(first.spec, "max_episode_steps", None)
        if not self.max_steps:
            raise UserError(f"config.env: {name} has no end of its own; "
                            "say where to cut an episode: max_steps=1000")
        with blamed(f"config.env: {owner} failed in its spaces"):
            actions, observations = first.action_space, first.observation_space
        self.actions, self.decode = actions_of(actions, owner)
        self.obs, self.encode = observations_of(observations, owner, self.actions)
        spaces.check_space(self.actions, owner)
        self.simulators = Simulators(owner, make, self.encode, self.decode, self.obs)
        check_seed(self.simulators, self.actions, first)
        for note in notes(first, actions, self.obs):
            print(f"{owner}: {note}", file=sys.stderr, flush=True)
        if "render_mode" in options:
            self.draw = self.simulators.draw

    def reset(self, key):
        state = self.start(key)
        return state, jax.pure_callback(self.simulators.first, self.obs, state["seed"],
                                        vmap_method="broadcast_all")

    def step(self, state, action, key) -> tuple:
        return self.advance(state, action, state["seed"], restart=False)[:2]

    def auto_reset(self, state, action, key) -> tuple:
        """Do as protocol.auto_reset, resetting only the simulators whose episode is done."""
        fresh = self.start(key)
        state, out, obs = self.advance(state, action, fresh["seed"], restart=True)
        done = out.terminated | out.truncated
        return where(done, fresh, state), out._replace(obs=obs)

    def start(self, key) -> dict:
        """Return the state of a new episode."""
        action = self.actions.example
        return {"seed": jax.random.bits(key) >> 1,             # Gymnasium's seeds have 31 bits
                "time": jnp.int32(0),
                "actions": jnp.zeros((self.max_steps, *action.shape), action.dtype)}

    def advance(self, state, action, seed, restart: bool):
        """Take a step and return (state, out, obs that the next action is for).

        With `restart`, a step that ends an episode starts the one of `seed`, and obs is its first.
        """
        number, flag = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.bool_)
        obs, reward, terminated, truncated, then = jax.pure_callback(
            functools.partial(self.simulators.step, restart=restart),
            (self.obs, number, flag, flag, self.obs), state, action, seed,
            vmap_method="broadcast_all")
        played = state["actions"].at[jnp.minimum(state["time"], self.max_steps - 1)].set(action)
        out = TimeStep(obs, reward, terminated, truncated, obs)
        return {**state, "time": state["time"] + 1, "actions": played}, out, then


class Simulators:
    """Cache of simulators, each left where a seed and some actions led it."""
    # Called from compiled programs, so with numpy's arrays alone: JAX would wait here for the
    # program that waits for this.

    def __init__(self, owner: str, make: Callable, encode: Callable, decode: Callable, like):
        self.owner, self.make, self.encode, self.decode = owner, make, encode, decode
        self.shapes = jax.tree.map(lambda x: x.shape, like)    # of an observation
        self.idle = []      # simulators of episodes that are done
        # (seed, actions so far) -> (simulator, obs, done); the one that moved last comes last.
        self.kept = {}
        # Simulators, three for each environment: one of the rollout, two of evaluation's policies.
        self.limit = 1

    def first(self, seeds):
        """Return the first observation (..., O) of each seed's (...) episode."""
        seeds = np.asarray(seeds)
        self.limit = max(self.limit, 3 * seeds.size)
        return self.stacked([self.begin(int(seed)) for seed in seeds.ravel()], seeds.shape)

    def step(self, state, actions, fresh, restart: bool):
        """Return (obs, reward, terminated, truncated, obs that follows), each (..., *)."""
        state, actions, fresh = jax.tree.map(np.asarray, (state, actions, fresh))
        rows = [self.move(int(state["seed"][i]), state["actions"][i][:state["time"][i]],
                          actions[i], int(fresh[i]), restart)
                for i in np.ndindex(fresh.shape)]
        obs, reward, terminated, truncated, then = zip(*rows, strict=True)
        return (self.stacked(obs, fresh.shape),
                np.array(reward, np.float32).reshape(fresh.shape),
                np.array(terminated, bool).reshape(fresh.shape),
                np.array(truncated, bool).reshape(fresh.shape),
                self.stacked(then, fresh.shape))

    def draw(self, state):
        """Return a picture (H, W, 3) in 0 to 1."""
        seed, played = int(state["seed"]), state["actions"][:state["time"]]
        simulator, obs, done = self.at(seed, played)
        self.keep(seed, played, simulator, obs, done)
        with blamed(f"{self.owner} failed in render()"):
            picture = np.asarray(simulator.render(), np.float32)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(f"{self.owner} failed in render(): expected a picture (H, W, 3), found "
                            f"{picture.shape}")
        return picture / 255

    def move(self, seed: int, played, action, fresh: int, restart: bool):
        """Take one action after those `played` and return a row of `step`."""
        simulator, obs, done = self.at(seed, played)
        reward, terminated, truncated = 0.0, done, False           # beyond the end nothing changes
        if not done:
            obs, reward, terminated, truncated = self.ask_step(simulator, action)
            done = terminated or truncated
        if done and restart:
            self.idle.append(simulator)
            return obs, reward, terminated, truncated, self.begin(fresh)
        self.keep(seed, np.concatenate([played, action[None]]), simulator, obs, done)
        return obs, reward, terminated, truncated, obs

    def at(self, seed: int, played) -> tuple:
        """Return (simulator, obs, done) after these actions, taken out of `kept`."""
        if (seed, played.tobytes()) not in self.kept:
            self.begin(seed)
            for t in range(len(played)):
                self.move(seed, played[:t], played[t], seed, restart=False)
        return self.kept.pop((seed, played.tobytes()))

    def begin(self, seed: int):
        """Start an episode, keep its simulator and return the first observation."""
        if not self.idle and len(self.kept) >= self.limit:
            self.idle.append(self.kept.pop(next(iter(self.kept)))[0])
        simulator = self.idle.pop() if self.idle else self.make()
        obs = self.ask_reset(simulator, seed)
        self.keep(seed, np.empty(0), simulator, obs, False)
        return obs

    def keep(self, seed: int, played, simulator, obs, done: bool) -> None:
        """Put a simulator into `kept`. One that was there for the same actions is idle now."""
        replaced = self.kept.pop((seed, played.tobytes()), None)
        self.idle += [replaced[0]] if replaced else []
        self.kept[seed, played.tobytes()] = (simulator, obs, done)

    def ask_reset(self, simulator, seed: int):
        """Reset a simulator and return the first observation by our protocol."""
        with blamed(f"{self.owner} failed in reset(seed={seed})"):
            obs, _ = simulator.reset(seed=seed)
            return self.observed(obs)

    def ask_step(self, simulator, action) -> tuple:
        """Take an action of ours and return (our obs, reward, terminated, truncated)."""
        with blamed(f"{self.owner} failed on the action {action}"):
            obs, reward, terminated, truncated, _ = simulator.step(self.decode(action))
            reward = float(np.reshape(reward, ()))
            return self.observed(obs), reward, bool(terminated), bool(truncated)

    def observed(self, obs):
        """Return a simulator's observation by our protocol."""
        obs = self.encode(obs)
        if jax.tree.map(np.shape, obs) != self.shapes:
            raise UserError(f"{self.owner}: expected observations {self.shapes}, as its space "
                            f"says, found {jax.tree.map(np.shape, obs)}")
        return obs

    def stacked(self, rows, shape):
        return jax.tree.map(lambda *x: np.stack(x).reshape(*shape, *x[0].shape), *rows)


def check_seed(simulators: Simulators, actions, first) -> None:
    """Check that an episode follows from its seed and its actions, or raise UserError.

    The beginning is played by one simulator, by it again, and by another that is kept.
    """
    another = simulators.make()
    simulators.idle.append(another)
    played = [opening(simulators, first, actions, until=time.monotonic() + CHECK_SECONDS)]
    for each in (first, another):
        played.append(opening(simulators, each, actions, len(played[0]) - 1))

    def same(episode) -> bool:
        equal = functools.partial(np.array_equal, equal_nan=True)
        return len(episode) == len(played[0]) and jax.tree.all(
            jax.tree.map(equal, played[0], episode))
    if not all(map(same, played)):
        raise UserError(f"config.env: {simulators.owner} plays another episode if it is reset to "
                        "the same seed: resume and evaluation need the same one; call "
                        "super().reset(seed=seed) first, and draw from self.np_random alone")


def opening(simulators: Simulators, simulator, actions, steps: int = CHECK_STEPS,
            until: float = math.inf) -> list:
    """Play random legal actions from seed 0, some steps or seconds, and return what was seen."""
    rng = np.random.default_rng(0)
    rows = [(simulators.ask_reset(simulator, 0), 0.0, False, False)]
    while len(rows) <= steps and not any(rows[-1][2:]) and time.monotonic() < until:
        rows.append(simulators.ask_step(simulator, at_random(actions, rows[-1][0], rng)))
    return rows


def at_random(actions, obs, rng):
    """Return a legal action, drawn by numpy."""
    if isinstance(actions, spaces.Box):
        return rng.uniform(actions.low, actions.high).astype(np.float32)
    legal = obs["legal"] if isinstance(obs, dict) else np.ones(spaces.num_choices(actions), bool)
    worth = rng.uniform(size=len(legal)) + legal
    if isinstance(actions, spaces.Discrete):
        return np.int32(worth.argmax())
    parts = np.split(worth, np.cumsum(actions.sizes)[:-1])
    return np.array([part.argmax() for part in parts], np.int32)


def notes(first, actions, obs) -> list[str]:
    """Return a line for each thing that is chosen or left out for an environment."""
    lines = []
    if np.issubdtype(getattr(actions, "dtype", None), np.integer) and hasattr(actions, "low"):
        lines.append(f"actions of {actions} are drawn from a Gaussian and rounded")
    if isinstance(obs, dict):
        lines.append("only the actions that its observations call legal are played")
    elif "action_mask" in (first.reset(seed=0)[1] or ()) or \
            hasattr(first.unwrapped, "action_masks"):
        lines.append("its mask of legal actions is not read, as it is no entry 'action_mask' of "
                     "its observations: all actions are played")
    shape = array_of(obs).shape
    if len(shape) == 3 and shape[0] < min(shape[1:]):
        lines.append(f"observations {shape} are read as {shape[0]} rows of {shape[1]} pixels with "
                     f"{shape[2]} channels; if channels come first, move them to the end by "
                     "gymnasium.wrappers.TransformObservation")
    return lines


def simulator(gymnasium, name: str, max_steps: int, options: dict):
    """Return one of Gymnasium's environments."""
    wrap, atari = gymnasium.wrappers, name.startswith("ALE/")
    if atari:
        gymnasium.register_envs(imported("ale_py", "atari"))
        options = {"frameskip": 1, **options}                          # AtariPreprocessing skips
    if name.startswith("highway_env:"):
        imported("highway_env", "highway")
    with blamed(f"config.env: Gymnasium's {name} cannot be made"):
        limit = {"max_episode_steps": max_steps} if max_steps and not atari else {}
        env = gymnasium.make(name, **limit, **options)
        if not atari:
            return env
        env = wrap.FrameStackObservation(wrap.AtariPreprocessing(env, scale_obs=False), 4)
        space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
        env = wrap.TransformObservation(env, lambda obs: np.moveaxis(obs, 0, -1), space)
        return wrap.TimeLimit(env, max_steps) if max_steps else env
