"""Rollouts: learning from what the policy saw, evaluation, restored policies, many devices."""
from flax import linen as nn
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl_helpers import begun, config_for, Contextual

import karpjax as kj
from karpjax.core import sharding
from karpjax.rl import running_stats
from karpjax.run.experiment import assemble
from karpjax.run.init_from import load_weights
from karpjax.run.loop import fit
from karpjax.run.programs import make_programs
from karpjax.sources.rollout import EVALUATION
from karpjax.sources.source import example_keys
from karpjax.tasks import ppo


def test_every_step_once_an_epoch():
    exp, _, _, chunk = begun("ppo", data=dict(minibatches=4, epochs=3), steps=12)
    rows = [exp.source.batch({}, chunk, i) for i in range(12)]
    for epoch in range(3):
        parts = [row["target"] for row in rows[4 * epoch:4 * epoch + 4]]
        joined = np.concatenate(parts, axis=1)  # (E, T)
        np.testing.assert_array_equal(np.sort(joined), np.sort(chunk["rows"]["target"]))
    # Every epoch and every environment has an order of its own.
    assert not np.array_equal(rows[0]["target"], rows[4]["target"])
    assert not np.array_equal(np.argsort(chunk["order"][0, 0]), np.argsort(chunk["order"][1, 0]))


def test_recent_episodes_are_the_last_of_each_environment():
    """CartPole is cut after 3 steps: 21 steps hold 7 episodes of return 3, of which 5 are kept."""
    x, _, after, _ = begun("a2c", num_steps=21, num_envs=20, env=dict(name="cartpole", max_steps=3))
    assert after["recent"]["return"].shape == (20, 5)
    assert (after["recent"]["return"] == 3).all() and (after["recent"]["known"] == 1).all()
    _, _, after, _ = begun("a2c", num_steps=7, num_envs=20, env=dict(name="cartpole", max_steps=3))
    assert after["recent"]["known"].tolist() == [[1, 1, 0, 0, 0]] * 20
    assert after["episode"]["length"].tolist() == [1.0] * 20 == after["episode"]["return"].tolist()


class NoMoreThanItsEnd(Contextual):
    """An environment that returns nan beyond its end, as a simulator may."""
    max_steps = 4

    def reset(self, key):
        state, obs = super().reset(key)
        return {**state, "over": jnp.bool_(False)}, obs

    def step(self, state, action, key):
        _, out = super().step(state, action, key)

        def nan(x):
            return jnp.where(state["over"], jnp.nan, x)
        out = out._replace(reward=nan(1.0 + 0 * out.reward), obs=nan(out.obs),
                           final_obs=jnp.full(4, jnp.nan))
        return {**state, "over": jnp.bool_(True)}, out


def test_what_is_beyond_the_end_does_not_count(tmp_path):
    """Rewards after an episode's end do not count, nor the value of a terminal observation."""
    task = ppo.build(config_for("ppo"), env=NoMoreThanItsEnd())
    variables = task.init(jax.random.key(0))
    metrics = jax.jit(task.evaluate)(variables, {"seed": jnp.arange(8), "weight": jnp.ones(8)})
    assert {name: float(total / count) for name, (total, count) in metrics.items()} == {
        "return": 1.0, "return_sampled": 1.0, "length": 1.0}
    _, chunk = jax.jit(task.source.advance)({}, task.source.init(jax.random.key(1)), variables)
    assert np.isfinite(chunk["rows"]["advantage"]).all()


def test_evaluation_takes_no_more_environments_than_it_needs():
    """An evaluation of 5 episodes plays 8, one a device, and counts each seed once."""
    source = kj.sources.Rollout(kj.envs.make_env("cartpole"), act=None, examples=None, num_envs=64,
                                num_steps=1, eval_episodes=5)
    batches = list(source.eval_batches("eval"))
    assert [len(batch["seed"]) for batch in batches] == [8] and jax.device_count() == 8
    assert batches[0]["seed"][batches[0]["weight"] > 0].tolist() == [0, 1, 2, 3, 4]
    source.eval_episodes = 0
    assert not list(source.eval_batches("eval"))


# --------------------------------------------------------------------------------------------- runs

@pytest.mark.full
def test_a_run_that_starts_from_another_sees_by_its_moments(tmp_path):
    config = config_for("ppo", env=dict(name="pendulum", max_steps=15),
                        data=dict(normalize=("obs",)), steps=4, eval_every=4,
                        save_every=4, best="")
    fit(config, tmp_path, mesh=mesh_of(1))
    saved = kj.restore(tmp_path).variables["source"]["moments"]["obs"]
    exp = assemble(config, None, mesh_of(1))
    started, _ = load_weights(str(tmp_path), exp.fresh_state(), exp.task)
    np.testing.assert_array_equal(started.source["moments"]["obs"]["mean"], saved["mean"])
    assert started.source["moments"]["obs"]["count"] == 4 * 16 * 8
    assert started.source["rollouts"] == 0
    other = assemble(config_for("ppo", env=dict(name="pendulum"), data=dict(normalize=("reward",))),
                     None, mesh_of(1))
    started, _ = load_weights(str(tmp_path), other.fresh_state(), other.task)
    assert started.source["moments"]["reward"]["count"] == 0


