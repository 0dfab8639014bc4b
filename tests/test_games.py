"""Games of two players: the adapter, the pool, searches, matches, and what is refused."""
import importlib.util
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import play
from karpjax.envs import protocol, spaces
from karpjax.envs.pgx import LONGEST, Versus
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete
from karpjax.games import matches, ratings, uct
from karpjax.games.record import record
from karpjax.games.search import search
from karpjax.rl import advantages
from karpjax.sources.self_play import SelfPlay
from karpjax.tasks import imitate, ppo
from karpjax.tasks.agent import Agent

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pgx") is None
                                or importlib.util.find_spec("mctx") is None,
                                reason="pgx is not installed")
FALSE = jnp.bool_(False)


class Nim:
    """A game of 4 stones: each player takes 1 or 2, and whoever takes the last has won.

    Seats are as in Pgx: who begins is drawn. The first player wins by leaving 3.
    """
    players, actions, max_steps = 2, Discrete(2), 4

    def reset(self, key):
        state = {"left": jnp.int32(4), "player": jax.random.bernoulli(key).astype(jnp.int32)}
        return state, self.observe(state)

    def step(self, state, action, key):
        left = state["left"] - action - 1
        state = {"left": left, "player": 1 - state["player"]}
        obs = self.observe(state)
        reward = jnp.where(left < 0, -1.0, jnp.where(left == 0, 1.0, 0.0))
        return state, TimeStep(obs, reward, left <= 0, FALSE, obs)

    def observe(self, state):
        return {"obs": jax.nn.one_hot(state["left"], 5),
                "legal": jnp.arange(2) < jnp.maximum(state["left"], 1)}

    def to_move(self, state):
        return state["player"]


def take(n):
    """Return a player who takes n stones, or fewer if fewer are left."""
    def player(state, obs, key):
        return jnp.minimum(n, jnp.maximum(state["left"], 1)) - 1
    return player


def lowest(state, obs, key):
    """Choose the first legal action."""
    return obs["legal"].argmax()


# -------------------------------------------------------------------------------------- the adapter

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


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four"])
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
        (_, _, over), (before, turned) = lax.scan(step, (state, obs, FALSE),
                                                  jnp.arange(LONGEST[name]))
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


# ----------------------------------------------------------------------------------------- learning

def test_gae_of_a_game_by_hand():
    """Discount 1, lambda 1/2, values from the view of the player to move. The third move wins.

    Its advantage is 1 - 1/2. The second's mover loses: -0.5 + 0.25 - 0.5/2. The first's is
    0.25 - 0.5 + 0.5/2. Then another game begins, which counts nothing here.
    """
    reward, value = jnp.array([[0.0, 0.0, 1.0, 0.0]]), jnp.array([[0.5, -0.25, 0.5, 0.25]])
    next_value = jnp.array([[-0.25, 0.5, 9.0, 0.125]])
    terminated, never = jnp.array([[False, False, True, False]]), jnp.zeros((1, 4), bool)
    gae = advantages.gae(reward, value, next_value, terminated, never, -1.0, 0.5)
    assert gae.tolist() == [[-0.25 + 0.25, -0.25 - 0.25, 0.5, -0.125 - 0.25]]
    returns, _ = advantages.returns_to_go(reward, terminated.astype(jnp.float32), -1.0)
    assert returns.tolist() == [[1, -1, 1, 0]]


def ppo_config(**values):
    """Return a small config of PPO on a game, with changes."""
    data = dict(num_envs=16, num_steps=16, minibatches=2, epochs=4, eval_episodes=16,
                **values.pop("data", {}))
    return kj.config(**{**dict(task="ppo", env=dict(name="nim"),
                               model=dict(name="actor_critic", width=16), discount=1.0,
                               gae_lambda=0.9, clip=0.2, value_clip=0.0, value_coefficient=0.5,
                               entropy_coefficient=0.01, target_kl=0.0,
                               optimizer=dict(name="adam", learning_rate=5e-3), steps=400,
                               dispatch="scan", steps_per_dispatch=400, data=data), **values})


