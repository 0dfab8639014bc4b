"""A rollout of a game that a network plays against itself, and in some of the games against what it was before.

Against itself alone a policy may forget how to beat what it has left behind, and go round in circles (Bansal et al. 2018,
section 3.3; AlphaGo's policy played a pool too, Silver et al. 2016). So every so many rollouts the parameters join a pool, the
oldest leave, and each rollout draws one of the pool. Of every four environments it has a seat in two, one each; its moves are
played and not learned from: "own" is 0 there. Some of them may be drawn at random: two players who know each other never show
what to do against a move that neither makes. The pool is part of the source's state, and so of every checkpoint.

    config.data.pool = dict(size=8, every=20, random=0.2)
"""
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_keys
from karpjax.envs.spaces import sample_legal
from karpjax.sources.rollout import Rollout

POOL = ("size", "every", "random")


class SelfPlay(Rollout):
    """act      (variables, obs (E, ...), keys (E,), states (E, ...)) -> as a Rollout's
    params   the network's parameters, as shapes
    pool     {"size": snapshots, "every": rollouts between two, "random": share of their moves that is drawn at random};
             None: always against itself
    """

    def __init__(self, env, act: Callable, examples: Callable, *, params, pool: Mapping | None = None, **options):
        super().__init__(env, act, examples, **options)
        self.pool, self.params = dict(pool or {}), params
        if self.pool:
            check_keys(self.pool, POOL, "config.data.pool", required=POOL)
            for name in ("size", "every"):
                if self.pool[name] < 1:
                    raise UserError(f"config.data.pool.{name}: expected at least 1, found {self.pool[name]}")
            if not 0 <= self.pool["random"] <= 1:
                raise UserError(f"config.data.pool.random: expected 0 to 1, found {self.pool['random']}")

    def init(self, key):
        if not self.pool:
            return super().init(key)
        return {**super().init(key), "pool": jax.tree.map(lambda p: jnp.zeros((self.pool["size"], *p.shape), p.dtype),
                                                          self.params)}

    def advance(self, arrays, source_state, variables):
        if self.pool:
            turn, size, every = source_state["rollouts"], self.pool["size"], self.pool["every"]
            slot = turn // every % size
            join = lambda pool, p: jnp.where(turn % every == 0, pool.at[slot].set(p.astype(pool.dtype)), pool)
            source_state = {**source_state, "pool": jax.tree.map(join, source_state["pool"], variables["params"])}
        return super().advance(arrays, source_state, variables)

    def actor(self, variables, source_state):
        plays = lambda variables: lambda env, obs, keys: self.act(
            variables, self.seen(source_state["moments"], obs), keys, env)
        own = plays(variables)
        if not self.pool:
            return own
        E, turn = self.batch_size, source_state["rollouts"]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(source_state["key"]), turn), 2 * E)
        drawn = jax.random.randint(key, (), 0, jnp.minimum(turn // self.pool["every"] + 1, self.pool["size"]))
        before = plays({**variables, "params": jax.tree.map(lambda pool, p: pool[drawn].astype(p.dtype), source_state["pool"],
                                                            variables["params"])})
        seat = jnp.arange(E) % 4                                     # of the snapshot; 2 and 3 there are none
        mixed = lambda moves, tree, other: jax.tree.map(lambda x, y: jnp.where(
            moves.reshape(-1, *[1] * (x.ndim - 1)), x, y), tree, other)

        def act(env, obs, keys):
            (action, kept), (answer, theirs) = own(env, obs, keys), before(env, obs, keys)
            whether, which = jnp.unstack(jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 1)))(keys), axis=1)
            at_will = jax.vmap(jax.random.uniform)(whether) < self.pool["random"]
            answer = mixed(at_will, jax.vmap(sample_legal)(env, obs, which).astype(answer.dtype), answer)
            moves = jax.vmap(self.env.to_move)(env) == seat                                        # (E,)
            # Both sides are valued by one network, or the differences of values along a game would not add up.
            kept = {**mixed(moves, theirs, kept), "value": kept["value"], "own": 1.0 - moves}
            return mixed(moves, answer, action), kept
        return act
