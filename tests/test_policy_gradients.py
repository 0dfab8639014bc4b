"""Policy gradients from outside: tables by hand, rlax's numbers, exact gradients by enumeration, values that are known."""
import itertools
import pathlib

from flax import linen as nn
from guarantees.harness import mesh_of, named, run
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import karpjax as kj
from karpjax.core import sharding
from karpjax.core.step import PRECISIONS
from karpjax.core.trees import cast_floating
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box, Discrete, MultiDiscrete
from karpjax.rl import advantages, distributions, running_stats
from karpjax.run.experiment import assemble
from karpjax.run.init_from import load_weights
from karpjax.run.loop import fit
from karpjax.run.programs import Programs, acting_variables
from karpjax.sources.rollout import EVALUATION
from karpjax.sources.source import example_keys
from karpjax.tasks import a2c, ppo, reinforce
from karpjax.tasks.agent import Agent
from karpjax.tasks.ppo import value_error

RLAX = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "rlax.npz")


# -------------------------------------------------------------------------------------------------------- advantages

def test_gae_by_hand():
    """discount 1/2, lambda 1/2. Environment 0 is terminated at its second step: nothing comes after. Environment 1 is truncated
    there: the value of what it reached counts, the rewards of the next episode do not."""
    reward = jnp.array([[1.0, 2.0, 4.0]] * 2)
    value, next_value = jnp.array([[1.0, 1.0, 1.0]] * 2), jnp.array([[1.0, 8.0, 2.0]] * 2)
    terminated = jnp.array([[False, True, False], [False, False, False]])
    truncated = jnp.array([[False, False, False], [False, True, False]])
    # delta: 1 + 1/2 - 1 = 0.5;  2 (+ 8/2 only if truncated) - 1 = 1, 5;  4 + 2/2 - 1 = 4
    found = advantages.gae(reward, value, next_value, terminated, truncated, 0.5, 0.5)
    assert found.tolist() == [[0.5 + 1 / 4, 1.0, 4.0], [0.5 + 5 / 4, 5.0, 4.0]]


def test_returns_to_go_by_hand():
    """Two environments, discount 1/2: an episode of 2 steps then an unfinished one; one that ends at the last step."""
    reward = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    over = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    returns, known = advantages.returns_to_go(reward, over, 0.5)
    assert known.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (returns * known).tolist() == [[2.0, 2.0, 0.0], [3.0, 4.0, 4.0]]


