"""The losses of policy gradients: rlax's numbers, exact gradients, and values that are known."""
import itertools
import pathlib

from flax import linen as nn
from guarantees.harness import mesh_of, named, run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import begun, config_for, Contextual, trained_params

import karpjax as kj
from karpjax.core.step import PRECISIONS
from karpjax.core.trees import cast_floating
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete
from karpjax.rl import distributions
from karpjax.tasks import a2c, ppo, reinforce
from karpjax.tasks.agent import Agent
from karpjax.tasks.ppo import value_error

RLAX = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "rlax.npz")


# ------------------------------------------------------------------------------------------- losses

def losses_on_rlax_s_input(module, monkeypatch, **values):
    """Return the losses and metrics of a task whose network answers with rlax's logits."""
    class Answers(nn.Module):
        @nn.compact
        def __call__(self, obs, train=False):
            return jnp.asarray(RLAX["logits"]), jnp.zeros(RLAX["action"].shape)

    monkeypatch.setattr(kj.models, "make_model", lambda options, **given: Answers())
    task = module.build(config_for(module.__name__.split(".")[-1], **values), env=Contextual())
    action = jnp.asarray(RLAX["action"])
    log_prob = distributions.Categorical(jnp.asarray(RLAX["logits"])).log_prob(action)
    ones = jnp.ones(action.shape)
    batch = {"obs": ones, "action": action, "advantage": jnp.asarray(RLAX["advantage"]),
             "weight": ones, "target": ones, "value": ones, "return": ones,
             "log_prob": log_prob - RLAX["log_ratio"],
             "recent": {name: jnp.ones((5, 2)) for name in ("return", "length", "known")}}
    losses, metrics, _ = task.loss({"unused": jnp.ones(1)}, {}, batch, None)
    return {name: total / count for name, (total, count) in {**losses, **metrics}.items()}


@pytest.mark.parametrize("module, name",
                         [(reinforce, "policy_gradient"), (a2c, "policy_gradient"),
                          (ppo, "clipped")],
                         ids=["reinforce", "a2c", "ppo"])
def test_losses_are_rlax_s(module, name, monkeypatch):
    values = losses_on_rlax_s_input(module, monkeypatch)
    np.testing.assert_allclose(values["policy"], RLAX[f"rlax/{name}"], rtol=1e-5)
    np.testing.assert_allclose(values["entropy"], -RLAX["rlax/entropy"], rtol=1e-5)
    if module is not reinforce:
        bonus = losses_on_rlax_s_input(module, monkeypatch,
                                       entropy_coefficient=0.5)["entropy_bonus"]
        np.testing.assert_allclose(bonus, RLAX["rlax/entropy"] / 2, rtol=1e-5)
        # The values are 0, their targets 1, the coefficient 1/2.
        np.testing.assert_allclose(values["value"], 0.5)
    if module is ppo:
        np.testing.assert_allclose(values["clipped"],
                                   np.mean(np.abs(np.exp(RLAX["log_ratio"]) - 1) > 0.2))


def test_value_clip():
    """Within the clip the error counts. Beyond it, going on gains nothing.

    The old value is 0, the target 1.
    """
    batch = {"value": jnp.zeros(4), "target": jnp.ones(4)}
    values = jnp.array([-0.5, 0.1, 0.2, 0.8])
    assert np.allclose(value_error(values, batch, 0.0), [2.25, 0.81, 0.64, 0.04])
    assert np.allclose(value_error(values, batch, 0.2), [2.25, 0.81, 0.64, 0.64])
    slope = jax.vmap(jax.grad(lambda v: value_error(v, {"value": 0.0, "target": 1.0}, 0.2)))(values)
    assert slope[3] == 0 and (slope[:2] < 0).all()


@pytest.mark.parametrize("options", [
    pytest.param({}, marks=pytest.mark.full),
    {"env": dict(name="pendulum"), "data": dict(normalize=("obs", "reward"))},
    {"env": dict(name="pendulum"), "precision": "bf16"}], ids=str)