@pytest.mark.parametrize("pool", [{}, {"pool": dict(size=4, every=5, random=0.2)}],
                         ids=["alone", "pool"])
def test_self_play_learns_nim(pool, monkeypatch):
    """The player to move wins at 4, 2 or 1 and loses at 3. It takes 1 of 4 and both of 2."""
    build = ppo.build
    monkeypatch.setattr(ppo, "build", lambda config: build(config, env=Nim()))
    end = run(ppo_config(data=pool), None, mesh_of(1), steps=400)
    state = {"left": jnp.array([1, 2, 3, 4]), "player": jnp.zeros(4, jnp.int32)}
    outputs, values = end.experiment.task.model.apply({"params": trained_params(end)},
                                                      jax.vmap(Nim().observe)(state))
    np.testing.assert_allclose(values, [1, 1, -1, 1], atol=0.25)
    assert outputs.argmax(-1)[jnp.array([0, 1, 3])].tolist() == [0, 1, 0]


def test_the_pool_plays_its_seats():
    """Snapshots of the network play the pool's seats, which are not learned from.

    The "network" has one parameter, and takes as many stones.
    """
    def act(variables, obs, keys, states):
        E = len(keys)
        taken = jnp.broadcast_to(variables["params"]["n"] - 1, (E,)).astype(jnp.int32)
        return taken, {"log_prob": jnp.full(E, variables["params"]["n"]),
                       "value": jnp.full(E, variables["params"]["n"])}

    def keep(trajectory, variables):
        return trajectory

    def n(value):
        return {"params": {"n": jnp.float32(value)}}

    def make_source(random):
        params = jax.eval_shape(lambda: n(1)["params"])
        return SelfPlay(Nim(), act, keep, params=params, num_envs=8, num_steps=4,
                        pool=dict(size=2, every=3, random=random))
    source = make_source(0.0)
    begin, state, seen = jax.jit(source.advance), source.init(jax.random.key(0)), []
    for turn in range(12):
        state, chunk = begin({}, state, n(1 if turn < 6 else 2))
        rows = chunk["rows"]
        theirs = rows["own"] == 0
        assert not theirs[2::4].any() and not theirs[3::4].any() and theirs[0::4].any()
        assert theirs[1::4].any()
        assert (rows["value"] == (1 if turn < 6 else 2)).all()
        assert (rows["action"][~theirs] == (0 if turn < 6 else 1)).all()
        assert (rows["log_prob"][theirs] == rows["action"][theirs] + 1).all()
        seen.append(set(rows["action"][theirs].tolist()))
    # A rollout plays against one snapshot.
    assert all(len(actions) == 1 for actions in seen) and seen[:6] == [{0}] * 6
    # Those in the pool joined at 3 and 6: the old parameters, and the new ones.
    assert set.union(*seen[6:9]) == {0, 1} or seen[6] == {0}
    assert seen[9:] == [{1}] * 3  # these joined at 6 and 9: the old ones left
    source = make_source(1.0)
    rows = source.advance({}, source.init(jax.random.key(0)), n(1))[1]["rows"]
    assert set(rows["action"][rows["own"] == 0].tolist()) == {0, 1}
    assert set(rows["action"][rows["own"] == 1].tolist()) == {0}


@pytest.mark.parametrize("pool, says", [
    (dict(size=0, every=1, random=0.0), "pool.size: expected at least 1"),
    (dict(size=1, every=1, random=2.0), "pool.random: expected 0 to 1"),
    (dict(size=1, evry=1, random=0.0), "did you mean 'every'")])
def test_a_wrong_pool(pool, says):
    with pytest.raises(kj.UserError, match=says):
        ppo.build(ppo_config(data=dict(pool=pool)), env=Nim())


