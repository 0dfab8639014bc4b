"""Recorded games: whole, imitated, mirrored, and refused if they are wrong."""
import jax
import numpy as np
import pytest
from rl_helpers import NEEDS_PGX

import karpjax as kj
from karpjax.envs import spaces
from karpjax.games.record import main, record
from karpjax.tasks import imitate

pytestmark = NEEDS_PGX


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


@pytest.mark.full
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


def test_a_recording_is_of_a_game(tmp_path):
    with pytest.raises(kj.UserError, match="--env=cartpole: expected a game of two players"):
        main(["--env=cartpole", "--simulations=2", f"--to={tmp_path / 'games.npz'}"])
    config = imitation(tmp_path / "games.npz")
    config.env.name = "cartpole"
    with pytest.raises(kj.UserError, match=r"'cartpole', which observes float32\[4\]"):
        imitate.build(config)


def test_a_board_without_its_moves_is_refused(recording):
    file, columns = recording
    source = imitate.build(imitation(file)).source
    with pytest.raises(kj.UserError, match=r"'legal': moves}, found float32\[3, 3, 3, 2\]"):
        source.preprocess({"obs": np.float32(columns["obs"][:3])})


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
    (tmp_path / "wrong.npz").write_text("no archive")
    with pytest.raises(kj.UserError, match="wrong.npz: not a whole .npz file"):
        imitate.build(imitation(tmp_path / "wrong.npz"))
    with pytest.raises(kj.UserError, match="no such file"):
        imitate.build(imitation(tmp_path / "nowhere.npz"))
