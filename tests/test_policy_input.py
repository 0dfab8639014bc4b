"""Policy gradients refuse wrong environments, configs and numbers in one line."""
import contextlib

from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl_helpers import config_for, Contextual

import karpjax as kj
from karpjax.core.state import init_state
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box
from karpjax.run.experiment import assemble, check_loss
from karpjax.run.loop import fit
from karpjax.tasks import ppo


def test_without_a_baseline_there_is_no_value_network():
    def names(task, **values):
        return set(assemble(config_for(task, **values), None, mesh_of(1)).abstract.params)
    assert names("reinforce", baseline=False) == {"policy", "policy_torso"}
    both = {"policy", "policy_torso", "value", "value_torso"}
    assert names("reinforce", baseline=True) == both
    shared = dict(name="actor_critic", width=8, shared=True)
    assert names("ppo", model=shared) == {"policy", "torso", "value"}


@pytest.mark.full
def test_only_a_policy_acts(tmp_path):
    config, task_file = config_of("poly", steps=4, eval_every=4, save_every=4)
    fit(config, tmp_path, task_file=task_file, mesh=mesh_of(1))
    with pytest.raises(kj.UserError, match="has no act; it offers predict, features"):
        kj.restore(tmp_path).act(np.zeros((1, 8, 8, 1)))


# -------------------------------------------------------------------- environments that are refused

def with_step(**changes):
    class Changed(Contextual):
        def step(self, state, action, key):
            state, out = super().step(state, action, key)
            return state, out._replace(**{name: change(getattr(out, name))
                                          for name, change in changes.items()})
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


def like_gymnasium():
    env = Contextual()
    env.step = lambda state, action, key: (jnp.zeros(4), 0.0, False, False, {})
    return env


def that(**parts):
    """Return an environment with other functions and attributes."""
    env = Contextual()
    vars(env).update(parts)
    return env


def in_order_of(kind):
    """Return an environment whose reset and step return their values in another order."""
    obs, state, key = jnp.zeros(4), {"place": jnp.zeros(2), "time": jnp.int32(0)}, None
    out = TimeStep(obs, jnp.float32(0), jnp.bool_(False), jnp.bool_(False), obs)
    resets = {"gymnasium": (obs, {}), "info": (obs, {"seed": "none"}), "gymnax": (obs, state),
              "old": obs, "three": (state, obs, key)}
    steps = {"gymnasium": (obs, 0.0, False, False, {}), "gymnax": (obs, state, 0.0, False, {}),
             "swapped": (out, state), "four": (state, obs, 0.0, False)}
    return that(reset=lambda key: resets.get(kind, (state, obs)),
                step=lambda state, action, key: steps.get(kind, (state, out)))


def observing(obs, actions=None):
    return that(reset=lambda key: ({}, obs), actions=actions or Contextual.actions)


def slips(*args):
    return jnp.zeros(3) @ jnp.zeros(4)


LEGAL = jnp.ones(3, bool)
IN_ORDER = "a reset returns the state first and the observation second"


@pytest.mark.parametrize("env, says", [
    (in_order_of("gymnasium"), "observation {}, expected one array or .*; " + IN_ORDER),
    (in_order_of("info"), r"failed in reset\(key\): TypeError"),
    (in_order_of("gymnax"), r"returns the observation {'place': float32\[2\], 'time': int32\[\]}, "
     r"expected one array or {'obs': array, 'legal': \(3,\) bool}; " + IN_ORDER),
    (in_order_of("old"), r"the reset of .* returns float32\[4\], expected \(state, obs\)"),
    (in_order_of("three"), r"returns \({'place': .*, expected \(state, obs\)"),
    (in_order_of("swapped"), r"without obs, .* found \(TimeStep, {'place'"),
    (in_order_of("four"), r"expected \(state, TimeStep\), found \({.*}, float32\[4\], "),
    (observing({"north": jnp.zeros(2), "south": jnp.zeros(2)}), "observation {'north'"),
    (observing((jnp.zeros(2), jnp.zeros(2))), r"observation \(float32\[2\], float32\[2\]\)"),
    (observing({"observation": jnp.zeros(4), "action_mask": LEGAL}), "'action_mask': bool"),
    (observing({"obs": jnp.zeros(4), "legal": LEGAL[:2]}), r"'legal': bool\[2\]"),
    (observing({"obs": jnp.zeros(4), "legal": jnp.ones(3)}), r"'legal': float32\[3\]"),
    (observing({"obs": {"a": jnp.zeros(4)}, "legal": LEGAL}), "'obs': {'a': float32"),
    (observing({"obs": jnp.zeros(4), "legal": LEGAL}, Box((0.0,), (1.0,))), "expected one array; "),
    (that(reset=slips), r"failed in reset\(key\): TypeError: .*\(test_policy_input.py, line "),
    (that(step=slips), r"failed in step\(state, .*, {'obs': float32\[4\]}: TypeError"),
    (that(reset=lambda seed=None, *, options: 0), r"failed in reset\(key\): TypeError"),
    (that(step=lambda action: 0), r"failed in step\(state, action, key\), .*: TypeError"),
    (Contextual, r"found a class; make one: env=Contextual\(\)"),
    (that(max_steps=None), "max_steps: expected a whole number, at least 1, found None"),
    (that(max_steps=0), "at least 1, found 0"), (that(players=2), "lacks to_move"),
    (that(players=2, to_move=len), "expected {'obs': array, 'legal': "),
], ids=lambda x: x if isinstance(x, str) else "")
def test_an_environment_in_another_projects_order(env, says):
    """One line names the part, what it returned and the order that is expected."""
    with pytest.raises(kj.UserError, match=says) as refused:
        ppo.build(config_for("ppo"), env=env)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape, model, says", [
    ((4, 84, 84), dict(torso="atari"), "config.model.torso = 'atari': expected images (H, W, C), "),
    ((3, 8, 9), {}, "config.model.torso = 'conv': expected images (H, W, C), "),
    ((1, 6, 7), dict(name="board"), "config.model.name = 'board': expected boards (H, W, C), "),
    ((3, 8, 9), dict(torso="mlp"), ""), ((8, 9, 3), {}, ""), ((4, 4, 9), {}, "")],
    ids=["atari", "conv", "board", "mlp", "last", "small"])