def test_a_pool_is_of_games():
    with pytest.raises(kj.UserError, match="config.data.pool: no such key"):
        Agent(ppo_config(env=dict(name="cartpole"), data=dict(pool={})), own=ppo.OWN)


# ---------------------------------------------------------------------------- the network, searches

def test_board_network():
    model = kj.models.make_model(dict(name="board", width=8, blocks=1), actions=Discrete(7),
                                 obs_shape=(6, 7, 2))
    obs = {"obs": jnp.ones((2, 3, 6, 7, 2)),
           "legal": jnp.ones((2, 3, 7), bool).at[0, 0, 3].set(False)}
    params = model.init(jax.random.key(0), obs)["params"]
    outputs, values = model.apply({"params": params}, obs)
    assert outputs.shape == (2, 3, 7) and values.shape == (2, 3) and jnp.abs(values).max() <= 1
    assert jax.nn.softmax(outputs)[0, 0, 3] == 0
    one, value = model.apply({"params": params}, jax.tree.map(lambda x: x[1, 2], obs))
    np.testing.assert_allclose(one, outputs[1, 2], rtol=1e-5, atol=1e-6)
    text = jax.jit(model.apply).lower({"params": params}, obs).compile().as_text()
    # In a loop a convolution would be slow on the CPU.
    assert " dot(" in text and " convolution(" not in text


def after(env, actions):
    state, obs = env.reset(jax.random.key(0))
    for action in actions:
        state, out = env.step(state, jnp.int32(action), None)
        obs = out.obs
    return state, obs


@pytest.mark.parametrize("what", ["wins", "blocks"])
def test_searches_see_one_move_ahead(what):
    """Both searches see a win and a threat of connect four, though the network knows nothing."""
    env = kj.envs.make_env("pgx:connect_four")
    actions, best = {"wins": ([0, 6, 0, 6, 0, 6], 0), "blocks": ([0, 6, 0, 5, 0], 0)}[what]
    state, obs = after(env, actions)
    keys = jax.random.split(jax.random.key(0), 8)
    plain = uct.uct(env, 400)
    assert set(jax.jit(jax.vmap(lambda key: plain(state, obs, key)))(keys).tolist()) == {best}

    def blank(obs):
        return jnp.where(obs["legal"], 0.0, -1e9), jnp.zeros(obs["legal"].shape[:-1])
    tree = jax.jit(jax.vmap(lambda key: search(env, blank, 64, state, obs, key)))(keys)
    np.testing.assert_allclose(tree["weights"].sum(-1), 1, rtol=1e-5)
    assert (tree["weights"].argmax(-1) == best).mean() >= 0.75
    if what == "wins":
        assert (tree["value"] > 0).all()


def test_uct_counts_its_playouts():
    env = Nim()
    state, obs = env.reset(jax.random.key(0))
    visits = uct.tried(env, 60, 1.4, state, obs, jax.random.key(0))
    assert visits.sum() == 60 and visits[0] > visits[1]
    last = {"left": jnp.int32(1), "player": jnp.int32(0)}
    assert uct.tried(env, 9, 1.4, last, env.observe(last),
                     jax.random.key(0)).tolist() == [9, 0]        # one legal move


# ------------------------------------------------------------------------------------------ matches

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


def test_every_line_is_every_line():
    ends = matches.every_line(kj.envs.make_env("pgx:tic_tac_toe"), lowest)
    both = [lines([0] * 9, 1, own_turn) for own_turn in (True, False)]
    assert ends == {name: sum(each.get(name, 0) for each in both)
                    for name in ("win", "draw", "loss")}
    assert ends["loss"] > 0
    with pytest.raises(kj.UserError, match="illegal"):
        matches.every_line(kj.envs.make_env("pgx:tic_tac_toe"),
                           lambda state, obs, key: jnp.int32(0))


# --------------------------------------------------------------------------------------- recordings

@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    file = tmp_path_factory.mktemp("games") / "games.npz"
    columns = record(kj.envs.make_env("pgx:tic_tac_toe"), spaces.sample_legal, 400, random=0.5,
                     games=16)
    np.savez(file, **columns)
    return file, columns