def test_ratio_is_1_before_anything_was_learned(options):
    """The loss sees exactly the observations and probabilities that the rollout kept.

    The step's own compilation may round otherwise. Here both are compiled alike.
    """
    options = {**options, "data": {**dict(minibatches=2, epochs=2), **options.get("data", {})}}
    exp, state, _, chunk = begun("ppo", **options)
    agent = Agent(config_for("ppo", **options), own=ppo.OWN)
    batch = exp.source.batch({}, chunk, 0)
    dtype = PRECISIONS[options.get("precision", "fp32")]  # as the step casts

    @jax.jit
    def ratio(params):
        policy = agent(cast_floating(params, dtype), {}, batch["obs"])[0]
        return jnp.exp(policy.log_prob(batch["action"]) - batch["log_prob"])
    np.testing.assert_array_equal(ratio(state.params), 1.0)
    moved = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(p.size), p.shape),
                         state.params)
    assert jnp.abs(ratio(moved) - 1).max() > 1e-3


def test_target_kl_stops_learning():
    """Beyond the target, the policy and value losses of the later minibatches count nothing."""
    def steps(target_kl):
        config = config_for("ppo", data=dict(epochs=6), target_kl=target_kl, steps=6,
                            dispatch="step", optimizer=dict(name="sgd", learning_rate=0.5))
        return run(config, None, mesh_of(1), steps=6).metrics
    free, held = steps(0.0), steps(1e-4)
    assert held["approx_kl"][0] == 0 and held["policy"][0] == free["policy"][0] != 0
    assert (free["approx_kl"][2:] > 1e-4).all() and (free["value"] != 0).all()
    over = held["approx_kl"] > 1e-4
    assert over.any() and (held["value"][over] == 0).all() and (held["grad_norm"][over] == 0).all()


def test_target_kl_is_judged_by_the_learner_s_moves():
    """A pool's player acts by another policy: its moves, of weight 0, do not stop learning."""
    task = ppo.build(config_for("ppo", target_kl=0.01), env=Contextual())
    params = task.init(jax.random.key(0))["params"]
    obs = jnp.ones((4, 2, 4))
    action = jnp.zeros((4, 2), jnp.int32)
    own = Agent(config_for("ppo"), own=ppo.OWN, env=Contextual())(params, {}, obs)[0]
    others = jnp.array([0.0, 0.0, 0.0, 3.0])[:, None]  # the last environment's policy is far away
    batch = {"obs": obs, "action": action, "log_prob": own.log_prob(action) - others,
             **{name: jnp.ones((4, 2)) for name in ("advantage", "target", "value")},
             "recent": {name: jnp.ones((4, 2)) for name in ("return", "length", "known")}}

    def policy_loss(weight):
        losses, _, _ = task.loss(params, {}, {**batch, "weight": weight}, None)
        return losses["policy"]
    total, count = policy_loss(jnp.ones((4, 2)).at[3].set(0.0))
    assert count == 6 and total == pytest.approx(-6.0, rel=1e-5)  # the ratio is 1, the advantage 1
    assert policy_loss(jnp.ones((4, 2)))[1] == 0


# ---------------------------------------------------------------------------------- exact gradients

class ThreeStates:
    """A chain of three states and two actions, with a table of rewards. Episodes have 3 steps."""
    actions, max_steps = Discrete(2), 3
    reward = jnp.array([[1.0, -1.0], [0.0, 2.0], [3.0, -2.0]])
    arrives = jnp.array([[1, 2], [0, 2], [1, 0]])

    def reset(self, key):
        return {"at": jnp.int32(0), "time": jnp.int32(0)}, jnp.eye(3)[0]

    def step(self, state, action, key):
        at, time = self.arrives[state["at"], action], state["time"] + 1
        obs = jnp.eye(3)[at]
        reward = self.reward[state["at"], action]
        return {"at": at, "time": time}, TimeStep(obs, reward, time == 3, jnp.bool_(False), obs)


