"""Matches between two players, and every line of a small game.

Players are as in karpjax/games/players.py; a deterministic one would play the same game again and again, so the games of a
match may begin with random moves, each opening once from either side.
"""
from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.envs.spaces import sample_legal


class Score(NamedTuple):
    """Of the first player; `results` are 1, 0 and -1 a game, a pair of neighbours has one opening."""
    wins: int
    draws: int
    losses: int
    results: np.ndarray          # (games,)

    @property
    def points(self) -> float:
        """The share of the points, a draw half of one."""
        return (self.wins + self.draws / 2) / len(self.results)


def match(env, first: Callable, second: Callable, games: int, seed: int = 0, opening: int = 0) -> Score:
    """`games` games, an even number; in every other one `second` begins. `opening`: random moves before.

    Half of the games is always one player's turn and half the other's: no move is computed that is not played.
    """
    if games < 2 or games % 2:
        raise UserError(f"a match is of pairs of games, sides swapped: expected an even number, found {games}")
    played = jax.jit(functools.partial(play, env, first, second, opening))
    pair = jnp.arange(games // 2, dtype=jnp.uint32)
    found = jax.device_get(played(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), pair)))
    for name, fix in (("illegal", "a player must choose among obs['legal']"),
                      ("stuck", "the environment's observation must have a legal action in every state")):
        if found[name].any():
            raise UserError(f"a match: {int(found[name].sum())} of {games} games met "
                            f"{'an illegal move' if name == 'illegal' else 'a state with nothing legal'}; {fix}")
    results = found["result"].T.reshape(-1).round().astype(int)                                # pairs are neighbours
    return Score(*(int((results == value).sum()) for value in (1, 0, -1)), results)


def play(env, first, second, opening: int, keys) -> dict:
    """Two games for each key (P,): {"result", "illegal", "stuck"} (2, P); row 0 `first` begins, row 1 `second`."""
    def move(player, game, key):
        """One move in each of (P,) games, where they are not over; reward of the mover."""
        state, obs, over, wrong, stuck = game
        def one(state, obs, key):
            own, key = jax.random.split(key)
            action = player(state, obs, own)
            state, out = env.step(state, action, key)
            return state, out, ~obs["legal"][action], ~obs["legal"].any()
        new, out, illegal, nothing = jax.vmap(one)(state, obs, key)
        keep = lambda old, new: jax.tree.map(lambda o, n: jnp.where(over.reshape(-1, *[1] * (n.ndim - 1)), o, n), old, new)
        wrong, stuck = wrong | illegal & ~nothing & ~over, stuck | nothing & ~over
        return (keep(state, new), keep(obs, out.obs), over | out.terminated | out.truncated, wrong, stuck), \
            jnp.where(over, 0.0, out.reward)

    def pair_of_moves(carry):
        (games, result), t = carry
        for which in (0, 1):  # this half of the turns: row 0 is one player's, row 1 the other's
            for row in (0, 1):
                player, sign = (first, 1) if row == which else (second, -1)
                key = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, row), 2 * t + which))(keys)
                games[row], reward = move(player, games[row], key)
                result[row] = result[row] + sign * reward
        return (games, result), t + 1

    state, obs = jax.vmap(env.reset)(keys)
    none = jnp.zeros(len(keys), bool)
    start = (state, obs, none, none, none)
    for t in range(opening):
        start, _ = move(sample_legal, start, jax.vmap(lambda k: jax.random.fold_in(k, 1_000_000 + t))(keys))
    going = lambda carry: ~(carry[0][0][0][2] & carry[0][0][1][2]).all()
    zeros = jnp.zeros(len(keys))
    (games, result), _ = lax.while_loop(going, pair_of_moves, (([start, start], [zeros, zeros]), jnp.int32(0)))
    stacked = lambda i: jnp.stack([game[i] for game in games])
    return {"result": jnp.stack(result), "illegal": stacked(3), "stuck": stacked(4)}


def every_line(env, player: Callable) -> dict[str, int]:
    """How games end against every play of an opponent, {"win", "draw", "loss": lines}, the player begins and answers.

    For a deterministic player, and a game as small as tic-tac-toe.
    """
    legal_of = jax.jit(jax.vmap(lambda state, obs: jax.nn.one_hot(player(state, obs, None), env.actions.n, dtype=bool)))
    step = jax.jit(jax.vmap(lambda state, action: env.step(state, action, None)))
    found = {"win": 0, "draw": 0, "loss": 0}
    for own_turn in (True, False):
        state, obs = jax.tree.map(lambda x: np.asarray(x)[None], env.reset(jax.random.key(0)))
        turn = own_turn
        while len(obs["legal"]):
            moves = padded(legal_of, state, obs) if turn else obs["legal"]                     # (B, A)
            line, action = np.nonzero(moves)
            if turn and not obs["legal"][line, action].all():
                raise UserError("every_line: the player chose an illegal move; it must choose among obs['legal']")
            state, out = padded(step, jax.tree.map(lambda x: x[line], state), action.astype(np.int32))
            ended, sign = out.terminated | out.truncated, 1 if turn else -1
            for name, value in (("win", 1), ("draw", 0), ("loss", -1)):
                found[name] += int((out.reward[ended] * sign == value).sum())
            state, obs = jax.tree.map(lambda x: x[~ended], (state, out.obs))
            turn = not turn
    return found


def padded(function: Callable, *batch):
    """function(*batch) on a batch whose length is a power of two, the rows beyond its end dropped: few shapes to compile."""
    n = len(jax.tree.leaves(batch)[0])
    size = 1 << (n - 1).bit_length()
    grown = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], size - n, 0)]), batch)
    return jax.tree.map(lambda x: np.asarray(x)[:n], function(*grown))
