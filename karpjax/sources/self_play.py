"""A rollout of a game that a network plays against itself, and in some games against its past.

Against itself alone a policy may forget how to beat its past versions, and go round in circles
(Bansal et al. 2018, section 3.3; AlphaGo's policy played a pool too, Silver et al. 2016). So every
so many rollouts the parameters join a pool and the oldest leave, and each rollout draws one of the
pool, the opponent. The opponent plays in two of every four environments, one seat in each. Its
moves are played and not learned from: "learner" is 0 there. Some of its moves may be drawn at
random: two players who know each other never show what to do against a move that neither makes.
The pool is part of the source's state, and so of every checkpoint.

    config.data.pool = dict(size=8, every=20, random=0.2)
"""
from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_keys
from karpjax.envs.protocol import step_keys
from karpjax.envs.spaces import sample_legal
from karpjax.sources.rollout import Rollout

POOL = ("size", "every", "random")


class SelfPlay(Rollout):
    """Rollout of a game of two players, who share one network.

    act      (variables, obs (E, ...), keys (E,), env states (E, ...)) -> as a Rollout's
    params   shapes of the network's parameters
    pool     {"size": snapshots, "every": rollouts between two of them, "random": share of an
             opponent's moves that is drawn at random}; None: always against itself
    """

    def __init__(self, env, act: Callable, examples: Callable, *, params,
                 pool: Mapping | None = None, **options):
        super().__init__(env, act, examples, **options)
        self.pool, self.params = dict(pool or {}), params
        if self.pool:
            check_keys(self.pool, POOL, "config.data.pool", required=POOL)
            for name in ("size", "every"):
                if self.pool[name] < 1:
                    raise UserError(f"config.data.pool.{name}: expected at least 1, "
                                    f"found {self.pool[name]}")
            if not 0 <= self.pool["random"] <= 1:
                raise UserError("config.data.pool.random: expected 0 to 1, "
                                f"found {self.pool['random']}")

    def init(self, key):
        state = super().init(key)
        if not self.pool:
            return state
        size = self.pool["size"]
        empty = jax.tree.map(lambda p: jnp.zeros((size, *p.shape), p.dtype), self.params)
        return {**state, "pool": empty}

    def advance(self, arrays, source_state, variables):
        if self.pool:
            source_state = {**source_state, "pool": self.with_snapshot(source_state, variables)}
        return super().advance(arrays, source_state, variables)

    def with_snapshot(self, source_state, variables):
        """Return the pool, with today's parameters in the oldest's place if a snapshot is due."""
        rollouts, size, every = source_state["rollouts"], self.pool["size"], self.pool["every"]
        slot = rollouts // every % size

        def join(pool, p):
            return jnp.where(rollouts % every == 0, pool.at[slot].set(p.astype(pool.dtype)), pool)
        return jax.tree.map(join, source_state["pool"], variables["params"])

    def actor(self, variables, source_state):
        learner = self.player(variables, source_state)
        if not self.pool:
            return learner
        opponent = self.player(self.opponent_variables(variables, source_state), source_state)
        return functools.partial(self.play_against, learner, opponent)

    def player(self, variables, source_state) -> Callable:
        """Return a network as a player: (env states (E, ...), obs, keys (E,)) -> as `act`."""
        def act(env, obs, keys):
            obs = self.normalize_obs(source_state["moments"], obs)
            return self.act(variables, obs, keys, env)
        return act

    def opponent_variables(self, variables, source_state) -> dict:
        """Return the variables with parameters drawn from the pool, one snapshot a rollout."""
        E, rollouts = self.batch_size, source_state["rollouts"]
        key = jax.random.fold_in(jax.random.wrap_key_data(source_state["key"]), rollouts)
        snapshots = jnp.minimum(rollouts // self.pool["every"] + 1, self.pool["size"])
        # Keys 0 to 2E - 1 are those of environments.
        drawn = jax.random.randint(jax.random.fold_in(key, 2 * E), (), 0, snapshots)
        params = jax.tree.map(lambda pool, p: pool[drawn].astype(p.dtype),
                              source_state["pool"], variables["params"])
        return {**variables, "params": params}

    def play_against(self, learner: Callable, opponent: Callable, env, obs, keys):
        """Return both players' moves (E, ...), and kept entries with "learner", 1 for its moves."""
        (action, kept), (answer, theirs) = learner(env, obs, keys), opponent(env, obs, keys)
        keys = step_keys(keys, 1)                                                      # (E, 2)
        at_random = jax.vmap(jax.random.uniform)(keys[:, 0]) < self.pool["random"]
        legal = jax.vmap(sample_legal)(env, obs, keys[:, 1]).astype(answer.dtype)
        answer = mixed(at_random, legal, answer)
        seat = jnp.arange(self.batch_size) % 4           # of the opponent; in 2 and 3 there is none
        moves = jax.vmap(self.env.to_move)(env) == seat                                # (E,)
        # Both sides are valued by one network, or the differences of values along a game would
        # not add up.
        kept = {**mixed(moves, theirs, kept), "value": kept["value"], "learner": 1.0 - moves}
        return mixed(moves, answer, action), kept


def mixed(condition, tree, other):
    """Return `tree` in the rows (E, ...) where the condition (E,) holds, else `other`."""
    def choose(x, y):
        return jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)
    return jax.tree.map(choose, tree, other)