def test_normalized_leaves_out_what_has_no_weight():
    x, weight = jnp.array([[1.0, 3.0, 1e6]]), jnp.array([[1.0, 1.0, 0.0]])
    np.testing.assert_allclose(advantages.normalized(x, weight)[0, :2], [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(jnp.std(advantages.normalized(jnp.arange(12.0).reshape(3, 4))), 1, rtol=1e-6)


def test_gae_is_rlax_s():
    never = jnp.zeros(RLAX["reward"].shape, bool)
    found = advantages.gae(RLAX["reward"], RLAX["value"][:, :-1], RLAX["value"][:, 1:], jnp.asarray(RLAX["terminated"]), never,
                           float(RLAX["discount"]), float(RLAX["trace"]))
    np.testing.assert_allclose(found, RLAX["rlax/gae"], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ losses

class Contextual:
    """One step an episode: the observation is the context, the reward what the test says."""
    actions, max_steps = Discrete(3), 1

    def reset(self, key):
        obs = jax.random.normal(key, (4,))
        return {"obs": obs}, obs

    def step(self, state, action, key):
        obs, false = state["obs"], jnp.bool_(False)
        return state, TimeStep(obs, obs[action], ~false, false, obs)


def config_for(task, num_steps=8, num_envs=16, **values):
    own = {"reinforce": dict(baseline=False), "a2c": dict(gae_lambda=0.95, value_coefficient=0.5, entropy_coefficient=0.0)}
    own["ppo"] = {**own["a2c"], "clip": 0.2, "value_clip": 0.0, "target_kl": 0.0}
    rollout = dict(num_envs=num_envs, num_steps=num_steps, minibatches=1, epochs=1, normalize=(), eval_episodes=64)
    rollout |= values.pop("data", {})
    return kj.config(**{"task": task, "env": dict(name="cartpole"), "discount": 0.9, "data": rollout, **own[task],
                        "model": dict(name="actor_critic", width=16), **values})


def losses_on_rlax_s_input(module, monkeypatch, **values):
    """The losses and metrics of a task whose network answers with rlax's logits, whatever it sees."""
    class Answers(nn.Module):
        @nn.compact
        def __call__(self, obs, train=False):
            return jnp.asarray(RLAX["logits"]), jnp.zeros(RLAX["action"].shape)

    monkeypatch.setattr(kj.models, "make", lambda options, **given: Answers())
    task = module.build(config_for(module.__name__.split(".")[-1], **values), env=Contextual())
    log_prob = distributions.Categorical(jnp.asarray(RLAX["logits"])).log_prob(jnp.asarray(RLAX["action"]))
    ones = jnp.ones(RLAX["action"].shape)
    batch = {"obs": ones, "action": jnp.asarray(RLAX["action"]), "advantage": jnp.asarray(RLAX["advantage"]), "weight": ones,
             "target": ones, "value": ones, "return": ones, "log_prob": log_prob - RLAX["log_ratio"],
             "recent": {name: jnp.ones((5, 2)) for name in ("return", "length", "known")}}
    losses, metrics, _ = task.loss({"unused": jnp.ones(1)}, {}, batch, None)
    return {name: total / count for name, (total, count) in {**losses, **metrics}.items()}


@pytest.mark.parametrize("module, name", [(reinforce, "policy_gradient"), (a2c, "policy_gradient"), (ppo, "clipped")],
                         ids=["reinforce", "a2c", "ppo"])
def test_losses_are_rlax_s(module, name, monkeypatch):
    found = losses_on_rlax_s_input(module, monkeypatch)
    np.testing.assert_allclose(found["policy"], RLAX[f"rlax/{name}"], rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], -RLAX["rlax/entropy"], rtol=1e-5)
    if module is not reinforce:
        bonus = losses_on_rlax_s_input(module, monkeypatch, entropy_coefficient=0.5)["entropy_bonus"]
        np.testing.assert_allclose(bonus, RLAX["rlax/entropy"] / 2, rtol=1e-5)
        np.testing.assert_allclose(found["value"], 0.5)             # its values are 0, their targets 1, the coefficient 1/2
    if module is ppo:
        np.testing.assert_allclose(found["clipped"], np.mean(np.abs(np.exp(RLAX["log_ratio"]) - 1) > 0.2))


def test_value_clip():
    """The old value is 0, the target 1: within the clip the error counts; beyond it, going on gains nothing."""
    batch = {"value": jnp.zeros(4), "target": jnp.ones(4)}
    values = jnp.array([-0.5, 0.1, 0.2, 0.8])
    assert np.allclose(value_error(values, batch, 0.0), [2.25, 0.81, 0.64, 0.04])
    assert np.allclose(value_error(values, batch, 0.2), [2.25, 0.81, 0.64, 0.64])
    slope = jax.vmap(jax.grad(lambda v: value_error(v, {"value": 0.0, "target": 1.0}, 0.2)))(values)
    assert slope[3] == 0 and (slope[:2] < 0).all()


def begun(task, **options):
    """The first chunk of a task's rollout, by the parameters it starts with."""
    exp = assemble(config_for(task, **options), None, mesh_of(1))
    state = exp.fresh_state()
    begin = lambda state: exp.source.advance({}, state.source, acting_variables(state, precision=exp.config.precision))
    return exp, state, *jax.jit(begin)(state)


@pytest.mark.parametrize("options", [{}, {"env": dict(name="pendulum"), "data": dict(normalize=("obs", "reward"))},
                                     {"env": dict(name="pendulum"), "precision": "bf16"}], ids=str)
def test_ratio_is_1_before_anything_was_learned(options):
    """Exactly: what is learned from is what the policy saw, and its probabilities are those that were kept. (The step's own
    compilation may round otherwise; here both are compiled alike.)"""
    options = {**options, "data": {**dict(minibatches=2, epochs=2), **options.get("data", {})}}
    exp, state, _, chunk = begun("ppo", **options)
    agent = Agent(config_for("ppo", **options), own=ppo.OWN)
    batch = exp.source.batch({}, chunk, 0)
    dtype = PRECISIONS[options.get("precision", "fp32")]                                      # as the step casts
    policy = lambda params: agent(cast_floating(params, dtype), {}, batch["obs"])[0]
    ratio = jax.jit(lambda params: jnp.exp(policy(params).log_prob(batch["action"]) - batch["log_prob"]))
    np.testing.assert_array_equal(ratio(state.params), 1.0)
    moved = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(p.size), p.shape), state.params)
    assert jnp.abs(ratio(moved) - 1).max() > 1e-3


