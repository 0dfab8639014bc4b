"""Matches between two players, and every line of a small game.

Players are as in karpjax/games/players.py. A deterministic one would play the same game again and
again, so the games of a match may begin with random moves, each opening once from either side.
"""
from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array
import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.trees import where
from karpjax.envs.spaces import sample_legal

OPENING = 1_000_000  # an opening's moves have keys that no move of a game has


class Score(NamedTuple):
    """The first player's wins, draws and losses."""
    wins: int
    draws: int
    losses: int
    results: np.ndarray          # (games,): 1, 0 or -1; a pair of neighbours has one opening

    @property
    def points(self) -> float:
        """Return the share of the points, a draw being half a point."""
        return (self.wins + self.draws / 2) / len(self.results)


def match(env, first: Callable, second: Callable, games: int, seed: int = 0,
          opening: int = 0) -> Score:
    """Play an even number of games, every other one begun by `second`, and return the score.

    opening   number of random moves before the players'
    """
    if games < 2 or games % 2:
        raise UserError("a match is of pairs of games, sides swapped: expected an even number, "
                        f"found {games}")
    pair = jnp.arange(games // 2, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), pair)
    outcome = jax.device_get(jax.jit(functools.partial(play, env, first, second, opening))(keys))
    for name, event, fix in (
            ("illegal", "an illegal move", "a player must choose among obs['legal']"),
            ("stuck", "a state with nothing legal",
             "the environment's observation must have a legal action in every state")):
        if outcome[name].any():
            raise UserError(f"a match: {int(outcome[name].sum())} of {games} games met {event}; "
                            f"{fix}")
    results = outcome["result"].T.reshape(-1).round().astype(int)          # pairs are neighbours
    return Score(*(int((results == value).sum()) for value in (1, 0, -1)), results)


class Games(NamedTuple):
    """Games under way, (P, ...) each."""
    state: Any
    obs: Any
    done: Array
    illegal: Array               # whether a player chose an illegal move
    stuck: Array                 # whether there was no legal move to choose


def play(env, first: Callable, second: Callable, opening: int, keys) -> dict:
    """Play two games for each key (P,) and return {"result", "illegal", "stuck"}, (2, P) each.

    In row 0 `first` begins, in row 1 `second`.
    """
    # One row is always one player's turn, and one the other's: so no move is computed that is not
    # played.
    def pair_of_moves(carry):
        (games, result), t = carry
        for turn in (0, 1):
            for row in (0, 1):
                player, sign = (first, 1) if row == turn else (second, -1)
                row_keys = move_keys(keys, row, 2 * t + turn)
                games[row], reward = move(env, player, games[row], row_keys)
                result[row] = result[row] + sign * reward
        return (games, result), t + 1

    def going(carry):
        (games, _), _ = carry
        return ~(games[0].done & games[1].done).all()

    state, obs = jax.vmap(env.reset)(keys)
    none = jnp.zeros(len(keys), bool)
    start = Games(state, obs, none, none, none)
    for t in range(opening):
        opening_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, OPENING + t)
        start, _ = move(env, sample_legal, start, opening_keys)
    zeros = jnp.zeros(len(keys))
    carry = (([start, start], [zeros, zeros]), jnp.int32(0))
    (games, result), _ = lax.while_loop(going, pair_of_moves, carry)
    return {"result": jnp.stack(result), "illegal": jnp.stack([game.illegal for game in games]),
            "stuck": jnp.stack([game.stuck for game in games])}


def move_keys(keys, row: int, t):
    """Return the keys (P,) of move t in a row's games."""
    def fold(key):
        return jax.random.fold_in(jax.random.fold_in(key, row), t)
    return jax.vmap(fold)(keys)


def move(env, player: Callable, games: Games, keys) -> tuple[Games, Array]:
    """Make a move in each game not done, and return the games and the mover's reward (P,)."""
    def one(state, obs, done, key):
        player_key, key = jax.random.split(key)
        action = player(state, obs, player_key)
        new, out = env.step(state, action, key)
        kept = where(done, (state, obs), (new, out.obs))
        return kept, out, ~obs["legal"][action], ~obs["legal"].any()
    (state, obs), out, illegal, nothing = jax.vmap(one)(games.state, games.obs, games.done, keys)
    return Games(state, obs, games.done | out.terminated | out.truncated,
                 games.illegal | illegal & ~nothing & ~games.done,
                 games.stuck | nothing & ~games.done), jnp.where(games.done, 0.0, out.reward)


def every_line(env, player: Callable) -> dict[str, int]:
    """Return how games end against every play of an opponent: {"win", "draw", "loss": lines}.

    The player begins in half of the games and answers in the others. For a deterministic player,
    and a game as small as tic-tac-toe.
    """
    def chosen(state, obs):
        return jax.nn.one_hot(player(state, obs, None), env.actions.n, dtype=bool)

    choices = jax.jit(jax.vmap(chosen))
    step = jax.jit(jax.vmap(lambda state, action: env.step(state, action, None)))
    lines = {"win": 0, "draw": 0, "loss": 0}
    for begins in (True, False):
        state, obs = jax.tree.map(lambda x: np.asarray(x)[None], env.reset(jax.random.key(0)))
        turn = begins
        while len(obs["legal"]):
            moves = padded(choices, state, obs) if turn else obs["legal"]  # (B, A)
            line, action = np.nonzero(moves)
            if turn and not obs["legal"][line, action].all():
                raise UserError("every_line: the player chose an illegal move; "
                                "it must choose among obs['legal']")
            state, out = padded(step, rows_of(state, line), action.astype(np.int32))
            ended, sign = out.terminated | out.truncated, 1 if turn else -1
            for name, value in (("win", 1), ("draw", 0), ("loss", -1)):
                lines[name] += int((out.reward[ended] * sign == value).sum())
            state, obs = rows_of((state, out.obs), ~ended)
            turn = not turn
    return lines


def rows_of(tree, index):
    """Return these rows of every array."""
    return jax.tree.map(lambda x: x[index], tree)


def padded(function: Callable, *batch):
    """Return function(*batch), padded inside to a power of two so that few shapes are compiled."""
    n = len(jax.tree.leaves(batch)[0])
    size = 1 << (n - 1).bit_length()
    grown = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], size - n, 0)]), batch)
    return rows_of(jax.tree.map(np.asarray, function(*grown)), slice(n))
