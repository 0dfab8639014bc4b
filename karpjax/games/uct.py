"""Plain Monte-Carlo tree search, the player to beat: UCT (Kocsis and Szepesvari 2006).

It uses random playouts and no network. A simulation walks down the tree by UCB1 (Auer et al.
2002), which takes untried actions first, and adds the position where it leaves the tree. It plays
on from there at random to the end, and adds the result to every action of its path. The move is
the one tried most often.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array

from karpjax.envs.spaces import sample_legal

UNTRIED = 1e6  # above every score


def uct(env, simulations: int, exploration: float = 2**0.5) -> Callable:
    """Return the player of `simulations` playouts a move, in an environment without chance."""
    def player(state, obs, key):
        visits = tried(env, simulations, exploration, state, obs, key)
        return jnp.where(obs["legal"], visits, -1).argmax()
    return player


def tried(env, simulations: int, exploration: float, state, obs, key):
    """Return how often each action was tried from this state, (A,)."""
    A = env.actions.n

    def simulate(i, tree):
        noise_key, step_key, playout_key = jax.random.split(jax.random.fold_in(key, i), 3)
        noise = jax.random.uniform(noise_key, (A,))                        # which untried action
        path = select(env, tree, exploration, noise)
        before = jax.tree.map(lambda x: x[path["node"]], tree["state"])
        after, out = env.step(before, path["action"], step_key)
        done = out.terminated | out.truncated
        # The result is that of the player who moved at the last node of the path.
        result = out.reward - playout(env, after, out.obs, done, playout_key)
        tree = expand(tree, i + 1, path, after, out.obs["legal"], done)
        return backup(env, tree, path, result)

    tree = new_tree(simulations + 1, A, state, obs)
    return lax.fori_loop(0, simulations, simulate, tree)["visits"][0]


def new_tree(rows: int, A: int, state, obs) -> dict:
    """Return a tree of `rows` nodes, of which the first is this position."""
    def room(x):
        return jnp.zeros((rows, *x.shape), x.dtype).at[0].set(x)
    return {"state": jax.tree.map(room, state), "legal": room(obs["legal"]),
            "done": jnp.zeros(rows, bool), "child": jnp.zeros((rows, A), jnp.int32),
            "visits": jnp.zeros((rows, A)), "value": jnp.zeros((rows, A))}


def best(tree: dict, node, exploration: float, noise):
    """Return the legal action of a node with the highest upper confidence bound."""
    visits = tree["visits"][node]                                          # (A,)
    mean = tree["value"][node] / jnp.maximum(visits, 1)
    log_total = jnp.log(jnp.maximum(visits.sum(), 1))
    bound = mean + exploration * jnp.sqrt(log_total / jnp.maximum(visits, 1))
    score = jnp.where(visits == 0, UNTRIED * (1 + noise), bound)
    return jnp.where(tree["legal"][node], score, -jnp.inf).argmax()


def select(env, tree: dict, exploration: float, noise) -> dict:
    """Return the path down to an action that leaves the tree or ends the game.

    "node" and "action" are its last, "nodes" and "actions" all of them. "depth" is their number
    less 1.
    """
    def further(path):
        child = tree["child"][path["node"], path["action"]]
        return (child > 0) & ~tree["done"][child]

    def walk(path):
        node = tree["child"][path["node"], path["action"]]
        action, depth = best(tree, node, exploration, noise), path["depth"] + 1
        return {"node": node, "action": action, "depth": depth,
                "nodes": path["nodes"].at[depth].set(node),
                "actions": path["actions"].at[depth].set(action)}

    empty, action = jnp.zeros(env.max_steps, jnp.int32), best(tree, 0, exploration, noise)
    start = {"node": jnp.int32(0), "action": action, "depth": jnp.int32(0), "nodes": empty,
             "actions": empty.at[0].set(action)}
    return lax.while_loop(further, walk, start)


def expand(tree: dict, new, path: dict, state, legal, done) -> dict:
    """Return the tree with the position after the path as node `new`."""
    # An end that was met before is stored once more, and then nothing points to the first one.
    child = tree["child"].at[path["node"], path["action"]].set(new)
    states = jax.tree.map(lambda rows, x: rows.at[new].set(x), tree["state"], state)
    return {**tree, "state": states, "legal": tree["legal"].at[new].set(legal),
            "done": tree["done"].at[new].set(done), "child": child}


def backup(env, tree: dict, path: dict, result) -> dict:
    """Return the tree with the result added to every action of the path, its sign alternating."""
    steps = jnp.arange(env.max_steps)
    played = steps <= path["depth"]
    gain = jnp.where((path["depth"] - steps) % 2 == 0, result, -result)
    edges = (path["nodes"], path["actions"])
    return {**tree, "visits": tree["visits"].at[edges].add(played),
            "value": tree["value"].at[edges].add(gain * played)}


class Playout(NamedTuple):
    """A game played at random."""
    state: Any
    obs: Any
    done: Array
    result: Array                # of the player who moved first
    sign: Array                  # 1 if that player is to move, else -1
    t: Array


def playout(env, state, obs, done, key):
    """Return the result, for the player to move, of random moves to the end: 0 if it is done."""
    def move(game: Playout) -> Playout:
        choice_key, step_key = jax.random.split(jax.random.fold_in(key, game.t))
        action = sample_legal(game.state, game.obs, choice_key)
        state, out = env.step(game.state, action, step_key)
        return Playout(state, out.obs, out.terminated | out.truncated,
                       game.result + game.sign * out.reward, -game.sign, game.t + 1)
    start = Playout(state, obs, done, jnp.float32(0), jnp.float32(1), jnp.int32(0))
    return lax.while_loop(lambda game: ~game.done, move, start).result