@pytest.mark.parametrize("task", ["a2c", "ppo"])
def test_advantages_are_normalised_or_what_they_are(task):
    """Over the whole rollout, in the one case; in the other they are what the values were wrong by."""
    batch = {flag: (lambda exp, state, _, chunk: exp.source.batch({}, chunk, 0))(*begun(task, normalize_advantages=flag))
             for flag in (True, False)}
    plain = batch[False]["advantage"]
    np.testing.assert_allclose(plain, batch[False]["target"] - batch[False]["value"], atol=1e-5)
    assert abs(plain.mean()) > 0.1 and abs(plain.std() - 1) > 0.1
    np.testing.assert_allclose(batch[True]["advantage"], (plain - plain.mean()) / plain.std(), rtol=1e-4, atol=1e-5)


def test_target_kl_stops_learning():
    """With a target that the first step passes, the policy and value losses of the later minibatches count nothing."""
    def steps(target_kl):
        config = config_for("ppo", data=dict(epochs=6), target_kl=target_kl, steps=6, dispatch="step",
                            optimizer=dict(name="sgd", learning_rate=0.5))
        return run(config, None, mesh_of(1), steps=6).metrics
    free, held = steps(0.0), steps(1e-4)
    assert held["approx_kl"][0] == 0 and held["policy"][0] == free["policy"][0] != 0
    assert (free["approx_kl"][2:] > 1e-4).all() and (free["value"] != 0).all()
    over = held["approx_kl"] > 1e-4
    assert over.any() and (held["value"][over] == 0).all() and (held["grad_norm"][over] == 0).all()


def test_every_step_once_an_epoch():
    exp, _, _, chunk = begun("ppo", data=dict(minibatches=4, epochs=3), steps=12)
    rows = [exp.source.batch({}, chunk, i) for i in range(12)]
    for epoch in range(3):
        joined = np.concatenate([r["target"] for r in rows[4 * epoch:4 * epoch + 4]], axis=1)              # (E, T)
        np.testing.assert_array_equal(np.sort(joined), np.sort(chunk["rows"]["target"]))
    assert not np.array_equal(rows[0]["target"], rows[4]["target"])  # in another order
    assert not np.array_equal(np.argsort(chunk["order"][0, 0]), np.argsort(chunk["order"][1, 0]))  # each environment its own


# --------------------------------------------------------------------------------------------------- exact gradients

class ThreeStates:
    """A chain of three states and two actions; an episode is three steps. Rewards by state and action, in a table."""
    actions, max_steps = Discrete(2), 3
    reward = jnp.array([[1.0, -1.0], [0.0, 2.0], [3.0, -2.0]])
    arrives = jnp.array([[1, 2], [0, 2], [1, 0]])

    def reset(self, key):
        return {"at": jnp.int32(0), "time": jnp.int32(0)}, jnp.eye(3)[0]

    def step(self, state, action, key):
        at, time = self.arrives[state["at"], action], state["time"] + 1
        obs = jnp.eye(3)[at]
        return {"at": at, "time": time}, TimeStep(obs, self.reward[state["at"], action], time == 3, jnp.bool_(False), obs)


def test_policy_gradient_theorem():
    """REINFORCE's gradient, over 60,000 episodes, is the gradient of the expected return by enumeration of all 8 action
    sequences. The task divides advantages by their deviation, and averages over steps: undone here."""
    env, discount = ThreeStates(), 0.8
    config = config_for("reinforce", num_steps=3, num_envs=60_000, discount=discount, model=dict(name="actor_critic", width=4))
    task = reinforce.build(config, env=env)
    params = task.init(jax.random.key(0))["params"]
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)

    def expected_return(params):
        logits, _ = task.model.apply({"params": params}, jnp.eye(3))
        log_p, total = jax.nn.log_softmax(logits), 0.0
        for actions in itertools.product(range(2), repeat=3):
            at, p, found = 0, 0.0, 0.0
            for t, a in enumerate(actions):
                p, found = p + log_p[at, a], found + discount**t * env.reward[at, a]
                at = int(env.arrives[at, a])
            total = total + jnp.exp(p) * found
        return total

    def surrogate(params, batch):
        losses, _, _ = task.loss(params, {}, batch, None)
        return losses["policy"][0] / losses["policy"][1]

    state = task.source.init(jax.random.key(1))
    _, chunk = jax.jit(task.source.advance)({}, state, {"params": params})
    batch = task.source.batch({}, chunk, 0)
    # Return-to-go from step t, discounted from the start: the theorem's weight, where the usual loss drops discount**t.
    batch["advantage"] = batch["advantage"] * discount ** jnp.arange(3)
    found = jax.grad(surrogate)(params, batch)
    exact = jax.grad(expected_return)(params)
    scale = -3 * float(jnp.std(batch["return"]))
    for name, value in named(exact).items():
        if "value" not in name:
            np.testing.assert_allclose(scale * named(found)[name], value, atol=0.02 * max(1, np.abs(value).max()), err_msg=name)
    assert max(np.abs(value).max() for value in named(exact).values()) > 0.2


