"""Matches between players, every line of a game, ratings, and a game against a person."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nim import Nim
from rl_helpers import lowest, NEEDS_PGX, take

import karpjax as kj
from karpjax import play
from karpjax.envs import spaces
from karpjax.games import matches, ratings

pytestmark = NEEDS_PGX


def test_a_match_swaps_sides():
    """Sides are swapped within every pair of games, so that a player against itself is even."""
    score = matches.match(Nim(), take(1), take(1), 20)
    assert score.results[::2].tolist() == [-1] * 10 and score.results[1::2].tolist() == [1] * 10
    assert score.points == 0.5
    env = kj.envs.make_env("pgx:tic_tac_toe")
    score = matches.match(env, lowest, lowest, 16, opening=2)
    assert (score.results[::2] == -score.results[1::2]).all()
    assert len(set(score.results.tolist())) > 1


def test_a_match_by_chance():
    score = matches.match(kj.envs.make_env("pgx:tic_tac_toe"), spaces.sample_legal,
                          spaces.sample_legal, 400)
    assert score.wins + score.draws + score.losses == 400 and 0.42 < score.points < 0.58
    assert 20 < score.draws < 90


def test_a_match_refuses():
    env = kj.envs.make_env("pgx:tic_tac_toe")
    with pytest.raises(kj.UserError, match="illegal move; a player must choose among"):
        matches.match(env, lambda state, obs, key: jnp.int32(4), spaces.sample_legal, 4)
    with pytest.raises(kj.UserError, match="even number, found 3"):
        matches.match(env, spaces.sample_legal, spaces.sample_legal, 3)

    class Stuck(Nim):
        def observe(self, state):
            return {**super().observe(state), "legal": jnp.zeros(2, bool)}
    with pytest.raises(kj.UserError, match="nothing legal; the environment's observation"):
        matches.match(Stuck(), take(1), take(1), 4)


def lines(board, mine, own_turn):
    """Count, in plain Python, the ends of tic-tac-toe of a player who takes the lowest square."""
    rows = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    for row in rows:
        if len({board[i] for i in row}) == 1 and board[row[0]]:
            return {"win" if board[row[0]] == mine else "loss": 1}
    free = [i for i in range(9) if not board[i]]
    if not free:
        return {"draw": 1}
    ends = {}
    for i in free[:1] if own_turn else free:
        after = board[:i] + [mine if own_turn else 3 - mine] + board[i + 1:]
        for name, n in lines(after, mine, not own_turn).items():
            ends[name] = ends.get(name, 0) + n
    return ends


@pytest.mark.full
def test_every_line_is_every_line():
    ends = matches.every_line(kj.envs.make_env("pgx:tic_tac_toe"), lowest)
    both = [lines([0] * 9, 1, own_turn) for own_turn in (True, False)]
    assert ends == {name: sum(each.get(name, 0) for each in both)
                    for name in ("win", "draw", "loss")}
    assert ends["loss"] > 0
    with pytest.raises(kj.UserError, match="illegal"):
        matches.every_line(kj.envs.make_env("pgx:tic_tac_toe"),
                           lambda state, obs, key: jnp.int32(0))


# ------------------------------------------------------------------------------------------ ratings

def test_elo_of_a_known_share():
    """Three of four points are 400 log10(3) = 190.8, a little less for the two draws added."""
    results = {("a", "b"): np.tile([1, 1, 1, -1], 250)}
    elo = ratings.elo(results, anchor="b")
    assert list(elo) == ["a", "b"] and elo["b"] == (0, 0, 0)
    rating, low, high = elo["a"]
    assert 188 < rating < 190.9 and low < rating < high and high - low < 60
    # The rating of a player who never won is finite.
    assert ratings.elo({("a", "b"): np.ones(20)}, anchor="a")["b"][0] < -300
    points, low, high = ratings.interval(np.tile([1, 1, 1, -1], 250))
    assert points == 0.75 and 0.72 < low < points < high < 0.78


def test_elo_adds_up():
    """If a beats b as b beats c, a's distance to c is twice b's, met or not."""
    even = np.tile([1, 1, 1, -1], 2500)
    elo = ratings.elo({("a", "b"): even, ("b", "c"): even}, anchor="c", draws=10)
    np.testing.assert_allclose(elo["a"][0], 2 * elo["b"][0], atol=0.5)


# --------------------------------------------------------------------------------------------- play

def typed(monkeypatch, *lines):
    """Let input() return these lines, or raise those that are exceptions."""
    lines = iter(lines)

    def answer(prompt):
        line = next(lines)
        if isinstance(line, type):
            raise line
        return line
    monkeypatch.setattr("builtins.input", answer)


def test_play(monkeypatch, capsys):
    """A whole game reports lines that are no move, columns that are full, and the winner."""
    env = kj.envs.make_env("pgx:connect_four")
    typed(monkeypatch, "x", "9", "2", "2", "1", "2", "2")
    play.game(env, lambda state, obs, key: jnp.int32(0), first=True)
    said = capsys.readouterr().out
    assert "'x' is no move; expected one of 1 2 3 4 5 6 7, or q" in said
    assert "'9' is no move" in said
    assert said.endswith("you win\n") and "X" in said and "I play 1" in said
    typed(monkeypatch, "1", "1", "1", "1", "2", "q")
    play.game(env, lambda state, obs, key: jnp.where(obs["legal"][0], 0, 5), first=True)
    assert "'1' is not allowed now; expected one of 2 3 4 5 6 7, or q" in capsys.readouterr().out


def test_play_begins_with_the_empty_board():
    """Training begins its games with random moves, a person's game begins with none."""
    options = dict(name="pgx:connect_four", opening=6)
    for seed in range(4):
        _, obs = play.empty_board(options).reset(jax.random.key(seed))
        assert not obs["obs"].any()
    starts = [kj.envs.make_env(**options).reset(jax.random.key(seed))[1] for seed in range(4)]
    assert any(obs["obs"].any() for obs in starts)


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt, "q"])
def test_play_can_be_left(end, monkeypatch, capsys):
    typed(monkeypatch, end)
    play.game(kj.envs.make_env("pgx:tic_tac_toe"), lowest, first=False)
    assert capsys.readouterr().out.endswith("bye\n")


def test_play_needs_a_game(tmp_path):
    import tiny
    task_file = {"path": tiny.__file__, "text": open(tiny.__file__).read()}
    kj.fit(tiny.get_config(), tmp_path, record=task_file)
    says = "expected a run of a game of two players, found the task ''"
    with pytest.raises(kj.UserError, match=says):
        play.main([f"--workdir={tmp_path}"])
