"""Gymnasium's host environments as the pure functions of karpjax/envs/protocol.py.

    pip install "karpjax[gymnasium]"      config.env = dict(name="gymnasium:LunarLander-v3")
    pip install "karpjax[atari]"          name="gymnasium:ALE/Breakout-v5", max_steps=27000
    pip install "karpjax[highway]"        name="gymnasium:highway_env:highway-fast-v0", max_steps=30

A simulator does not fit into a checkpoint. But an episode follows from its seed and its actions, so
these are the state here. The simulators at hand are a cache: if none of them is at a state, after a
resume for example, the episode is played again from its seed. So rollouts, resume, evaluation and
pictures know nothing of the host. This needs simulators that give the same for the same seed, as
Gymnasium asks of all.

Games of the Arcade Learning Environment (Bellemare et al. 2013) come as in Mnih et al. 2015:
(84, 84, 4) uint8, the last four of every fourth frame in grey, after a random start. Rewards, lives
and sticky actions are those of Gymnasium's version.
"""
from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError, extra
from karpjax.core.trees import where
from karpjax.envs import spaces
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import box_of


class Gymnasium:
    """Environment of Gymnasium.

    max_steps   steps after which an episode is cut; 0: as in Gymnasium's registry
    options     of gymnasium.make
    """
    on_host = True

    def __init__(self, name: str, max_steps: int = 0, **options):
        gymnasium = extra("gymnasium")
        first = simulator(gymnasium, name, max_steps, options)
        if "rgb_array" in (first.metadata.get("render_modes") or ()):
            options = {"render_mode": "rgb_array", **options}
        make = functools.partial(simulator, gymnasium, name, max_steps, options)
        self.max_steps = max_steps or getattr(first.spec, "max_episode_steps", None)
        if not self.max_steps:
            raise UserError(f"config.env: {name} has no end of its own; "
                            "say where to cut an episode: max_steps=1000")
        self.actions, encode = actions_of(gymnasium, first.action_space, name)
        obs = first.observation_space
        dtype = np.uint8 if obs.dtype == np.uint8 else np.float32
        self.obs = jax.ShapeDtypeStruct(obs.shape, dtype)
        self.simulators = Simulators(make, encode, self.obs.dtype)
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

    def __init__(self, make: Callable, encode: Callable, dtype):
        self.make, self.encode, self.dtype = make, encode, dtype
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
        return np.float32(simulator.render()) / 255

    def move(self, seed: int, played, action, fresh: int, restart: bool):
        """Take one action after those `played` and return a row of `step`."""
        simulator, obs, done = self.at(seed, played)
        reward, terminated, truncated = 0.0, done, False           # beyond the end nothing changes
        if not done:
            try:
                obs, reward, terminated, truncated, _ = simulator.step(self.encode(action))
            except Exception as error:
                raise UserError(f"the environment {simulator} failed on the action {action}: "
                                f"{error!r}") from error
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
        obs, _ = simulator.reset(seed=seed)
        self.keep(seed, np.empty(0), simulator, obs, False)
        return obs

    def keep(self, seed: int, played, simulator, obs, done: bool) -> None:
        """Put a simulator into `kept`. One that was there for the same actions is idle now."""
        replaced = self.kept.pop((seed, played.tobytes()), None)
        self.idle += [replaced[0]] if replaced else []
        self.kept[seed, played.tobytes()] = (simulator, obs, done)

    def stacked(self, obs, shape):
        obs = np.stack(obs).astype(self.dtype)
        return obs.reshape(*shape, *obs.shape[1:])


def simulator(gymnasium, name: str, max_steps: int, options: dict):
    """Return one of Gymnasium's environments, whose observations are arrays."""
    wrap, atari = gymnasium.wrappers, name.startswith("ALE/")
    if atari:
        gymnasium.register_envs(extra("ale_py", "atari"))
        options = {"frameskip": 1, **options}                          # AtariPreprocessing skips
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
    if isinstance(env.observation_space, gymnasium.spaces.Box):
        return env
    return wrap.FlattenObservation(env)


def actions_of(gymnasium, space, name: str) -> tuple:
    """Return (karpjax's space, a function from its actions to Gymnasium's)."""
    kinds = gymnasium.spaces
    if isinstance(space, kinds.Discrete):
        return spaces.Discrete(int(space.n)), lambda action: int(action + space.start)
    if isinstance(space, kinds.MultiDiscrete) and space.nvec.ndim == 1:
        sizes = tuple(map(int, space.nvec))
        return spaces.MultiDiscrete(sizes), lambda action: action + space.start
    if isinstance(space, kinds.Box):
        def clipped(action):
            action = np.clip(action.reshape(space.shape), space.low, space.high)
            return action.astype(space.dtype)
        return box_of(space.low, space.high, space.shape), clipped
    raise UserError(f"config.env: {name} takes actions of {space}; "
                    "expected Discrete, MultiDiscrete or Box")
