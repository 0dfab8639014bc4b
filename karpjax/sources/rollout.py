"""Batches from environments: a rollout is a pure function, so it is one more source.

`advance` plays `num_steps` steps in `num_envs` environments with the policy it is given, and lets
the task turn the trajectory into training examples. `batch` gives minibatch i: some of the steps
of every environment. The environment axis comes first and is the batch axis. It stays sharded, so
nothing crosses devices except gradients and the sums that normalise. Keys belong to environments
(fold_in(key, env)), never to devices: the number of devices changes nothing.
"""
from collections.abc import Callable, Mapping, Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.envs import protocol
from karpjax.envs.protocol import array_of, auto_reset, step_keys
from karpjax.rl import running_stats
from karpjax.sources.source import Source, example_keys, local_rows

EVALUATION = 1_000_003  # the seed of evaluation's keys: none of a run's own
RECENT = 100  # episodes, at least, in the reported mean return: the last ones of every environment


@old_names.old_attributes(seen="normalize_obs", length="num_steps")
class Rollout(Source):
    """Source of what a policy does and gets in `num_envs` copies of an environment.

    act        (variables, obs (E, ...), keys (E,)) -> (action (E, ...), {name: (E, ...)}); the
               second is kept in the trajectory
    examples   (trajectory, variables) -> batch; leaves (E, T, ...). The trajectory has obs, action,
               reward, terminated, truncated, final_obs and what `act` keeps. Returns and
               advantages are computed and normalised here
    minibatches, epochs   the network learns from T / minibatches steps of every environment at a
               time, drawn without replacement, and from every step `epochs` times
    normalize  some of "obs" and "reward": the first by running mean and variance, the second by
               the running variance of the discounted return. Episodes' returns are never scaled
    eval_episodes   number of seeds 0 .. n-1, one episode each; 0: the task has no evaluation
    eval_env   another environment for these; of a game, one that plays the other side

    A batch also has "recent", the last K episodes of each environment: {"return", "length",
    "known"} (E, K), where "known" is 0 for episodes that have not been yet.
    """
    sharded = ("env", "obs", "episode", "recent")
    depends_on_policy = True

    @old_names.old_keywords(length="num_steps")
    def __init__(self, env, act: Callable, examples: Callable, *, num_envs: int, num_steps: int,
                 minibatches: int = 1, epochs: int = 1, normalize: Sequence[str] = (),
                 discount: float = 1.0, eval_episodes: int = 0, eval_env=None):
        for name, value in dict(num_envs=num_envs, num_steps=num_steps, minibatches=minibatches,
                                epochs=epochs).items():
            if value < 1:
                raise UserError(f"config.data.{name}: expected at least 1, found {value}")
        if num_steps % minibatches:
            raise UserError(f"a rollout of {num_steps} steps cannot be cut into {minibatches} "
                            f"equal minibatches; use a num_steps that {minibatches} divides")
        if isinstance(normalize, str) or set(normalize) - {"obs", "reward"}:
            raise UserError("config.data.normalize: expected some of ('obs', 'reward'), "
                            f"in brackets, found {normalize!r}")
        self.env, self.eval_env = env, eval_env or env
        self.act, self.examples = act, examples
        self.batch_size, self.num_steps = num_envs, num_steps
        self.minibatches, self.steps_per_chunk = minibatches, minibatches * epochs
        self.normalize, self.discount = tuple(normalize), discount
        self.eval_episodes, self.splits = eval_episodes, ("eval",) if eval_episodes else ()
        self.eval_state = ("moments",) if "obs" in normalize else ()
        self.on_host = getattr(env, "on_host", False)
        _, obs = protocol.check_env(env)
        self.example = {"obs": jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), obs)}

    @property
    def examples_per_step(self) -> float:
        """Return environment steps: each is counted once, however often it is learned from."""
        return self.batch_size * self.num_steps / self.steps_per_chunk

    def init(self, key):
        start_key, key = jax.random.split(key)
        E, K = self.batch_size, -(-RECENT // self.batch_size)
        env, obs = jax.vmap(self.env.reset)(example_keys(start_key, jnp.arange(E)))
        shapes = {"obs": array_of(obs).shape[1:], "reward": ()}
        # "episode" is the one under way, "recent" has the newest first.
        return {"key": jax.random.key_data(key), "rollouts": jnp.int32(0), "env": env, "obs": obs,
                "episode": {name: jnp.zeros(E) for name in ("return", "length", "discounted")},
                "recent": {name: jnp.zeros((E, K)) for name in ("return", "length", "known")},
                "moments": {name: running_stats.init(shapes[name]) for name in self.normalize}}

    def actor(self, variables, source_state) -> Callable:
        """Return the player of a rollout: (env states (E, ...), obs, keys (E,)) -> as `act`."""
        stats = source_state["moments"]
        return lambda env, obs, keys: self.act(variables, self.normalize_obs(stats, obs), keys)

    def advance(self, arrays, source_state, variables):
        """Play a rollout; return the new state, and examples, recent episodes and their order."""
        E, stats = self.batch_size, source_state["moments"]
        key = jax.random.fold_in(jax.random.wrap_key_data(source_state["key"]),
                                 source_state["rollouts"])
        env_keys = example_keys(key, jnp.arange(E))                                    # (E,)
        played, trajectory = self.play(self.actor(variables, source_state), source_state, env_keys)
        new_stats = self.update_stats(stats, trajectory)
        trajectory = self.normalize_trajectory(stats, new_stats, trajectory)
        chunk = {"rows": self.examples(trajectory, variables), "recent": played["recent"]}
        if self.minibatches > 1:
            chunk["order"] = self.minibatch_order(example_keys(key, E + jnp.arange(E)))
        return {**source_state, **played, "rollouts": source_state["rollouts"] + 1,
                "moments": new_stats}, chunk

    def play(self, act: Callable, source_state, env_keys) -> tuple[dict, dict]:
        """Play num_steps steps; return the new state entries and the trajectory (E, T, ...)."""
        def step(carry, t):
            env, obs, episode, recent = carry
            keys = step_keys(env_keys, t)                                              # (E, 2)
            action, kept = act(env, obs, keys[:, 0])
            env, out = jax.vmap(functools.partial(auto_reset, self.env))(env, action, keys[:, 1])
            done = out.terminated | out.truncated
            episode = {"return": episode["return"] + out.reward, "length": episode["length"] + 1,
                       "discounted": self.discount * episode["discounted"] + out.reward}
            row = {**kept, **out._asdict(), "obs": obs, "action": action,
                   "discounted": episode["discounted"]}
            recent = with_ended(recent, episode, done)
            episode = jax.tree.map(lambda x: jnp.where(done, 0.0, x), episode)
            return (env, out.obs, episode, recent), row

        names = ("env", "obs", "episode", "recent")
        start = tuple(source_state[name] for name in names)
        end, trajectory = lax.scan(step, start, jnp.arange(self.num_steps))            # (T, E, ...)
        trajectory = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), trajectory)         # (E, T, ...)
        return dict(zip(names, end, strict=True)), trajectory

    def update_stats(self, stats: dict, trajectory: dict) -> dict:
        """Return the running statistics with the trajectory's observations and returns added."""
        rows = {"obs": array_of(trajectory["obs"]), "reward": trajectory["discounted"]}
        return {name: running_stats.update(stats[name], rows[name]) for name in self.normalize}

    def normalize_trajectory(self, stats: dict, new_stats: dict, trajectory: dict) -> dict:
        """Return the trajectory as the task learns from it: rewards and observations normalised."""
        trajectory = {name: x for name, x in trajectory.items() if name != "discounted"}
        if "reward" in self.normalize:
            trajectory["reward"] = running_stats.scale(new_stats["reward"], trajectory["reward"])
        # Observations are learned from as the policy acted on them: by the statistics of before.
        for name in ("obs", "final_obs"):
            trajectory[name] = self.normalize_obs(stats, trajectory[name])
        return trajectory

    def minibatch_order(self, env_keys):
        """Return the order in which each environment's steps are learned from, (E, epochs, T)."""
        epochs = jnp.arange(self.steps_per_chunk // self.minibatches)

        def orders(key):
            return jax.vmap(lambda epoch_key: jax.random.permutation(epoch_key, self.num_steps))(
                example_keys(key, epochs))
        return jax.vmap(orders)(env_keys)

    def batch(self, arrays, chunk, i):
        rows = chunk["rows"]                                                           # (E, T, ...)
        if self.minibatches > 1:
            epoch, j = i // self.minibatches, i % self.minibatches
            size = self.num_steps // self.minibatches
            order = lax.dynamic_index_in_dim(chunk["order"], epoch, axis=1, keepdims=False)
            order = lax.dynamic_slice_in_dim(order, j * size, size, axis=1)            # (E, size)
            take = jax.vmap(lambda row, k: row[k])
            rows = jax.tree.map(lambda x: take(x, order), rows)
        return {**rows, "recent": chunk["recent"]}

    def normalize_obs(self, stats: dict, obs):
        """Return observations (..., O) as the policy gets them: normalised, if so configured."""
        if "obs" not in self.normalize:
            return obs
        x = running_stats.normalize(stats["obs"], array_of(obs))
        return {**obs, "obs": x} if isinstance(obs, Mapping) else x

    def eval_batches(self, split):
        size = self.batch_size
        # The smallest batch that holds all episodes and that every mesh can divide.
        while size // 2 >= max(1, self.eval_episodes) and size // 2 % jax.device_count() == 0:
            size //= 2
        for start in range(0, self.eval_episodes, size):
            seed = np.arange(start, start + size)[local_rows(size)]
            weight = (seed < self.eval_episodes).astype(np.float32)
            yield {"seed": seed.astype(np.uint32), "weight": weight}

    @old_names.old_keywords(known="stats")
    def episodes(self, policy: Callable, seeds, stats: dict, states: bool = False):
        """Play one episode for each seed (B,) and return {"return", "length"} (B,).

        policy   (obs (B, ...), keys (B,)) -> action (B, ...)
        stats    running statistics: variables["source"]["moments"], if observations are normalised
        states   whether to return "states" too: those acted on, (max_steps, B, ...)
        """
        keys = example_keys(jax.random.key(EVALUATION), seeds)
        start_keys, keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)

        def step(carry, t):
            env, obs, totals, alive = carry
            both = step_keys(keys, t)                                                  # (B, 2)
            action = policy(self.normalize_obs(stats, obs), both[:, 0])
            new, out = jax.vmap(self.eval_env.step)(env, action, both[:, 1])
            # Beyond its end an environment may return anything.
            totals = {"return": totals["return"] + jnp.where(alive > 0, out.reward, 0.0),
                      "length": totals["length"] + alive}
            alive = alive * ~(out.terminated | out.truncated)
            return (new, out.obs, totals, alive), env if states else None

        env, obs = jax.vmap(self.eval_env.reset)(start_keys)
        zeros = jnp.zeros(seeds.shape)
        start = (env, obs, {"return": zeros, "length": zeros}, zeros + 1)
        (_, _, totals, _), before = lax.scan(step, start, jnp.arange(self.eval_env.max_steps))
        return {**totals, "states": before} if states else totals


def with_ended(recent: dict, episode: dict, done) -> dict:
    """Return the recent episodes (E, K) with those just done (E,) first, and the oldest dropped."""
    def push(last, row):
        pushed = jnp.concatenate([last[:, None], row[:, :-1]], axis=1)
        return jnp.where(done[:, None], pushed, row)
    last = {"return": episode["return"], "length": episode["length"], "known": jnp.ones(len(done))}
    return jax.tree.map(push, last, recent)
