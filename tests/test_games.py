"""Games of two players behind our protocol: rules, openings, and what is refused."""
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from nim import Nim
from rl_helpers import FALSE, NEEDS_PGX, take

import karpjax as kj
from karpjax.envs import protocol, spaces
from karpjax.envs.pgx import LONGEST, Versus
from karpjax.games.search import search

pytestmark = NEEDS_PGX


def moved(env, actions, key=0):
    """Return the TimeSteps of a game's actions, in order."""
    state, obs = env.reset(jax.random.key(key))
    outs = []
    step = jax.jit(env.step)
    for action in actions:
        state, out = step(state, jnp.int32(action), jax.random.key(1))
        outs.append(out)
    return outs


def test_connect_four_by_hand():
    """The first player stacks four in column 0, the other plays column 1.

    Every observation is the next player's view.
    """
    env = kj.envs.make_env("pgx:connect_four")
    protocol.check_env(env)
    outs = moved(env, [0, 1, 0, 1, 0, 1, 0])
    assert [float(out.reward) for out in outs] == [0] * 6 + [1] and outs[6].terminated
    assert not outs[5].terminated
    # For who moves next, the stone is the other's.
    assert outs[0].obs["obs"][5, 0].tolist() == [0, 1]
    assert outs[1].obs["obs"][5, 0].tolist() == [1, 0]
    assert outs[1].obs["obs"][5, 1].tolist() == [0, 1]
    full = moved(env, [3] * 6)
    assert full[5].obs["legal"].tolist() == [True] * 3 + [False] + [True] * 3
    against_the_rules = moved(env, [3] * 7)[6]
    assert against_the_rules.terminated and against_the_rules.reward == -1


@pytest.mark.parametrize("name", ["tic_tac_toe",
                                  pytest.param("connect_four", marks=pytest.mark.full)])
def test_games_end(name):
    """Random games alternate and end within their longest length. Seats begin equally often."""
    env = kj.envs.make_env(f"pgx:{name}")

    def game(key):
        def step(carry, t):
            state, obs, over = carry
            action = spaces.sample_legal(state, obs, jax.random.fold_in(key, t))
            new, out = env.step(state, action, key)
            turned = env.to_move(state) != env.to_move(new)
            return (new, out.obs, over | out.terminated), (over, turned)
        state, obs = env.reset(key)
        times = jnp.arange(LONGEST[name])
        (_, _, over), (before, turned) = lax.scan(step, (state, obs, FALSE), times)
        return over, (turned | before).all(), env.to_move(state)
    over, in_turn, first = jax.jit(jax.vmap(game))(jax.random.split(jax.random.key(0), 128))
    assert over.all() and in_turn.all() and 40 < first.sum() < 88


def test_games_may_begin_with_moves_of_chance():
    """Games begin with 0 to 6 random moves, each number equally often, and none is over.

    Six moves at random win one game in five.
    """
    env = kj.envs.make_env("pgx:tic_tac_toe", opening=6)
    protocol.check_env(env)
    state, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 700))
    stones = obs["obs"].sum((1, 2, 3)).astype(int)
    assert not state.terminated.any() and (obs["legal"].sum(-1) == 9 - stones).all()
    # 100 each, less those that would be over.
    assert (jnp.bincount(stones, length=7) > 60).all() and stones.max() == 6
    mine, theirs = obs["obs"][..., 0].sum((1, 2)), obs["obs"][..., 1].sum((1, 2))
    assert (theirs - mine == stones % 2).all()  # the next player's view
    assert jnp.unique(jnp.argmin(obs["legal"][stones == 1], -1)).shape == (9,)
    with pytest.raises(kj.UserError, match="opening: expected a number of moves"):
        kj.envs.make_env("pgx:tic_tac_toe", opening=-1)


@pytest.mark.parametrize("name, says", [("pgx:tictactoe", "did you mean 'tic_tac_toe'"),
                                        ("pgx:backgammon", "who move in turn")])
def test_unknown_games(name, says):
    with pytest.raises(kj.UserError, match=says):
        kj.envs.make_env(name)
    with pytest.raises(kj.UserError, match="no such key"):
        kj.envs.make_env("pgx:tic_tac_toe", size=4)


@pytest.mark.parametrize("module", ["pgx", "mctx"])
def test_a_missing_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(kj.UserError, match=r'pip install "karpjax\[pgx\]"'):
        env = kj.envs.make_env("pgx:tic_tac_toe")
        state, obs = env.reset(jax.random.key(0))
        search(env, lambda obs: None, 4, state, obs, jax.random.key(0))


def test_versus():
    """The other player's moves are part of the environment: it takes 1 stone each time.

    Of four stones, taking 1 leaves 3, a won game. Taking 2 loses if the other began: then one
    stone is left, which the answer takes.
    """
    env = Versus(Nim(), take(1))
    keys = jax.random.split(jax.random.key(0), 64)
    state, obs = jax.vmap(env.reset)(keys)
    left = np.asarray(obs["obs"].argmax(-1))
    assert set(left) == {3, 4} and 15 < (left == 3).sum() < 49                  # 3: the other began
    assert (state["player"] == 0).all()
    # From 4 the moves 1, 1 leave 2, from 3 the moves 1, 1 leave 1.
    _, out = jax.vmap(env.step, (0, None, None))(state, jnp.int32(0), keys[0])
    assert not out.terminated.any() and set(out.obs["obs"].argmax(-1).tolist()) == {1, 2}
    # From 4 the moves 2, 1 leave 1. From 3 the move 2 leaves 1, and the answer ends the game.
    _, out = jax.vmap(env.step, (0, None, None))(state, jnp.int32(1), keys[0])
    assert np.array_equal(out.terminated, left == 3)
    assert np.array_equal(out.reward, np.where(left == 3, -1.0, 0.0))