# ------------------------------------------------------------------------------------------- values that are known

class Known:
    """Environments whose values are known (after rejax's and PureJaxRL's tests): observation x in -1 or 1, two steps at most.

    "one"        a single step of reward 1: V = 1
    "sign"       a single step of reward x: V = x
    "later"      two steps, the reward 1 at the second: V = discount, then 1
    "endless"    reward 1 a step, never terminated, cut after 5: V = 1 / (1 - discount), if a cut is not taken for an end
    "choose"     a single step: reward 1 for the action that is x's: V = 1 for the policy that learned it
    """
    actions = Discrete(2)

    def __init__(self, kind):
        self.kind, self.max_steps = kind, {"later": 2, "endless": 5}.get(kind, 1)

    def obs(self, state):
        last = (state["time"] == 1) & (self.kind == "later")
        return jnp.stack([state["x"], last.astype(jnp.float32)])

    def reset(self, key):
        state = {"x": jax.random.rademacher(key, (), jnp.float32), "time": jnp.int32(0)}
        return state, self.obs(state)

    def step(self, state, action, key):
        right = (action == 1) == (state["x"] > 0)
        reward = {"one": 1.0, "sign": state["x"], "later": state["time"] * 1.0, "endless": 1.0, "choose": right}[self.kind]
        state = {**state, "time": state["time"] + 1}
        over = state["time"] >= self.max_steps
        endless = jnp.bool_(self.kind == "endless")
        return state, TimeStep(self.obs(state), jnp.float32(reward), over & ~endless, over & endless, self.obs(state))


@pytest.mark.parametrize("task", [a2c, ppo], ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("kind, wanted", [("one", {(1, 0): 1, (-1, 0): 1}), ("sign", {(1, 0): 1, (-1, 0): -1}),
                                          ("later", {(1, 0): 0.5, (1, 1): 1}), ("endless", {(1, 0): 2, (-1, 0): 2}),
                                          ("choose", {(1, 0): 1, (-1, 0): 1})])
def test_values_that_are_known(task, kind, wanted, monkeypatch):
    name, env = task.__name__.split(".")[-1], Known(kind)
    epochs = {} if name == "a2c" else dict(epochs=4, minibatches=2)
    config = config_for(name, data=dict(num_envs=16, num_steps=16, **epochs), discount=0.5, steps=400, dispatch="scan",
                        steps_per_dispatch=400, optimizer=dict(name="adam", learning_rate=5e-3))
    build = task.build
    monkeypatch.setattr(task, "build", lambda config: build(config, env=env))
    end = run(config, None, mesh_of(1), steps=400)
    params = jax.tree.map(jnp.asarray, end.experiment.fresh_state().params)
    params = jax.tree.map_with_path(lambda path, p: jnp.asarray(end.state["params/" + "/".join(k.key for k in path)]), params)
    outputs, values = end.experiment.task.model.apply({"params": params}, jnp.array(list(wanted), jnp.float32))
    np.testing.assert_allclose(values, list(wanted.values()), atol=0.1)
    if kind == "choose":
        assert outputs.argmax(-1).tolist() == [1, 0]


# ------------------------------------------------------------------------------------------------------ distributions

def test_distributions_against_the_formulas():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    p = distributions.of(Discrete(3), logits)
    np.testing.assert_allclose(jnp.exp(p.log_prob(jnp.array([0, 1, 2, 0]))), jax.nn.softmax(logits)[np.arange(4), [0, 1, 2, 0]],
                               rtol=1e-5)
    np.testing.assert_allclose(p.entropy(), -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1), rtol=1e-5)
    several = distributions.of(MultiDiscrete((2, 3)), jnp.concatenate([logits[:, :2], logits], -1))
    action = jnp.array([[1, 2]] * 4)
    np.testing.assert_allclose(several.log_prob(action), distributions.of(Discrete(2), logits[:, :2]).log_prob(action[:, 0])
                               + p.log_prob(action[:, 1]), rtol=1e-5)
    assert several.sample(jax.random.key(0)).shape == several.mode().shape == (4, 2)
    box = Box((-2.0, 0.0), (2.0, 1.0))
    g = distributions.of(box, jnp.array([[0.5, 0.0, 0.0, np.log(2.0)]]))                      # means, log deviations
    assert g.mode().tolist() == [[1.0, 0.5]]                                                  # in the box's own units
    draws = jax.vmap(g.sample)(jax.random.split(jax.random.key(1), 20_000))[:, 0]
    np.testing.assert_allclose(draws.std(0), [2.0, 1.0], rtol=0.03)
    density = lambda x, mean, std: np.exp(-((x - mean) / std) ** 2 / 2) / std / np.sqrt(2 * np.pi)
    at = jnp.exp(g.log_prob(jnp.array([[0.3, 0.9]])))
    np.testing.assert_allclose(at, density(0.3, 1, 2) * density(0.9, 0.5, 1), rtol=1e-5)
    np.testing.assert_allclose(g.entropy(), -g.log_prob(draws).mean(), rtol=0.02)


