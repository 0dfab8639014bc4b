"""Gymnasium's environments, which run on the host, as the pure functions of karpjax/envs/protocol.py.

    config.env = dict(name="gymnasium:LunarLander-v3")                             pip install "karpjax[gymnasium]"
    config.env = dict(name="gymnasium:ALE/Breakout-v5", max_steps=27000)           pip install "karpjax[atari]"
    config.env = dict(name="gymnasium:highway_env:highway-fast-v0", max_steps=30)  pip install "karpjax[highway]"

A simulator does not fit into a checkpoint. But an episode is what its seed and its actions make of it, so these are the state
here, and the simulators at hand are a cache of where they lead: a state that none of them is at, after a resume for example, is
played again from its seed. So rollouts, resume, evaluation and pictures know nothing of the host. It takes a simulator that
gives the same for the same seed, as Gymnasium asks of all.

Games of the Arcade Learning Environment (Bellemare et al. 2013) come as in Mnih et al. 2015: (84, 84, 4) uint8, the last four
of every fourth frame in grey, after a random start; rewards, lives and sticky actions as Gymnasium's version has them.
"""
from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError, extra
from karpjax.envs import spaces
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import box_of


class Gymnasium:
    """max_steps   where an episode is cut; 0: where Gymnasium's registry says. Other options go to gymnasium.make."""
    on_host = True

    def __init__(self, name: str, max_steps: int = 0, **options):
        gymnasium = extra("gymnasium")
        first = simulator(gymnasium, name, max_steps, options)
        if "rgb_array" in (first.metadata.get("render_modes") or ()):
            options = {"render_mode": "rgb_array", **options}
        make = functools.partial(simulator, gymnasium, name, max_steps, options)
        self.max_steps = max_steps or getattr(first.spec, "max_episode_steps", None)
        if not self.max_steps:
            raise UserError(f"config.env: {name} has no end of its own; say where to cut an episode: max_steps=1000")
        self.actions, encode = actions_of(gymnasium, first.action_space, name)
        obs = first.observation_space
        self.obs = jax.ShapeDtypeStruct(obs.shape, np.uint8 if obs.dtype == np.uint8 else np.float32)
        self.simulators = Simulators(make, encode, self.obs.dtype)
        if "render_mode" in options:
            self.draw = self.simulators.draw

    def reset(self, key):
        state = self.start(key)
        return state, jax.pure_callback(self.simulators.first, self.obs, state["seed"], vmap_method="broadcast_all")

    def step(self, state, action, key) -> tuple:
        return self.advance(state, action, state["seed"], again=False)[:2]

    def auto_reset(self, state, action, key) -> tuple:
        """protocol.auto_reset, resetting none but the simulators whose episode is over."""
        fresh = self.start(key)
        state, out, obs = self.advance(state, action, fresh["seed"], again=True)
        over = out.terminated | out.truncated
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, state), out._replace(obs=obs)

    def start(self, key) -> dict:
        action = spaces.example(self.actions)
        return {"seed": jax.random.bits(key) >> 1,                                    # Gymnasium's seeds have 31 bits
                "time": jnp.int32(0), "actions": jnp.zeros((self.max_steps, *action.shape), action.dtype)}

    def advance(self, state, action, seed, again: bool):
        """(state, out, obs): a step; where that is an episode's last, obs is the first of the one that `seed` starts."""
        scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
        obs, reward, terminated, truncated, then = jax.pure_callback(
            functools.partial(self.simulators.step, again=again),
            (self.obs, scalar(np.float32), scalar(np.bool_), scalar(np.bool_), self.obs),
            state, action, seed, vmap_method="broadcast_all")
        played = state["actions"].at[jnp.minimum(state["time"], self.max_steps - 1)].set(action)
        out = TimeStep(obs, reward, terminated, truncated, obs)
        return {**state, "time": state["time"] + 1, "actions": played}, out, then


