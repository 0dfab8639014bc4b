"""Batches from environments: a rollout is a pure function, so reinforcement learning is one more source.

`begin` plays `num_steps` steps in `num_envs` environments with the policy it is handed and lets the task turn the trajectory
into training examples; `batch` gives minibatch i: some of the steps of every environment. The environment axis comes first and
is the batch axis: it stays sharded, so nothing crosses devices but gradients, and the sums that normalise. Keys belong to
environments (fold_in(key, env)), never to devices: the number of devices changes nothing.
"""
from collections.abc import Callable, Mapping, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.envs import protocol
from karpjax.envs.protocol import array_of, auto_reset
from karpjax.rl import running_stats
from karpjax.sources.source import Source, example_keys, local_rows

EVALUATION = 1_000_003  # the seed of evaluation's keys: none of a run's own
RECENT = 100  # episodes, at least, whose mean return is reported: the last ones of every environment


class Rollout(Source):
    """act        (variables, obs (E, ...), keys (E,)) -> (action (E, ...), {name: (E, ...)}), what is kept beside the action
    examples   (trajectory, variables) -> batch; leaves (E, T, ...). Trajectory: obs, action, reward, terminated,
               truncated, final_obs and what `act` keeps. Here returns and advantages are computed and normalised
    minibatches, epochs   the network learns from T / minibatches steps of every environment at a time, drawn without
               replacement, and from every step `epochs` times
    normalize  of "obs" and "reward": the first by running mean and variance, the second by the running variance of the
               discounted return. Episodes' returns are those of the environment
    eval_episodes   seeds 0 .. n-1, one episode each; 0: the task has no evaluation
    eval_env   another environment for these: of a game, one where somebody plays the other side

    A batch also carries "recent": {"return", "length", "known"} (E, K), of the last K episodes of each environment.
    """
    sharded = ("env", "obs", "episode", "recent")
    depends_on_policy = True

    @old_names.old_keywords(length="num_steps")
    def __init__(self, env, act: Callable, examples: Callable, *, num_envs: int, num_steps: int, minibatches: int = 1,
                 epochs: int = 1, normalize: Sequence[str] = (), discount: float = 1.0, eval_episodes: int = 0,
                 eval_env=None):
        for name, value in dict(num_envs=num_envs, num_steps=num_steps, minibatches=minibatches, epochs=epochs).items():
            if value < 1:
                raise UserError(f"config.data.{name}: expected at least 1, found {value}")
        if num_steps % minibatches:
            raise UserError(f"a rollout of {num_steps} steps cannot be cut into {minibatches} equal minibatches; "
                            f"use a num_steps that {minibatches} divides")
        if isinstance(normalize, str) or set(normalize) - {"obs", "reward"}:
            raise UserError(f"config.data.normalize: expected some of ('obs', 'reward'), in brackets, found {normalize!r}")
        self.env, self.act, self.examples, self.eval_env = env, act, examples, eval_env or env
        self.batch_size, self.num_steps, self.minibatches, self.steps_per_chunk = num_envs, num_steps, minibatches, minibatches * epochs
        self.normalize, self.discount, self.eval_episodes = tuple(normalize), discount, eval_episodes
        self.eval_state = ("moments",) if "obs" in normalize else ()
        self.splits = ("eval",) if eval_episodes else ()
        self.on_host = getattr(env, "on_host", False)
        _, obs = protocol.check_env(env)
        self.example = {"obs": jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), obs)}

    @property
    def examples_per_step(self) -> float:
        """Environment steps: each is counted once, however often it is learned from."""
        return self.batch_size * self.num_steps / self.steps_per_chunk

    def init(self, key):
        start_key, key = jax.random.split(key)
        E, K = self.batch_size, -(-RECENT // self.batch_size)
        env, obs = jax.vmap(self.env.reset)(example_keys(start_key, jnp.arange(E)))
        shapes = {"obs": array_of(obs).shape[1:], "reward": ()}
        return {"key": jax.random.key_data(key), "rollouts": jnp.int32(0), "env": env, "obs": obs,
                "episode": {name: jnp.zeros(E) for name in ("return", "length", "discounted")},   # the one under way
                "recent": {name: jnp.zeros((E, K)) for name in ("return", "length", "known")},    # newest first
                "moments": {name: running_stats.init(shapes[name]) for name in self.normalize}}

    def actor(self, variables, source_state) -> Callable:
        """Who plays a rollout: (states of the environments (E, ...), obs, keys (E,)) -> what `act` gives."""
        return lambda env, obs, keys: self.act(variables, self.seen(source_state["moments"], obs), keys)

    def advance(self, arrays, source_state, variables):
        E, known = self.batch_size, source_state["moments"]
        key = jax.random.fold_in(jax.random.wrap_key_data(source_state["key"]), source_state["rollouts"])
        env_keys, act = example_keys(key, jnp.arange(E)), self.actor(variables, source_state)  # (E,)

        def step(carry, t):
            env, obs, episode, recent = carry
            keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, t)))(env_keys)   # (E, 2)
            action, kept = act(env, obs, keys[:, 0])
            env, out = jax.vmap(lambda s, a, k: auto_reset(self.env, s, a, k))(env, action, keys[:, 1])
            over = out.terminated | out.truncated
            episode = {"return": episode["return"] + out.reward, "length": episode["length"] + 1,
                       "discounted": self.discount * episode["discounted"] + out.reward}
            now = {**kept, **out._asdict(), "obs": obs, "action": action, "discounted": episode["discounted"]}
            ended = {"return": episode["return"], "length": episode["length"], "known": jnp.ones(E)}
            recent = jax.tree.map(lambda last, row: jnp.where(
                over[:, None], jnp.concatenate([last[:, None], row[:, :-1]], axis=1), row), ended, recent)
            return (env, out.obs, jax.tree.map(lambda x: jnp.where(over, 0.0, x), episode), recent), now

        start = tuple(source_state[name] for name in ("env", "obs", "episode", "recent"))
        (env, obs, episode, recent), trajectory = lax.scan(step, start, jnp.arange(self.num_steps))   # leaves (T, E, ...)
        trajectory = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), trajectory)                     # (E, T, ...)

        rows = {"obs": array_of(trajectory["obs"]), "reward": trajectory.pop("discounted")}
        new = {name: running_stats.update(known[name], rows[name]) for name in self.normalize}
        if "reward" in self.normalize:
            trajectory["reward"] = running_stats.scale(new["reward"], trajectory["reward"])
        # What is learned from is what the policy saw: with the moments of before.
        trajectory |= {name: self.seen(known, trajectory[name]) for name in ("obs", "final_obs")}
        chunk = {"rows": self.examples(trajectory, variables), "recent": recent}
        if self.minibatches > 1:
            order = lambda k: jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(k, e), self.num_steps))(
                jnp.arange(self.steps_per_chunk // self.minibatches))
            chunk["order"] = jax.vmap(order)(example_keys(key, E + jnp.arange(E)))                   # (E, epochs, T)
        return {**source_state, "rollouts": source_state["rollouts"] + 1, "env": env, "obs": obs, "episode": episode,
                "recent": recent, "moments": new}, chunk

    def batch(self, arrays, chunk, i):
        rows = chunk["rows"]                                                                         # (E, T, ...)
        if self.minibatches > 1:
            epoch, j, size = i // self.minibatches, i % self.minibatches, self.num_steps // self.minibatches
            order = lax.dynamic_index_in_dim(chunk["order"], epoch, axis=1, keepdims=False)          # (E, T)
            order = lax.dynamic_slice_in_dim(order, j * size, size, axis=1)                        # (E, T / minibatches)
            rows = jax.tree.map(lambda x: jax.vmap(lambda row, k: row[k])(x, order), rows)
        return {**rows, "recent": chunk["recent"]}

    def seen(self, known: dict, obs):
        """Observations (..., O) as the policy sees them."""
        if "obs" not in self.normalize:
            return obs
        x = running_stats.normalize(known["obs"], array_of(obs))
        return {**obs, "obs": x} if isinstance(obs, Mapping) else x

    def eval_batches(self, split):
        size = self.batch_size
        while size // 2 >= max(1, self.eval_episodes) and size // 2 % jax.device_count() == 0:  # what it takes, on any mesh
            size //= 2
        for start in range(0, self.eval_episodes, size):
            seed = np.arange(start, start + size)[local_rows(size)]
            yield {"seed": seed.astype(np.uint32), "weight": (seed < self.eval_episodes).astype(np.float32)}

    def episodes(self, policy: Callable, seeds, known: dict, states: bool = False):
        """One episode for each seed (B,): {"return", "length"} (B,); with `states` the states acted on, (max_steps, B, ...).

        policy   (obs (B, ...), keys (B,)) -> action (B, ...)
        known    the moments of the run: variables["source"]["moments"], where observations are normalised
        """
        keys = example_keys(jax.random.key(EVALUATION), seeds)
        start_keys, keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)

        def step(carry, t):
            env, obs, found, alive = carry
            both = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, t)))(keys)        # (B, 2)
            new, out = jax.vmap(self.eval_env.step)(env, policy(self.seen(known, obs), both[:, 0]), both[:, 1])
            # An environment may do what it likes beyond its end.
            found = {"return": found["return"] + jnp.where(alive > 0, out.reward, 0.0), "length": found["length"] + alive}
            return (new, out.obs, found, alive * ~(out.terminated | out.truncated)), env if states else None

        env, obs = jax.vmap(self.eval_env.reset)(start_keys)
        zeros = jnp.zeros(seeds.shape)
        start = (env, obs, {"return": zeros, "length": zeros}, zeros + 1)
        (_, _, found, _), before = lax.scan(step, start, jnp.arange(self.eval_env.max_steps))
        return {**found, "states": before} if states else found