def test_illegal_actions_have_no_probability():
    model = kj.models.make_model(dict(name="actor_critic", width=8), actions=Discrete(4), obs_shape=(5,))
    obs = {"obs": jnp.ones((2, 5)), "legal": jnp.array([[True, False, True, False], [False, False, False, True]])}
    params = model.init(jax.random.key(0), obs)["params"]
    def entropy(params):
        return distributions.of(Discrete(4), model.apply({"params": params}, obs)[0]).entropy().sum()
    p = distributions.of(Discrete(4), model.apply({"params": params}, obs)[0])
    draws = jax.vmap(p.sample)(jax.random.split(jax.random.key(1), 500))                      # (500, 2)
    assert set(draws[:, 0].tolist()) == {0, 2} and set(draws[:, 1].tolist()) == {3}
    assert p.entropy()[1] == 0 and 0 < p.entropy()[0] <= np.log(2) + 1e-6
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(entropy)(params)))


# ------------------------------------------------------------------------------------------------------- normalisation

def test_moments_are_those_of_all_that_was_seen():
    x = np.random.default_rng(0).normal(3, 5, size=(6, 8, 7, 2)).astype(np.float32)           # 6 rollouts of 8 x 7
    found = running_stats.init((2,))
    for rollout in x:
        found = running_stats.update(found, jnp.asarray(rollout))
    assert found["count"] == 6 * 8 * 7
    np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["var"], x.var((0, 1, 2)), rtol=1e-5)


def test_rewards_are_scaled_observations_normalized_returns_are_not():
    options = dict(env=dict(name="pendulum", max_steps=20), data=dict(num_steps=40, normalize=("obs", "reward")))
    exp, state, after, chunk = begun("ppo", **options)
    # The first rollout saw raw observations; the second sees them by the first one's moments.
    np.testing.assert_allclose(after["moments"]["obs"]["mean"], chunk["rows"]["obs"].mean((0, 1)), atol=1e-5)
    again, second = jax.jit(exp.source.advance)({}, after, state.variables)
    assert np.abs(second["rows"]["obs"].mean((0, 1))).max() < 0.3
    np.testing.assert_allclose(second["rows"]["obs"].std((0, 1)), 1, atol=0.4)
    # An episode of 20 steps at rewards down to -16: returns are reported as they are.
    assert after["recent"]["known"].sum() == 16 * 2 and after["recent"]["return"].min() < -20
    assert set(after["recent"]["length"][:, :2].flatten().tolist()) == {20.0}
    assert again["moments"]["obs"]["count"] == 2 * 16 * 40


def test_one_bad_reward_does_not_stay():
    good = running_stats.update(running_stats.init((2,)), jnp.arange(24.0).reshape(3, 4, 2))
    for bad in (jnp.nan, jnp.inf):
        after = running_stats.update(good, jnp.ones((3, 4, 2)).at[1, 2, 0].set(bad))
        assert jax.tree.map(jnp.array_equal, after, good) == {"count": True, "mean": True, "var": True}


class NoMoreThanItsEnd(Contextual):
    """Beyond its end it returns nan, as a simulator may."""
    max_steps = 4

    def reset(self, key):
        state, obs = super().reset(key)
        return {**state, "over": jnp.bool_(False)}, obs

    def step(self, state, action, key):
        _, out = super().step(state, action, key)
        nan = lambda x: jnp.where(state["over"], jnp.nan, x)
        out = out._replace(reward=nan(1.0 + 0 * out.reward), obs=nan(out.obs), final_obs=jnp.full(4, jnp.nan))
        return {**state, "over": jnp.bool_(True)}, out


def test_what_is_beyond_the_end_does_not_count(tmp_path):
    """Neither the reward of steps after an episode's end, nor the value of a terminal observation that is not a number."""
    task = ppo.build(config_for("ppo"), env=NoMoreThanItsEnd())
    variables = task.init(jax.random.key(0))
    found = jax.jit(task.evaluate)(variables, {"seed": jnp.arange(8), "weight": jnp.ones(8)})
    assert {name: float(total / count) for name, (total, count) in found.items()} == {
        "return": 1.0, "return_sampled": 1.0, "length": 1.0}
    _, chunk = jax.jit(task.source.advance)({}, task.source.init(jax.random.key(1)), variables)
    assert np.isfinite(chunk["rows"]["advantage"]).all()