def test_recordings_are_whole_games(recording):
    """In every game results alternate from move to move, and whoever moves last has not lost."""
    _, columns = recording
    assert len(columns["action"]) >= 400
    assert columns["legal"][np.arange(len(columns["action"])), columns["action"]].all()
    ended = 0
    for game in np.unique(columns["game"]):
        rows = columns["game"] == game
        stones, result = columns["obs"][rows].sum((1, 2, 3)), columns["result"][rows]
        assert stones.tolist() == list(range(rows.sum())) and (result[1:] == -result[:-1]).all()
        ended += result[-1] == 1
    assert ended > 0


def imitation(file, **values):
    return kj.config(task="imitate", env=dict(name="pgx:tic_tac_toe"),
                     model=dict(name="board", width=8, blocks=1), steps=6,
                     data=dict(file=str(file), batch_size=16), policy_coefficient=1.0,
                     value_coefficient=1.0, **values)


def test_imitation(recording, tmp_path):
    """A run trains on recorded games, and is restored without their file."""
    file, columns = recording
    summary = kj.fit(imitation(file, eval_every=3, save_every=3), tmp_path / "run")
    assert 0 < summary["validation/accuracy"] <= 1
    file.rename(file.with_suffix(".away"))
    run = kj.restore(tmp_path / "run")
    file.with_suffix(".away").rename(file)
    obs = {"obs": columns["obs"][:3].astype(np.float32), "legal": columns["legal"][:3]}
    assert run.predict(obs).shape == (3,)


def test_mirrored_positions(tmp_path):
    """About half of the positions are mirrored, with their moves and legal actions.

    Stones lie in columns 0 to 2, and the move is always 1, in the mirror column 5.
    """
    obs = np.zeros((64, 6, 7, 2), np.uint8)
    obs[:, 5, 0, 0] = 1
    legal = np.tile(np.arange(7) != 2, (64, 1))
    np.savez(tmp_path / "g.npz", obs=obs, legal=legal, action=np.full(64, 1), game=np.arange(64),
             result=np.ones(64, np.float32))
    config = imitation(tmp_path / "g.npz")
    config.env.name = "pgx:connect_four"
    config.data = dict(file=str(tmp_path / "g.npz"), batch_size=32, mirror=True)
    source = imitate.build(config).source
    batch = source.batch(source.arrays, source.init(jax.random.key(0)), 0)
    turned = batch["action"] == 5
    assert 4 < turned.sum() < 28 and (batch["action"][~turned] == 1).all()
    assert np.array_equal(batch["obs"]["obs"][:, 5, 6, 0] == 1, turned)
    assert np.array_equal(~batch["obs"]["legal"][:, 4], turned)
    config.env.name, config.data.file = "pgx:tic_tac_toe", "any.npz"
    with pytest.raises(kj.UserError, match="moves are columns"):
        imitate.build(config)


@pytest.mark.parametrize("spoil, says", [
    (lambda c: {**c, "action": c["action"] * 0}, "illegal moves"),
    (lambda c: {**c, "legal": c["legal"] & False}, "nothing legal"),
    (lambda c: {k: v for k, v in c.items() if k != "result"}, "lacks result"),
    (lambda c: {**c, "obs": c["obs"][:, :2]}, "as in config.env"),
    (lambda c: {**c, "game": c["game"] * 0}, "record more")])
def test_wrong_recordings(recording, spoil, says, tmp_path):
    np.savez(tmp_path / "wrong.npz", **spoil(recording[1]))
    with pytest.raises(kj.UserError, match=says):
        imitate.build(imitation(tmp_path / "wrong.npz"))
    with pytest.raises(kj.UserError, match="no such file"):
        imitate.build(imitation(tmp_path / "nowhere.npz"))


# -------------------------------------------------------------------------------- ratings, and play

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