def test_a_restored_policy_acts_as_it_was_evaluated(tmp_path):
    """run.act normalises by the run's moments, so that its returns are the evaluation's."""
    config = config_for("ppo", env=dict(name="pendulum", max_steps=15),
                        data=dict(normalize=("obs",), eval_episodes=16),
                        steps=4, eval_every=4, save_every=4, best="max eval/return")
    summary = fit(config, tmp_path, mesh=mesh_of(1))
    policy = kj.restore(tmp_path)
    assert policy.variables["source"]["moments"]["obs"]["count"] == 4 * 16 * 8
    env, total = kj.envs.make_env("pendulum", max_steps=15), np.zeros(16)
    keys = example_keys(jax.random.key(EVALUATION), jnp.arange(16))
    keys = jax.vmap(jax.random.split)(keys)[:, 0]
    state, obs = jax.vmap(env.reset)(keys)
    for _ in range(15):
        state, out = jax.vmap(env.step)(state, policy.act(obs), keys)
        total, obs = total + out.reward, out.obs
    np.testing.assert_allclose(total.mean(), summary["eval/return"], rtol=1e-4)
    fresh = {"source": {"moments": {"obs": running_stats.init((3,))}}}
    raw = policy.task.predict({**policy.variables, **fresh}, obs)
    assert not np.allclose(raw, policy.act(obs))
    assert (tmp_path / "episode.gif").read_bytes()[:6] == b"GIF89a"


@pytest.mark.full
def test_a_supervised_policy_with_batch_norm_plays(tmp_path):
    """A CNN with BatchNorm learns, by cross-entropy, the shortest way from the states it visits.

    This is DAgger (Ross et al. 2011). The rollout sees the running statistics, and evaluation too.
    """
    from karpjax.envs.grid_nav import GridNav, shortest_path
    env = GridNav(size=4, walls=0.0, max_steps=12)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, obs, train=False):
            *lead, H, W, C = obs.shape
            x = nn.Conv(16, (3, 3), name="conv")(obs.reshape(-1, H, W, C))
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
            x = nn.relu(nn.Dense(64, name="hidden")(x.reshape(len(x), -1)))
            return nn.Dense(4, name="head")(x).reshape(*lead, 4)

    model = Net()
    moves = jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]])

    def best_action(planes):
        walls, agent, goal = (planes[..., i] > 0 for i in range(3))
        distance = jnp.pad(shortest_path(walls,
                                         jnp.stack(jnp.unravel_index(goal.argmax(), goal.shape))),
                           1, constant_values=1e6)
        at = jnp.stack(jnp.unravel_index(agent.argmax(), agent.shape)) + 1
        around = jax.vmap(lambda move: distance[tuple(at + move)])(moves)
        return around.argmin()

    def act(variables, obs, keys):
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        return jax.vmap(jax.random.categorical)(keys, kj.apply(model, params, state, obs)[0]), {}

    def examples(trajectory, variables):
        return {"obs": trajectory["obs"],
                "action": jax.vmap(jax.vmap(best_action))(trajectory["obs"]),
                "weight": jnp.ones(trajectory["reward"].shape)}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["obs"], key)
        right = (logits.argmax(-1) == batch["action"]).astype(jnp.float32)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])
        losses = {"nll": kj.mean(nll, batch["weight"])}
        return losses, {"right": kj.mean(right, batch["weight"])}, model_state
    source = kj.sources.Rollout(env, act, examples, num_envs=16, num_steps=16, minibatches=2)
    task = kj.Task(model, source, loss, inputs="obs")
    state = kj.TrainState.create(task.init(jax.random.key(0)), optax.adam(3e-3), jax.random.key(1),
                                 source.init(jax.random.key(2)))
    assert set(state.model_state) == {"batch_stats"}
    step = kj.make_train_step(task.loss, optax.adam(3e-3))

    @jax.jit
    def chunk(state):
        source_state, chunk = source.advance({}, state.source, state.variables)
        state = state.replace(source=source_state)
        for i in range(2):
            state, metrics = step(state, source.batch({}, chunk, i))
        return state, metrics

    rights = []
    for _ in range(100):
        state, metrics = chunk(state)
        rights.append(float(metrics["right"]))
    assert np.mean(rights[-5:]) > 0.75 > rights[0] + 0.2
    # With other running statistics the policy would choose otherwise.
    obs, keys = state.source["obs"], jax.random.split(jax.random.key(3), 16)
    other = jax.tree.map(lambda x: jnp.flip(x) + 1, state.model_state)
    actions, _ = act(state.variables, obs, keys)
    others, _ = act({**state.variables, **other}, obs, keys)
    assert (actions != others).any()


# ------------------------------------------------------------------------------------- many devices

def collectives(task, **options):
    """Return {kind: bytes} that a rollout alone exchanges on 8 devices, parameters replicated."""
    from karpjax.precompile.hlo import collectives
    exp = assemble(config_for(task, num_envs=16, **options), None, mesh_of(8))
    state = exp.fresh_state()

    def rollout(state):
        source_state, chunk = exp.source.advance({}, state.source, state.variables)
        return source_state, sharding.constrain_batch(exp.mesh, exp.source.batch({}, chunk, 0))
    text = jax.jit(rollout, out_shardings=(exp.shardings.source,
                                           None)).lower(state).compile().as_text()
    return {kind: size for kind, (n, size) in collectives(text).items()}


def test_a_rollout_crosses_devices_only_to_normalise():
    """Devices exchange sums of a few numbers, and nothing if nothing is normalised."""
    exchanged = collectives("ppo", data=dict(minibatches=2, epochs=2))
    assert set(exchanged) <= {"all-reduce"} and exchanged["all-reduce"] < 100
    assert collectives("ppo", data=dict(minibatches=2), normalize_advantages=False) == {}


def test_the_step_only_adds_up():
    from karpjax.precompile.hlo import collectives
    exp = assemble(config_for("ppo", num_envs=16, data=dict(minibatches=2), dispatch="scan"), None,
                   mesh_of(8))
    text = make_programs(exp).lower(exp.fresh_state(), {}, 2).compile().as_text()
    assert set(collectives(text)) == {"all-reduce"}