def test_a_run_that_starts_from_another_sees_by_its_moments(tmp_path):
    config = config_for("ppo", env=dict(name="pendulum", max_steps=15), data=dict(normalize=("obs",)), steps=4, eval_every=4,
                        save_every=4, best="")
    fit(config, tmp_path, mesh=mesh_of(1))
    saved = kj.restore(tmp_path).variables["source"]["moments"]["obs"]
    exp = assemble(config, None, mesh_of(1))
    started, _ = load_weights(str(tmp_path), exp.fresh_state(), exp.task)
    np.testing.assert_array_equal(started.source["moments"]["obs"]["mean"], saved["mean"])
    assert started.source["moments"]["obs"]["count"] == 4 * 16 * 8 and started.source["rollouts"] == 0
    other = assemble(config_for("ppo", env=dict(name="pendulum"), data=dict(normalize=("reward",))), None, mesh_of(1))
    started, _ = load_weights(str(tmp_path), other.fresh_state(), other.task)
    assert started.source["moments"]["reward"]["count"] == 0


def test_recent_episodes_are_the_last_of_each_environment():
    """CartPole cut after 3 steps: every third step ends an episode of return 3; 7 in 21 steps, of which K are kept."""
    x, _, after, _ = begun("a2c", num_steps=21, num_envs=20, env=dict(name="cartpole", max_steps=3))
    assert after["recent"]["return"].shape == (20, 5)
    assert (after["recent"]["return"] == 3).all() and (after["recent"]["known"] == 1).all()
    _, _, after, _ = begun("a2c", num_steps=7, num_envs=20, env=dict(name="cartpole", max_steps=3))
    assert after["recent"]["known"].tolist() == [[1, 1, 0, 0, 0]] * 20
    assert after["episode"]["length"].tolist() == [1.0] * 20 == after["episode"]["return"].tolist()


def test_a_restored_policy_acts_as_it_was_evaluated(tmp_path):
    """Its observations are normalised by the run's moments: the returns of run.act are those of the evaluation."""
    config = config_for("ppo", env=dict(name="pendulum", max_steps=15), data=dict(normalize=("obs",), eval_episodes=16),
                        steps=4, eval_every=4, save_every=4, best="max eval/return")
    summary = fit(config, tmp_path, mesh=mesh_of(1))
    policy = kj.restore(tmp_path)
    assert policy.variables["source"]["moments"]["obs"]["count"] == 4 * 16 * 8
    env, total = kj.envs.make_env("pendulum", max_steps=15), np.zeros(16)
    keys = jax.vmap(jax.random.split)(example_keys(jax.random.key(EVALUATION), jnp.arange(16)))[:, 0]
    state, obs = jax.vmap(env.reset)(keys)
    for t in range(15):
        state, out = jax.vmap(env.step)(state, policy.act(obs), keys)
        total, obs = total + out.reward, out.obs
    np.testing.assert_allclose(total.mean(), summary["eval/return"], rtol=1e-4)
    raw = policy.task.predict({k: v for k, v in policy.variables.items() if k != "source"} | {"source": {"moments": {
        "obs": running_stats.init((3,))}}}, obs)
    assert not np.allclose(raw, policy.act(obs))
    assert (tmp_path / "episode.gif").read_bytes()[:6] == b"GIF89a"


# ---------------------------------------------------------------------------------------------------- what else it can

def test_a_supervised_policy_with_batch_norm_plays(tmp_path):
    """A CNN with BatchNorm learns, by cross-entropy, the way down the distances to the goal from the states that it visits
    itself (DAgger, Ross et al. 2011): the rollout sees its running statistics, and evaluation too."""
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
        distance = jnp.pad(shortest_path(walls, jnp.stack(jnp.unravel_index(goal.argmax(), goal.shape))), 1,
                           constant_values=1e6)
        at = jnp.stack(jnp.unravel_index(agent.argmax(), agent.shape)) + 1
        around = jax.vmap(lambda move: distance[tuple(at + move)])(moves)
        return around.argmin()

    def act(variables, obs, keys):
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        return jax.vmap(jax.random.categorical)(keys, kj.apply(model, params, state, obs)[0]), {}

    def examples(trajectory, variables):
        return {"obs": trajectory["obs"], "action": jax.vmap(jax.vmap(best_action))(trajectory["obs"]),
                "weight": jnp.ones(trajectory["reward"].shape)}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["obs"], key)
        right = (logits.argmax(-1) == batch["action"]).astype(jnp.float32)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])
        return {"nll": kj.mean(nll, batch["weight"])}, {"right": kj.mean(right, batch["weight"])}, model_state

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
    # It plays with its running statistics: with others it would choose otherwise.
    obs, keys = state.source["obs"], jax.random.split(jax.random.key(3), 16)
    other = jax.tree.map(lambda x: jnp.flip(x) + 1, state.model_state)
    assert (act(state.variables, obs, keys)[0] != act({**state.variables, **other}, obs, keys)[0]).any()