class Simulators:
    """Where seeds and actions lead, by simulators that stay where they were left. Called from compiled programs with numpy's
    arrays alone: JAX would wait here for the program that waits for this."""

    def __init__(self, make: Callable, encode: Callable, dtype):
        self.make, self.encode, self.dtype = make, encode, dtype
        self.idle = []      # simulators of episodes that are over
        self.kept = {}      # (seed, actions so far) -> (simulator, obs, over); who moved last comes last
        self.limit = 1      # simulators; three for each environment: the rollout's, and those of evaluation's two policies

    def first(self, seeds):
        """Seeds (...) -> the first observation of each episode (..., O)."""
        seeds = np.asarray(seeds)
        self.limit = max(self.limit, 3 * seeds.size)
        return self.stacked([self.advance(int(seed)) for seed in seeds.ravel()], seeds.shape)

    def step(self, state, actions, fresh, again: bool):
        """(...) -> (obs, reward, terminated, truncated, obs that follows), each (..., *)."""
        state, actions, fresh = jax.tree.map(np.asarray, (state, actions, fresh))
        rows = [self.move(int(state["seed"][i]), state["actions"][i][:state["time"][i]], actions[i], int(fresh[i]), again)
                for i in np.ndindex(fresh.shape)]
        obs, reward, terminated, truncated, then = zip(*rows)
        plain = lambda column, dtype: np.array(column, dtype).reshape(fresh.shape)
        return (self.stacked(obs, fresh.shape), plain(reward, np.float32), plain(terminated, bool), plain(truncated, bool),
                self.stacked(then, fresh.shape))

    def draw(self, state):
        """(H, W, 3) in 0 to 1."""
        played = state["actions"][:state["time"]]
        found = self.at(int(state["seed"]), played)
        self.keep(int(state["seed"]), played, found)
        return np.float32(found[0].render()) / 255

    def move(self, seed: int, played, action, fresh: int, again: bool):
        simulator, obs, over = self.at(seed, played)
        reward, terminated, truncated = 0.0, over, False                                  # beyond the end nothing changes
        if not over:
            try:
                obs, reward, terminated, truncated, _ = simulator.step(self.encode(action))
            except Exception as error:
                raise UserError(f"the environment {simulator} failed on the action {action}: {error!r}") from error
            over = terminated or truncated
        if over and again:
            self.idle.append(simulator)
            return obs, reward, terminated, truncated, self.advance(fresh)
        self.keep(seed, np.concatenate([played, action[None]]), (simulator, obs, over))
        return obs, reward, terminated, truncated, obs

    def at(self, seed: int, played) -> tuple:
        """(simulator, obs, over) after these actions; out of `kept`."""
        if (seed, played.tobytes()) not in self.kept:
            self.advance(seed)
            for t in range(len(played)):
                self.move(seed, played[:t], played[t], seed, again=False)
        return self.kept.pop((seed, played.tobytes()))

    def begin(self, seed: int):
        """The first observation of an episode; its simulator is kept."""
        if not self.idle and len(self.kept) >= self.limit:
            self.idle.append(self.kept.pop(next(iter(self.kept)))[0])
        simulator = self.idle.pop() if self.idle else self.make()
        obs, _ = simulator.reset(seed=seed)
        self.keep(seed, np.empty(0), (simulator, obs, False))
        return obs

    def keep(self, seed: int, played, found: tuple) -> None:
        replaced = self.kept.pop((seed, played.tobytes()), None)
        self.idle += [replaced[0]] if replaced else []
        self.kept[seed, played.tobytes()] = found

    def stacked(self, obs, shape):
        obs = np.stack(obs).astype(self.dtype)
        return obs.reshape(*shape, *obs.shape[1:])


def simulator(gymnasium, name: str, max_steps: int, options: dict):
    """One of Gymnasium's environments whose observations are arrays."""
    wrap, atari = gymnasium.wrappers, name.startswith("ALE/")
    if atari:
        gymnasium.register_envs(extra("ale_py", "atari"))
        options = {"frameskip": 1, **options}                                             # AtariPreprocessing skips
    if name.startswith("highway_env:"):
        extra("highway_env", "highway")
    try:
        limit = {"max_episode_steps": max_steps} if max_steps and not atari else {}
        env = gymnasium.make(name, **limit, **options)
        if atari:
            env = wrap.FrameStackObservation(wrap.AtariPreprocessing(env, scale_obs=False), 4)
            space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
            env = wrap.TransformObservation(env, lambda obs: np.moveaxis(obs, 0, -1), space)
            env = wrap.TimeLimit(env, max_steps) if max_steps else env
    except (gymnasium.error.Error, TypeError) as error:
        raise UserError(f"config.env: Gymnasium's {name}: {str(error).splitlines()[0]}") from error
    return env if isinstance(env.observation_space, gymnasium.spaces.Box) else wrap.FlattenObservation(env)


def actions_of(gymnasium, space, name: str) -> tuple:
    """(our space, our action -> Gymnasium's)."""
    kinds = gymnasium.spaces
    if isinstance(space, kinds.Discrete):
        return spaces.Discrete(int(space.n)), lambda action: int(action + space.start)
    if isinstance(space, kinds.MultiDiscrete) and space.nvec.ndim == 1:
        return spaces.MultiDiscrete(tuple(map(int, space.nvec))), lambda action: action + space.start
    if isinstance(space, kinds.Box):
        return box_of(space.low, space.high, space.shape), lambda action: np.clip(
            action.reshape(space.shape), space.low, space.high).astype(space.dtype)
    raise UserError(f"config.env: {name} takes actions of {space}; expected Discrete, MultiDiscrete or Box")
