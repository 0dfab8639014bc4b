"""Plain Monte-Carlo tree search: UCT (Kocsis and Szepesvari 2006) with random playouts, no network; the player to beat.

A simulation walks down the tree by UCB1 (Auer et al. 2002), an action never tried first, adds the position it falls out at,
plays on from there at random to the end, and books the result at every action of its way. The move is the one tried most
often.
"""
from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp

from karpjax.envs.spaces import sample_legal

UNTRIED = 1e6  # above every score


def uct(env, simulations: int, exploration: float = 2**0.5) -> Callable:
    """A player of `simulations` playouts a move, of an environment without chance."""
    def player(state, obs, key):
        visits = tried(env, simulations, exploration, state, obs, key)
        return jnp.where(obs["legal"], visits, -1).argmax()
    return player


def tried(env, simulations: int, exploration: float, state, obs, key):
    """How often each action was tried from this state, (A,)."""
    A, rows = env.actions.n, simulations + 1
    room = lambda x: jnp.zeros((rows, *x.shape), x.dtype).at[0].set(x)
    tree = {"state": jax.tree.map(room, state), "legal": room(obs["legal"]), "over": jnp.zeros(rows, bool),
            "child": jnp.zeros((rows, A), jnp.int32), "visits": jnp.zeros((rows, A)), "value": jnp.zeros((rows, A))}

    def best(tree, node, noise):
        visits = tree["visits"][node]                                                              # (A,)
        mean = tree["value"][node] / jnp.maximum(visits, 1)
        bound = mean + exploration * jnp.sqrt(jnp.log(jnp.maximum(visits.sum(), 1)) / jnp.maximum(visits, 1))
        score = jnp.where(visits == 0, UNTRIED * (1 + noise), bound)
        return jnp.where(tree["legal"][node], score, -jnp.inf).argmax()

    def simulate(i, tree):
        noise_key, step_key, playout_key = jax.random.split(jax.random.fold_in(key, i), 3)
        noise = jax.random.uniform(noise_key, (A,))                                                # which untried one

        def further(at):
            child = tree["child"][at["node"], at["action"]]
            return (child > 0) & ~tree["over"][child]

        def walk(at):
            node = tree["child"][at["node"], at["action"]]
            action, depth = best(tree, node, noise), at["depth"] + 1
            return {"node": node, "action": action, "depth": depth, "nodes": at["nodes"].at[depth].set(node),
                    "actions": at["actions"].at[depth].set(action)}

        path, first = jnp.zeros(env.max_steps, jnp.int32), best(tree, 0, noise)
        at = lax.while_loop(further, walk, {"node": jnp.int32(0), "action": first, "depth": jnp.int32(0), "nodes": path,
                                            "actions": path.at[0].set(first)})
        before = jax.tree.map(lambda x: x[at["node"]], tree["state"])
        after, out = env.step(before, at["action"], step_key)
        over = out.terminated | out.truncated
        result = out.reward - jnp.where(over, 0.0, playout(env, after, out.obs, over, playout_key))  # of who moved at `node`

        # An end that was met before is stored once more, where nothing points to it.
        new = i + 1
        child = tree["child"].at[at["node"], at["action"]]
        tree = {**tree, "state": jax.tree.map(lambda rows, x: rows.at[new].set(x), tree["state"], after),
                "legal": tree["legal"].at[new].set(out.obs["legal"]), "over": tree["over"].at[new].set(over),
                "child": child.set(new)}
        steps = jnp.arange(env.max_steps)
        way = steps <= at["depth"]
        gain = jnp.where((at["depth"] - steps) % 2 == 0, result, -result)
        edges = (at["nodes"], at["actions"])
        return {**tree, "visits": tree["visits"].at[edges].add(way), "value": tree["value"].at[edges].add(gain * way)}

    return lax.fori_loop(0, simulations, simulate, tree)["visits"][0]


def playout(env, state, obs, over, key):
    """The result, for who moves first, of random moves to the end."""
    def move(carry):
        state, obs, over, result, sign, t = carry
        choice_key, step_key = jax.random.split(jax.random.fold_in(key, t))
        state, out = env.step(state, sample_legal(state, obs, choice_key), step_key)
        return state, out.obs, out.terminated | out.truncated, result + sign * out.reward, -sign, t + 1
    start = (state, obs, over, jnp.float32(0), jnp.float32(1), jnp.int32(0))
    return lax.while_loop(lambda carry: ~carry[2], move, start)[3]