def test_policy_gradient_theorem():
    """REINFORCE's gradient over 60,000 episodes is the exact gradient of the expected return.

    The exact one enumerates all 8 sequences of actions. The task divides advantages by their
    deviation and averages over steps, which `scale` undoes.
    """
    env, discount = ThreeStates(), 0.8
    config = config_for("reinforce", num_steps=3, num_envs=60_000, discount=discount,
                        model=dict(name="actor_critic", width=4))
    task = reinforce.build(config, env=env)
    params = task.init(jax.random.key(0))["params"]
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape),
                          params)

    def expected_return(params):
        logits, _ = task.model.apply({"params": params}, jnp.eye(3))
        log_p, total = jax.nn.log_softmax(logits), 0.0
        for actions in itertools.product(range(2), repeat=3):
            at, p, gain = 0, 0.0, 0.0
            for t, a in enumerate(actions):
                p, gain = p + log_p[at, a], gain + discount**t * env.reward[at, a]
                at = int(env.arrives[at, a])
            total = total + jnp.exp(p) * gain
        return total

    def surrogate(params, batch):
        losses, _, _ = task.loss(params, {}, batch, None)
        return losses["policy"][0] / losses["policy"][1]

    state = task.source.init(jax.random.key(1))
    _, chunk = jax.jit(task.source.advance)({}, state, {"params": params})
    batch = task.source.batch({}, chunk, 0)
    # The theorem's weight is the return from step t, discounted from the start of the episode.
    # The usual loss drops this discount**t.
    batch["advantage"] = batch["advantage"] * discount ** jnp.arange(3)
    gradient = jax.grad(surrogate)(params, batch)
    exact = jax.grad(expected_return)(params)
    scale = -3 * float(jnp.std(batch["return"]))
    for name, value in named(exact).items():
        if "value" not in name:
            np.testing.assert_allclose(scale * named(gradient)[name], value,
                                       atol=0.02 * max(1, np.abs(value).max()), err_msg=name)
    assert max(np.abs(value).max() for value in named(exact).values()) > 0.2


# ---------------------------------------------------------------------------- values that are known

class Known:
    """Environments whose values are known, after rejax's and PureJaxRL's tests.

    The observation x is -1 or 1.

    "one"        a single step of reward 1: V = 1
    "sign"       a single step of reward x: V = x
    "later"      two steps, the reward 1 at the second: V = discount, then 1
    "endless"    reward 1 a step, never terminated, cut after 5: V = 1 / (1 - discount),
                 if a cut is not taken for an end
    "choose"     a single step: reward 1 for the action that is x's: V = 1 once it is learned
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
        reward = {"one": 1.0, "sign": state["x"], "later": state["time"] * 1.0, "endless": 1.0,
                  "choose": right}[self.kind]
        state = {**state, "time": state["time"] + 1}
        over = state["time"] >= self.max_steps
        endless = jnp.bool_(self.kind == "endless")
        return state, TimeStep(self.obs(state), jnp.float32(reward), over & ~endless,
                               over & endless, self.obs(state))


@pytest.mark.full
@pytest.mark.parametrize("task", [pytest.param(a2c, marks=pytest.mark.full), ppo],
                         ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.parametrize("kind, wanted", [
    pytest.param("one", {(1, 0): 1, (-1, 0): 1}, marks=pytest.mark.full),
    pytest.param("sign", {(1, 0): 1, (-1, 0): -1}, marks=pytest.mark.full),
    pytest.param("later", {(1, 0): 0.5, (1, 1): 1}, marks=pytest.mark.full),
    ("endless", {(1, 0): 2, (-1, 0): 2}), ("choose", {(1, 0): 1, (-1, 0): 1})])
def test_values_that_are_known(task, kind, wanted, monkeypatch):
    name, env = task.__name__.split(".")[-1], Known(kind)
    epochs = {} if name == "a2c" else dict(epochs=4, minibatches=2)
    config = config_for(name, data=dict(num_envs=16, num_steps=16, **epochs), discount=0.5,
                        steps=400, dispatch="scan", steps_per_dispatch=400,
                        optimizer=dict(name="adam", learning_rate=5e-3))
    build = task.build
    monkeypatch.setattr(task, "build", lambda config: build(config, env=env))
    end = run(config, None, mesh_of(1), steps=400)
    model, states = end.experiment.task.model, jnp.array(list(wanted), jnp.float32)
    outputs, values = model.apply({"params": trained_params(end)}, states)
    np.testing.assert_allclose(values, list(wanted.values()), atol=0.1)
    if kind == "choose":
        assert outputs.argmax(-1).tolist() == [1, 0]