def test_observations_with_the_channels_first(shape, model, says):
    """A network that convolves refuses them as a training begins. A model of before restores."""
    obs = jnp.zeros(shape)
    out = TimeStep(obs, jnp.float32(0), jnp.bool_(False), jnp.bool_(False), obs)
    env = that(reset=lambda key: ({}, obs), step=lambda state, action, key: ({}, out))
    config = config_for("ppo", model={"name": "actor_critic", "width": 8, **model})
    task = ppo.build(config, env=env)
    with pytest.raises(kj.UserError) if says else contextlib.nullcontext() as error:
        state = jax.eval_shape(lambda: init_state(task, optax.sgd(0.1), 0))
        check_loss(task, task.source, state, 1)
    if says:
        assert str(error.value) == (
            f"{says}found observations {shape}, which have the channels first; move them to the "
            "end (Gymnasium's: by gymnasium.wrappers.TransformObservation)")


def test_spaces_and_environments_of_gymnasium():
    gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
    with pytest.raises(kj.UserError, match=r"Discrete\(3\) of gymnasium.*; take that of karpjax"):
        ppo.build(config_for("ppo"), env=with_actions(gymnasium.spaces.Discrete(3)))
    with pytest.raises(kj.UserError, match="lacks actions, max_steps; .*name='gymnasium:NAME'"):
        ppo.build(config_for("ppo"), env=gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("env, says", [
    (without("max_steps"), "lacks max_steps"), (without("step"), "lacks step"),
    (with_actions(3), r"expected Discrete\(n\)"),
    (with_actions(Box(-1.0, 1.0)), "expected Discrete"),
    (with_actions(Box((-np.inf,), (np.inf,))), "finite"),
    (with_actions(Box((1.0,), (1.0,))), "low below high"), (with_a_key(), "keeps a PRNG key"),
    (with_step(reward=lambda r: r[None]), "returns a reward of"),
    (with_step(obs=lambda o: o[:2]), "returns an observation of"),
    (with_step(terminated=jnp.float32), "returns terminated of"),
    (like_gymnasium(), r"a tuple without obs, .*, expected \(state, TimeStep"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_an_environment_that_breaks_the_protocol(env, says):
    with pytest.raises(kj.UserError, match=says):
        ppo.build(config_for("ppo"), env=env)


@pytest.mark.full
def test_an_environment_that_returns_nan(tmp_path, monkeypatch):
    """The run skips the step, keeps its batch and the checkpoint before it, and stops."""
    from karpjax.core.errors import NotFinite
    from karpjax.envs.cartpole import CartPole
    step = CartPole.step

    def broken(self, state, action, key):
        state, out = step(self, state, action, key)
        return state, out._replace(reward=jnp.where(state["time"] >= 12, jnp.nan, out.reward))
    monkeypatch.setattr(CartPole, "step", broken)
    config = config_for("a2c", num_steps=4, num_envs=8, steps=40, save_every=1, eval_every=40,
                        log_every=1, dispatch="step")
    with pytest.raises(NotFinite, match="was not finite"):
        fit(config, tmp_path, mesh=mesh_of(1))
    saved = kj.restore(tmp_path)
    assert saved.step >= 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))
    assert np.isnan(np.load(next((tmp_path / "nonfinite").glob("*.npz")))["target"]).any()


# ------------------------------------------------------------------------- configs that are refused

@pytest.mark.parametrize("change, says", [
    (dict(env="cartpole"), "expected dict"),
    (dict(discount=1.5), "config.discount: expected 0 to 1"),
    (dict(data=dict(minibatches=0)), "config.data.minibatches: expected at least 1"),
    (dict(data=dict(epochs=0)), "config.data.epochs"),
    (dict(data=dict(normalize="obs")), "in brackets"),
    (dict(clip=0.0), "config.clip: expected more than 0"),
    (dict(target_kl=-1.0), "config.target_kl: expected 0"),
    (dict(target_kl=0.01, accumulate=2), "config.accumulate = 1"),
    (dict(overfit=True), "config.overfit repeats"),
    (dict(env=dict(name="cartpol")), "did you mean 'cartpole'"),
    (dict(env=dict(name="cartpole", max_step=3)), "max_step"),
    (dict(data=dict(minibatches=3)), "use a num_steps that 3 divides"),
    (dict(data=dict(normalize=("rewards",))), "rewards"),
    (dict(data=dict(epoch=2)), "epoch"),
    (dict(model=dict(name="actor_critic", torso="mpl")), "config.model.torso"),
    (dict(clipp=0.2), "clip"),
    (dict(normalize_advantages="no"),
     "config.normalize_advantages: expected True or False, found 'no'"),
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