@pytest.mark.parametrize("options", [dict(env=dict(name="grid_nav", masked=True), discount=0.9),
                                     dict(env=dict(name="reacher"), data=dict(normalize=("obs", "reward")))], ids=str)
def test_masks_and_boxes_train(options):
    end = run(config_for("ppo", steps=4, data={**dict(minibatches=2, epochs=2), **options.pop("data", {})}, **options), None,
              mesh_of(1), steps=4)
    assert np.isfinite(end.metrics["loss"]).all() and (end.metrics["grad_norm"] > 0).all()


# --------------------------------------------------------------------------------------------------- many devices

def collectives(task, **options):
    """Of the rollout alone, on 8 devices with replicated parameters: {kind: bytes}."""
    from karpjax.precompile.hlo import collectives
    exp = assemble(config_for(task, num_envs=16, **options), None, mesh_of(8))
    state = exp.fresh_state()
    def rollout(state):
        source_state, chunk = exp.source.advance({}, state.source, state.variables)
        return source_state, sharding.constrain_batch(exp.mesh, exp.source.batch({}, chunk, 0))
    text = jax.jit(rollout, out_shardings=(exp.shardings.source, None)).lower(state).compile().as_text()
    return {kind: size for kind, (n, size) in collectives(text).items()}


def test_a_rollout_crosses_devices_only_to_normalise():
    """REINFORCE's and PPO's: sums of a few numbers; none where nothing is normalised."""
    found = collectives("ppo", data=dict(minibatches=2, epochs=2))
    assert set(found) <= {"all-reduce"} and found["all-reduce"] < 100
    assert collectives("ppo", data=dict(minibatches=2), normalize_advantages=False) == {}


def test_the_step_only_adds_up():
    from karpjax.precompile.hlo import collectives
    exp = assemble(config_for("ppo", num_envs=16, data=dict(minibatches=2), dispatch="scan"), None, mesh_of(8))
    text = Programs(exp).lower(exp.fresh_state(), {}, 2).compile().as_text()
    assert set(collectives(text)) == {"all-reduce"}


# --------------------------------------------------------------------------------------------------------- bad input

def test_without_a_baseline_there_is_no_value_network():
    names = lambda baseline: set(assemble(config_for("reinforce", baseline=baseline), None, mesh_of(1)).abstract.params)
    assert names(False) == {"policy", "policy_torso"} and names(True) == {"policy", "policy_torso", "value", "value_torso"}
    shared = config_for("ppo", model=dict(name="actor_critic", width=8, shared=True))
    assert set(assemble(shared, None, mesh_of(1)).abstract.params) == {"policy", "torso", "value"}


class TwoSwitches(Contextual):
    """Reward for each of two switches that is set as the observation's sign says."""
    actions = MultiDiscrete((2, 3))

    def step(self, state, action, key):
        _, out = super().step(state, action[0], key)
        wanted = jnp.stack([state["obs"][0] > 0, 2 * (state["obs"][1] > 0)]).astype(jnp.int32)
        return state, out._replace(reward=(action == wanted).sum().astype(jnp.float32))


def test_several_choices_at_once_are_learned(monkeypatch):
    build = ppo.build
    monkeypatch.setattr(ppo, "build", lambda config: build(config, env=TwoSwitches()))
    config = config_for("ppo", data=dict(num_envs=16, num_steps=16, minibatches=2, epochs=4), steps=800, dispatch="scan",
                        steps_per_dispatch=800, optimizer=dict(name="adam", learning_rate=5e-3))
    returns = run(config, None, mesh_of(1), steps=800).metrics["return"]
    assert returns[-20:].mean() > 1.8 > 1.3 > returns[8:16].mean()


def test_only_a_policy_acts(tmp_path):
    config, task_file = config_of("poly", steps=4, eval_every=4, save_every=4)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    with pytest.raises(kj.UserError, match="has no act; it offers predict, features"):
        kj.restore(tmp_path).act(np.zeros((1, 8, 8, 1)))


# --------------------------------------------------------------------------------------- environments that are refused

def with_step(**changes):
    class Changed(Contextual):
        def step(self, state, action, key):
            state, out = super().step(state, action, key)
            return state, out._replace(**{name: change(getattr(out, name)) for name, change in changes.items()})
    return Changed()


