"""Self-play: whose gain a reward is, learning both sides, and the pool of earlier players."""
from guarantees.harness import mesh_of, run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nim import Nim
from rl_helpers import NEEDS_PGX, trained_params

import karpjax as kj
from karpjax.games import players
from karpjax.rl import advantages, running_stats
from karpjax.run.restore import Run
from karpjax.sources.self_play import SelfPlay
from karpjax.tasks import alphazero, ppo
from karpjax.tasks.agent import Agent

pytestmark = NEEDS_PGX


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


@pytest.mark.full
@pytest.mark.parametrize("pool", [pytest.param({}, marks=pytest.mark.full),
                                  {"pool": dict(size=4, every=5, random=0.2)}],
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


def test_players_see_what_the_policy_saw():
    """A network that learned from normalised observations plays matches on such."""
    config = ppo_config(data=dict(normalize=("obs",)))
    task = ppo.build(config, env=Nim())
    _, obs = Nim().reset(jax.random.key(0))
    params = task.model.init(jax.random.key(1), obs)["params"]
    stats = {"count": 1.0, "mean": jnp.full_like(obs["obs"], 3.0), "var": jnp.float32(0.25)}
    variables = {"params": params, "source": {"moments": {"obs": stats}}}
    logits, _ = players.policy_and_value(Run(config, task, variables, 0, {}))(obs)
    seen = {**obs, "obs": running_stats.normalize(stats, obs["obs"])}
    np.testing.assert_allclose(logits, task.model.apply({"params": params}, seen)[0])
    assert not np.allclose(logits, task.model.apply({"params": params}, obs)[0])


# ----------------------------------------------------------------------------------------- the pool

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
        theirs = rows["learner"] == 0
        assert not theirs[2::4].any() and not theirs[3::4].any() and theirs[0::4].any()
        assert theirs[1::4].any()
        assert (rows["value"] == (1 if turn < 6 else 2)).all()
        assert (rows["action"][~theirs] == (0 if turn < 6 else 1)).all()
        assert (rows["log_prob"][theirs] == rows["action"][theirs] + 1).all()
        seen.append(set(rows["action"][theirs].tolist()))
    # A rollout plays against one snapshot.
    assert all(len(actions) == 1 for actions in seen) and seen[:6] == [{0}] * 6
    # The two in the pool joined at 3 and 6: the old parameters, and the new ones.
    assert set.union(*seen[6:9]) == {0, 1} or seen[6] == {0}
    assert seen[9:] == [{1}] * 3  # these joined at 6 and 9: the old ones left
    source = make_source(1.0)
    rows = source.advance({}, source.init(jax.random.key(0)), n(1))[1]["rows"]
    assert set(rows["action"][rows["learner"] == 0].tolist()) == {0, 1}
    assert set(rows["action"][rows["learner"] == 1].tolist()) == {0}


@pytest.mark.parametrize("pool, says", [
    (dict(size=0, every=1, random=0.0), "pool.size: expected at least 1"),
    (dict(size=1, every=1, random=2.0), "pool.random: expected 0 to 1"),
    (dict(size=1, evry=1, random=0.0), "did you mean 'every'")])
def test_a_wrong_pool(pool, says):
    with pytest.raises(kj.UserError, match=says):
        ppo.build(ppo_config(data=dict(pool=pool)), env=Nim())


def test_a_search_meets_a_game_as_it_is():
    config = ppo_config(task="alphazero", simulations=2, data=dict(normalize=("obs",)))
    with config.unlocked():
        for key in ("clip", "value_clip", "entropy_coefficient", "target_kl"):
            del config[key]
    with pytest.raises(kj.UserError, match=r"config.data.normalize: expected \(\)"):
        alphazero.build(config, env=Nim())


def test_a_pool_is_of_games():
    with pytest.raises(kj.UserError, match="config.data.pool: no such key"):
        Agent(ppo_config(env=dict(name="cartpole"), data=dict(pool={})), own=ppo.OWN)
