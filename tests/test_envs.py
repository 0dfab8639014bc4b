"""The embedded environments: against Gymnasium, and what the protocol promises of each."""
import functools
import importlib.util
import pathlib
import re
import sys

from data.goldens import make_envs
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
from rl_helpers import at_random, equal, KEYS, play, returns

from karpjax import envs, UserError
from karpjax.envs import reacher
from karpjax.envs.protocol import auto_reset

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens" / "envs.npz"
NEEDS_GYMNASIUM = pytest.mark.skipif(not importlib.util.find_spec("gymnasium"),
                                     reason="Gymnasium is not installed")
MASKED = {"grid_nav": {"masked": True}}
DEAR = ("highway",)  # to compile: in the full run, and in test_highway.py
EACH = pytest.mark.parametrize("name, options", [
    pytest.param(name, MASKED.get(name, {}), marks=[pytest.mark.full] * (name in DEAR))
    for name in envs.ENVIRONMENTS])
NEVER_TERMINATE = ("pendulum", "reacher")


# ---------------------------------------------------------------------------------------- Gymnasium

OURS = {"CartPole-v1": ("cartpole", "obs"), "Acrobot-v1": ("acrobot", "joints"),
        "Pendulum-v1": ("pendulum", "joint")}


@pytest.mark.parametrize("source", ["golden", pytest.param("live", marks=NEEDS_GYMNASIUM)])
@pytest.mark.parametrize("name", OURS)
def test_a_step_is_gymnasiums(name, source):
    """A step from each of hundreds of states is Gymnasium's.

    None of them ends within rounding of a threshold, so that `terminated` is the same too.
    """
    stored = np.load(GOLDENS)
    expected = {key.split("/")[1]: stored[key] for key in stored if key.startswith(name)}
    if source == "live":
        equal(make_envs.roll(name), expected, atol=1e-6)
        expected = make_envs.roll(name, seed=1)
    ours, part = OURS[name]
    env = envs.make_env(ours)
    state = {part: jnp.asarray(expected["state"]),
             "time": jnp.zeros(len(expected["state"]), jnp.int32)}
    step = jax.jit(jax.vmap(env.step, (0, 0, None)))
    state, out = step(state, jnp.asarray(expected["action"]), None)
    np.testing.assert_allclose(state[part], expected["after"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(out.obs, expected["obs"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(out.reward, expected["reward"], rtol=1e-6, atol=1e-5)
    assert (out.terminated == expected["terminated"]).all()
    assert 10 < expected["terminated"].sum() < 100 or ours in NEVER_TERMINATE


@pytest.mark.parametrize("name, part, high",
                         [("cartpole", "obs", [0.05] * 4), ("acrobot", "joints", [0.1] * 4),
                          ("pendulum", "joint", [np.pi, 1.0])])
def test_starts_are_gymnasiums(name, part, high):
    """Starts are uniform between -high and high, by their extremes and their spread."""
    keys = jax.random.split(jax.random.key(0), 4000)
    states, _ = jax.jit(jax.vmap(envs.make_env(name).reset))(keys)
    starts = states[part] / np.array(high)
    assert (np.abs(starts) <= 1).all() and (starts.max(0) > 0.99).all()
    assert (starts.min(0) < -0.99).all()
    np.testing.assert_allclose(starts.std(0), 3**-0.5, rtol=0.05)


# ------------------------------------------------------------------------------------- the protocol

@EACH
def test_shapes_and_types_stay(name, options):
    """A step's state and observation have a reset's shapes and types, alone and in a batch."""
    env = envs.make_env(name, **options)

    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

    @jax.jit
    def one(key):
        state, obs = env.reset(key)
        after, out = env.step(state, at_random(env)(state, obs, key), key)
        assert kinds(after) == kinds(state) and kinds(out.obs) == kinds(out.final_obs) == kinds(obs)
        assert (out.reward.shape, out.reward.dtype) == ((), jnp.float32)
        assert all(x.shape == () and x.dtype == bool for x in (out.terminated, out.truncated))
        assert all(x.dtype in (jnp.float32, jnp.int32, bool) for x in jax.tree.leaves((state, obs)))
        return state, obs, after, out
    equal(jax.tree.map(lambda x: x[3], jax.jit(jax.vmap(one))(KEYS)), one(KEYS[3]), atol=1e-6)


@functools.cache
def random_play(name):
    """Return (env, states, TimeSteps) of 120 random steps, in episodes of at most 30."""
    env = envs.make_env(name, max_steps=30)
    return env, *play(env, at_random(env), 120)


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_episodes_end(name):
    """An episode is truncated after `max_steps`, and a new one begins."""
    env, state, out = random_play(name)
    over = out.terminated | out.truncated
    before = np.concatenate([np.zeros((len(KEYS), 1), int), state["time"][:, :-1]], 1)
    assert (state["time"] == np.where(over, 0, before + 1)).all() and before.max() == 29
    assert out.truncated.any() and (out.truncated == (before == 29) & ~out.terminated).all()
    # Acrobot needs more than 30 steps.
    assert out.terminated.any() == (name in ("cartpole", "grid_nav", "highway"))


@pytest.mark.parametrize("name, action, part", [
    ("cartpole", 1, {"obs": jnp.array([2.39, 1.0, 0.0, 0.0])}),
    ("acrobot", 1, {"joints": jnp.array([jnp.pi, 0.0, 0.0, 0.0])}),
    ("grid_nav", 2, {"agent": jnp.array([4, 4]), "goal": jnp.array([4, 3]),
                     "walls": jnp.zeros((8, 8), bool)}),
    ("highway", 1, {"x": 4.0 * jnp.arange(21), "y": jnp.zeros(21),
                    "target_lane": jnp.zeros(21, jnp.int32)})])
def test_an_end_at_the_last_moment_is_no_truncation(name, action, part):
    env = envs.make_env(name)
    state = {**jax.jit(env.reset)(KEYS[0])[0], **part, "time": jnp.int32(env.max_steps - 1)}
    _, out = jax.jit(env.step)(state, jnp.int32(action), KEYS[1])
    assert out.terminated and not out.truncated


BOUNDS = {
    "cartpole": lambda s: np.abs(s["obs"][..., [0, 2]]) <= np.float32([2.4, 12 * 2 * np.pi / 360]),
    "acrobot": lambda s: np.abs(s["joints"]) <= np.float32([np.pi, np.pi, 4 * np.pi, 9 * np.pi]),
    "pendulum": lambda s: np.abs(s["joint"]) <= [np.pi + 30 * 0.05 * 8, 8.0],
    "grid_nav": lambda s: (s["agent"] >= 0) & (s["agent"] < 8),
    "reacher": lambda s: np.abs(s["speeds"]) <= 10,
    "highway": lambda s: ((np.abs(s["heading"]) < 1.6) & (np.abs(s["speed"]) <= 31)
                          & (np.abs(s["y"] - 4) < 10)),
}


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_states_are_bounded_and_differ(name):
    env, state, out = random_play(name)
    assert BOUNDS[name](state).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    starts = out.obs[out.terminated | out.truncated]
    assert len(np.unique(starts.reshape(len(starts), -1), axis=0)) == len(starts) > 100


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_pictures(name):
    env, states, _ = random_play(name)

    def picture_of(e, t):
        return env.draw(jax.tree.map(lambda x: x[e, t], states))
    pictures = [picture_of(0, 0), picture_of(0, 4), picture_of(1, 4)]
    for picture in pictures:
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.float32
        assert picture.min() >= 0 and picture.max() <= 1
        assert 0.01 < (picture < 0.9).any(-1).mean() < 0.9
    assert min(np.abs(pictures[0] - pictures[1]).max(),
               np.abs(pictures[1] - pictures[2]).max()) > 0.3


@EACH
def test_auto_reset_keeps_the_final_observation(name, options):
    """Half of the environments are at their last step. They start again, the others go on."""
    env = envs.make_env(name, **options)

    @jax.vmap
    def one(key, last):
        state, obs = env.reset(key)
        state["time"] = jnp.where(last, env.max_steps - 1, 0)
        action, (step_key, reset_key) = at_random(env)(state, obs, key), jax.random.split(key)
        automatic = auto_reset(env, state, action, key)
        return automatic, env.step(state, action, step_key), env.reset(reset_key)
    last = np.arange(len(KEYS)) % 2 == 0
    results = jax.tree.map(np.asarray, jax.jit(one)(KEYS, last))
    (after, out), (stepped, plain), (fresh, start) = results
    over = plain.terminated | last

    def rows(where, *trees):
        return jax.tree.map(lambda x: x[where], trees)

    def differs(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return any((x[over] != y[over]).any() for x, y in pairs)
    equal(out._replace(obs=0), plain._replace(obs=0))
    equal(rows(over, after, out.obs), rows(over, fresh, start))
    equal(rows(~over, after, out.obs), rows(~over, stepped, plain.obs))
    assert differs(out.obs, out.final_obs) and 0 < over.sum() < len(KEYS)


@EACH
def test_environments_on_eight_devices_exchange_nothing(name, options):
    """A rollout's steps and resets compile to a program without collectives."""
    env = envs.make_env(name, **options)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))

    def rollout(keys):
        def one(carry, key):
            return auto_reset(env, carry[0], at_random(env)(*carry, key), key)
        return jax.vmap(one)(jax.vmap(env.reset)(keys), keys)

    def collectives(function):
        lowered = jax.jit(function, out_shardings=spread).lower(jax.device_put(KEYS, spread))
        text = lowered.compile().as_text()
        return re.findall("all-reduce|all-gather|all-to-all|collective-permute", text)
    assert not collectives(rollout)
    # The check can fail.
    assert collectives(lambda keys: jnp.cumsum(jax.vmap(jax.random.bits)(keys)))


def test_bad_names_and_options():
    for call, message in ((lambda: envs.make_env("pendulm"), "did you mean 'pendulum'"),
                          (lambda: envs.make_env("chess"),
                           "known: acrobot, cartpole, grid_nav, highway, pendulum, reacher"),
                          (lambda: envs.make_env("reacher", max_step=5),
                           "did you mean 'max_steps'"),
                          (lambda: envs.make_env("grid_nav", size=1), "expected size >= 2"),
                          (lambda: envs.make_env("grid_nav", walls=30.0),
                           "walls in 0 to 1, found size 8 and walls 30.0")):
        with pytest.raises(UserError, match=message):
            call()


# -------------------------- returns of random and of good policies, as each module's docstring says

def energy_and_pd(state, obs, key):
    """Give the pendulum the energy it has upright, then balance it."""
    cos, sin, omega = obs
    pump = 2 * (5 - 5 * cos - omega**2 / 6) * jnp.where(omega >= 0, 1, -1)
    return jnp.where(cos > 0.8, -12 * sin - 3 * omega, pump)[None]


GOOD = {
    "acrobot": lambda state, obs, key: jnp.where(obs[4] > 0, 0, 2),
    "pendulum": energy_and_pd,
    "reacher": lambda state, obs, key: reacher.controller(obs),
}


@pytest.mark.parametrize("name, numbers",
                         [("acrobot", (-499, -87)), ("pendulum", (-1251, -155)),
                          ("grid_nav", (-0.12,)), ("reacher", (-86, -10.5, -81))])
def test_returns_are_as_the_docstrings_say(name, numbers):
    env = envs.make_env(name)

    def nothing(state, obs, key):
        return jnp.zeros(2)
    policies = (at_random(env), GOOD.get(name), nothing)
    for number, policy in zip(numbers, policies, strict=False):
        assert f" {number}" in sys.modules[type(env).__module__].__doc__
        np.testing.assert_allclose(returns(env, policy, 256).mean(), number, rtol=0.04)


# ----------------------------------------------------------------------------- reacher and pendulum

def test_inverse_kinematics():
    """Both solutions bring the fingertip to the target, with the elbow on different sides."""
    target = jax.jit(jax.vmap(envs.make_env("reacher").reset))(KEYS)[0]["target"]
    angles = jax.jit(jax.vmap(reacher.inverse_kinematics))(target)  # (E, 2 solutions, 2 joints)
    tips = jax.jit(jax.vmap(jax.vmap(reacher.fingertip)))(angles)
    equal(tips, np.repeat(np.asarray(target)[:, None], 2, 1), atol=1e-5)
    bend = np.asarray(angles)[:, :, 1]
    equal(bend[:, 0], -bend[:, 1])
    assert np.abs(bend).min() > 0.1
    equal(reacher.fingertip(jnp.array([jnp.pi / 2, -jnp.pi / 2])), [1.0, 1.0], atol=1e-6)


def test_the_controller_reaches_every_target_and_stays():
    _, out = play(envs.make_env("reacher"), GOOD["reacher"], 50)
    distance = np.linalg.norm(out.final_obs[..., 8:], axis=-1)                              # (E, T)
    assert distance[:, 0].mean() > 1 and distance[:, 25:].max() < 0.02
    assert distance[:, -1].max() < 1e-3


def test_torques_are_clipped():
    for name, wild, legal in (("reacher", [7.0, -3.0], [1.0, -1.0]), ("pendulum", [-5.0], [-2.0])):
        env = envs.make_env(name)
        state, _ = env.reset(KEYS[0])
        equal(env.step(state, jnp.array(wild), None), env.step(state, jnp.array(legal), None))


def test_a_free_pendulum_keeps_its_energy():
    """The energy of symplectic Euler's method oscillates but does not drift."""
    env = envs.make_env("pendulum")
    start = {"joint": jnp.array([1.0, 0.0]), "time": jnp.int32(0)}

    def step(state, _):
        after, _ = env.step(state, jnp.zeros(1), None)
        return after, after["joint"]
    theta, omega = jax.lax.scan(step, start, length=400)[1].T
    energy = omega**2 / 6 + 5 * jnp.cos(theta)
    assert np.abs(energy - 5 * np.cos(1.0)).max() < 0.8 and theta.max() > 5
    assert abs(energy[:200].mean() - energy[200:].mean()) < 0.05