def without(name):
    class Lacks:
        pass
    for part in {"reset", "step", "actions", "max_steps"} - {name}:
        setattr(Lacks, part, getattr(Contextual, part))
    return Lacks()


def with_actions(actions):
    env = Contextual()
    env.actions = actions
    return env


def with_a_key():
    env = Contextual()
    env.reset = lambda key: ({"obs": jnp.zeros(4), "key": key}, jnp.zeros(4))
    return env


@pytest.mark.parametrize("env, says", [
    (without("max_steps"), "lacks max_steps"), (without("step"), "lacks step"),
    (with_actions(3), r"expected Discrete\(n\)"), (with_actions(Box(-1.0, 1.0)), "expected Discrete"),
    (with_actions(Box((-np.inf,), (np.inf,))), "finite"), (with_actions(Box((1.0,), (1.0,))), "low below high"),
    (with_a_key(), "keeps a PRNG key"), (with_step(reward=lambda r: r[None]), "returns a reward of"),
    (with_step(obs=lambda o: o[:2]), "returns an observation of"), (with_step(terminated=jnp.float32), "returns terminated of"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_an_environment_that_breaks_the_protocol(env, says):
    with pytest.raises(kj.UserError, match=says):
        ppo.build(config_for("ppo"), env=env)


@pytest.mark.parametrize("change, says", [
    (dict(env="cartpole"), "expected dict"), (dict(discount=1.5), "config.discount: expected 0 to 1"),
    (dict(data=dict(minibatches=0)), "config.data.minibatches: expected at least 1"),
    (dict(data=dict(epochs=0)), "config.data.epochs"), (dict(data=dict(normalize="obs")), "in brackets"),
    (dict(clip=0.0), "config.clip: expected more than 0"), (dict(target_kl=-1.0), "config.target_kl: expected 0"),
    (dict(target_kl=0.01, accumulate=2), "config.accumulate = 1"), (dict(overfit=True), "config.overfit repeats"),
    (dict(env=dict(name="cartpol")), "did you mean 'cartpole'"),
    (dict(env=dict(name="cartpole", max_step=3)), "max_step"),
    (dict(data=dict(minibatches=3)), "use a num_steps that 3 divides"),
    (dict(data=dict(normalize=("rewards",))), "rewards"),
    (dict(data=dict(epoch=2)), "epoch"),
    (dict(model=dict(name="actor_critic", torso="mpl")), "config.model.torso"),
    (dict(clipp=0.2), "clip"),
    (dict(normalize_advantages="no"), "config.normalize_advantages: expected True or False, found 'no'"),
])
def test_bad_input(change, says):
    with pytest.raises(kj.UserError, match=says):
        assemble(config_for("ppo", **change), None, mesh_of(1))


@pytest.mark.parametrize("key", ["discount", "gae_lambda", "clip", "target_kl", "env"])
def test_a_key_that_is_missing(key):
    config = config_for("ppo")
    with config.unlocked():
        del config[key]
    with pytest.raises(kj.UserError, match=f"config.{key} is missing"):
        ppo.build(config)


def test_an_environment_that_returns_nan(tmp_path, monkeypatch):
    """The step is skipped, the run stops in one line, its batch and the checkpoint from before are there."""
    from karpjax.core.errors import NotFinite
    from karpjax.envs.cartpole import CartPole
    step = CartPole.step

    def broken(self, state, action, key):
        state, out = step(self, state, action, key)
        return state, out._replace(reward=jnp.where(state["time"] >= 12, jnp.nan, out.reward))
    monkeypatch.setattr(CartPole, "step", broken)
    config = config_for("a2c", num_steps=4, num_envs=8, steps=40, save_every=1, eval_every=40, log_every=1, dispatch="step")
    with pytest.raises(NotFinite, match="was not finite"):
        fit(config, tmp_path, mesh=mesh_of(1))
    saved = kj.restore(tmp_path)
    assert saved.step >= 1 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))
    assert np.isnan(np.load(next((tmp_path / "nonfinite").glob("*.npz")))["target"]).any()


def test_evaluation_takes_no_more_environments_than_it_needs():
    """A rollout of 64 environments and an evaluation of 5 episodes: 8 are played, one a device, and each seed once."""
    source = kj.sources.Rollout(kj.envs.make_env("cartpole"), act=None, examples=None, num_envs=64, num_steps=1, eval_episodes=5)
    batches = list(source.eval_batches("eval"))
    assert [len(batch["seed"]) for batch in batches] == [8] and jax.device_count() == 8
    assert batches[0]["seed"][batches[0]["weight"] > 0].tolist() == [0, 1, 2, 3, 4]
    source.eval_episodes = 0
    assert not list(source.eval_batches("eval"))
