"""The embedded motorway against highway-env's, state by state, and the real one if installed."""
import importlib.util
import pathlib
import sys

from data.goldens import make_highway
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.envs import highway

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens" / "highway.npz"
NEEDS_HIGHWAY = pytest.mark.skipif(not importlib.util.find_spec("highway_env"),
                                   reason="highway-env is not installed")
EPISODES = range(8)
METRES = {"x": 2e-3, "y": 1e-3, "heading": 1e-4, "speed": 2e-2, "timer": 1e-5, "impact": 1e-3}
ENV = highway.Highway()
STEPS = jax.jit(jax.vmap(ENV.step, (0, 0, None)))
STEP = jax.jit(ENV.step)


def golden(seed: int) -> dict:
    stored = np.load(GOLDENS)
    return {key.split("/", 1)[1]: stored[key] for key in stored if key.startswith(f"{seed}/")}


def states(episode: dict) -> dict:
    """Return an episode's states: leaves (T + 1, ...)."""
    state = {key.split("/")[1]: x for key, x in episode.items() if key.startswith("state/")}
    return {**state, "time": np.arange(len(episode["obs"]), dtype=np.int32)}


@pytest.mark.parametrize("source", ["golden", pytest.param("live", marks=NEEDS_HIGHWAY)])
def test_a_step_is_highway_envs(source):
    """A step from every state of episodes moves, observes, pays and ends as highway-env's.

    Positions agree to millimetres.
    """
    steps = crashes = changes = 0
    for seed in EPISODES:
        episode = golden(seed) if source == "golden" else make_highway.episode(100 + seed)
        theirs = states(episode)
        before, after = ({name: x[part] for name, x in theirs.items()}
                         for part in (slice(-1), slice(1, None)))
        ours, out = jax.device_get(STEPS(before, jnp.asarray(episode["action"]), None))
        for name, x in after.items():
            np.testing.assert_allclose(ours[name], x, rtol=0, atol=METRES.get(name, 0),
                                       err_msg=f"{seed} {name}")
        np.testing.assert_allclose(out.obs, episode["obs"][1:], atol=1e-4)
        np.testing.assert_allclose(out.reward, episode["reward"], atol=1e-5)
        assert (out.terminated == episode["terminated"]).all()
        steps, crashes = steps + len(out.reward), crashes + out.terminated.sum()
        changes += (after["target_lane"] != before["target_lane"])[:, 1:].sum()
    # Episodes without crashes and changes of lane would test little.
    assert steps > 80 and 2 <= crashes < len(EPISODES) and changes > 10


@pytest.mark.full
def test_an_episode_is_highway_envs():
    """An episode from its first state alone stays within centimetres for 30 steps."""
    for seed in EPISODES:
        episode = golden(seed)
        theirs = states(episode)
        state = {name: x[0] for name, x in theirs.items()}
        for t, action in enumerate(episode["action"]):
            state, out = jax.device_get(STEP(state, jnp.int32(action), None))
            for name in ("x", "y"):
                np.testing.assert_allclose(state[name], theirs[name][t + 1], rtol=0, atol=0.02)
            assert out.terminated == episode["terminated"][t]
            np.testing.assert_allclose(out.reward, episode["reward"][t], atol=1e-3)


def test_starts_are_spread_as_highway_envs():
    """Lanes and speeds are uniform, gaps grow with speed, and first observations are theirs.

    A gap is (12 + speed) exp(-3 / 8), within a tenth.
    """
    keys = jax.random.split(jax.random.key(0), 1000)
    state, obs = jax.device_get(jax.jit(jax.vmap(ENV.reset))(keys))
    in_lane = state["y"][:, None] == 4.0 * np.arange(3)[:, None]
    assert abs(in_lane.mean((0, 2)) - 1 / 3).max() < 0.02
    assert (state["speed"][:, 0] == 25).all() and (state["target_lane"] * 4 == state["y"]).all()
    for x, low, high in ((state["speed"][:, 1:], 21, 24), (state["delta"], 3.5, 4.5),
                         (state["timer"][:, 1:], 0, 1)):
        assert low <= x.min() < low + 0.01 and high - 0.01 < x.max() <= high
        assert abs(x.mean() - (low + high) / 2) < 0.02
    gap = np.diff(state["x"]) / ((12 + state["speed"][:, 1:]) * np.exp(-3 / 8))
    assert 0.9 <= gap.min() < 0.901 and 1.099 < gap.max() <= 1.1001
    for seed in EPISODES:
        first = {name: x[0] for name, x in states(golden(seed)).items()}
        np.testing.assert_allclose(ENV.observe(first), golden(seed)["obs"][0], atol=1e-6)
        gap = np.diff(first["x"]) / ((12 + first["speed"][1:]) * np.exp(-3 / 8))
        assert 0.899 < gap.min() and gap.max() < 1.101
        lag = (first["timer"] - (first["x"] + first["y"]) * np.pi)[1:] % 1
        assert np.minimum(lag, 1 - lag).max() < 1e-3


def placed(**parts) -> dict:
    """Return cars 30 m apart in the middle lane, all at 25 m/s and content.

    The first values of each part are replaced by those given.
    """
    n = ENV.vehicles + 1

    def fill(value, dtype=np.float32):
        return np.full(n, value, dtype)
    state = {"x": np.float32(30 * np.arange(n)), "y": fill(4), "heading": fill(0),
             "speed": fill(25), "target_lane": fill(1, np.int32), "target_speed": fill(25),
             "delta": fill(4), "timer": fill(0), "crashed": fill(False, bool),
             "impact": np.zeros((n, 2), np.float32), "time": np.int32(0)}
    for name, values in parts.items():
        state[name][:len(values)] = values
    return jax.tree.map(jnp.asarray, state)


def test_what_is_paid():
    """The reward is for speed from 20 to 30 m/s, lanes to the right, and no crash, scaled to 0..1.

    Off the road it is nothing.
    """
    far = 1000.0 + 30 * np.arange(20)  # the other cars
    for lane, speed, expected in ((0, 20, 1.0), (2, 20, 1.1), (2, 30, 1.5), (0, 30, 1.4),
                                  (1, 25, 1.25), (1, 5, 1.05)):
        state = placed(x=[0, *far], y=[4 * lane], target_lane=[lane], speed=[speed],
                       target_speed=[speed])
        _, out = STEP(state, jnp.int32(highway.IDLE), None)
        np.testing.assert_allclose(out.reward, expected / 1.5, atol=1e-5)
    crash = placed(x=[0, 4, *far[1:]])
    _, out = STEP(crash, jnp.int32(highway.IDLE), None)
    assert out.terminated and not out.truncated and out.reward < 0.25 / 1.5
    _, out = STEP(placed(x=[0, *far], y=[-3], target_lane=[0]), jnp.int32(highway.IDLE), None)
    assert out.reward > 0.5  # back on the road within a step
    _, out = STEP(placed(x=[0, *far], y=[-60], target_lane=[0]), jnp.int32(highway.IDLE), None)
    assert out.reward == 0


def test_what_the_actions_do():
    state = placed(x=[0, *(1000.0 + 30 * np.arange(20))])
    aims = {action: {name: x[0].item() for name, x in ENV.steer(state, jnp.int32(action)).items()
                     if name in ("target_lane", "target_speed")} for action in range(5)}

    def aim(lane, speed):
        return {"target_lane": lane, "target_speed": speed}
    assert aims == {highway.LEFT: aim(0, 25.0), highway.IDLE: aim(1, 25.0),
                    highway.RIGHT: aim(2, 25.0), highway.FASTER: aim(1, 30.0),
                    highway.SLOWER: aim(1, 20.0)}
    for action, y, speed in ((highway.LEFT, 0, 25), (highway.RIGHT, 8, 25), (highway.FASTER, 4, 30),
                             (highway.SLOWER, 4, 20)):
        after = state
        for _ in range(6):  # no further than the edge or the limit
            after, out = STEP(after, jnp.int32(action), None)
        np.testing.assert_allclose((after["y"][0], after["speed"][0]), (y, speed), atol=0.1)
        np.testing.assert_allclose(out.obs[0, 2:4], (y / 12, speed / 80), atol=0.01)


def test_who_has_not_gone_back_is_given_way_to():
    """A car on its way to a lane sees whether cars before it in the order have gone back.

    The order is highway-env's.
    """
    for x, expected in (((0, 10, 20), [1, 1, 0]), ((80, 40, 0), [0, 1, 0]),
                        ((20, 10, 0), [0, 1, 1]), ((0, 10, 400), [1, 0, 0])):
        state = placed(x=[500, *x], y=[4, 0, 0, 0], target_lane=[1, 1, 1, 1])
        apart = {**state, "x": state["x"].at[4:].add(5000.0)}
        gives_way = highway.gives_way(apart, ENV.lane(state), state["target_lane"])
        assert gives_way[1:4].astype(int).tolist() == expected


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_rectangles_collide(turn):
    """Rectangles collide by the separating axis theorem as they do by points of a fine grid."""
    rng = np.random.default_rng(0)
    points = np.stack(np.meshgrid(np.linspace(-2.5, 2.5, 60), np.linspace(-1, 1, 30)),
                      -1).reshape(-1, 2)
    x, y, heading = rng.uniform(-6, 6, 20), rng.uniform(-3, 3, 20), rng.uniform(-turn, turn, 21)
    state = placed(x=[0, *x], y=[0, *y], heading=heading, speed=np.zeros(21))
    cars = {name: value for name, value in state.items() if name != "time"}
    crashed = np.asarray(highway.collide(cars)["crashed"])

    def rotate(p, a):
        return np.stack([p[:, 0] * np.cos(a) - p[:, 1] * np.sin(a),
                         p[:, 0] * np.sin(a) + p[:, 1] * np.cos(a)], -1)
    for i in range(20):
        inside = rotate(rotate(points, heading[0]) - [x[i], y[i]], -heading[i + 1])
        # Below 0 a point of one is in the other.
        margin = (np.abs(inside) - [2.5, 1.0]).max(-1).min()
        if abs(margin) > 0.1:
            assert crashed[i + 1] == (margin < 0), i
    assert 3 < crashed[1:].sum() < 17 and crashed[0]


# --- the real one

def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "highway_env", None)
    pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
    says = r'highway is not installed.*pip install "karpjax\[highway\]"'
    with pytest.raises(kj.UserError, match=says):
        kj.envs.make_env("gymnasium:highway_env:highway-fast-v0", max_steps=30)


@NEEDS_HIGHWAY
def test_the_real_one_sees_and_pays_the_same():
    """The real one, behind the adapter for Gymnasium, and ours from the same start agree."""
    real = kj.envs.make_env("gymnasium:highway_env:highway-fast-v0", max_steps=30)

    def shapes(env):
        obs = jax.eval_shape(env.reset, jax.random.key(0))[1]
        return jax.tree.map(lambda x: (x.shape, x.dtype), obs)
    assert real.actions == ENV.actions and real.max_steps == ENV.max_steps
    assert shapes(real) == shapes(ENV)
    state, obs = real.reset(jax.random.key(3))
    simulator, _, _ = next(iter(real.simulators.kept.values()))
    ours = {**make_highway.state_of(simulator.unwrapped), "time": np.int32(0)}
    np.testing.assert_allclose(ENV.observe(ours), obs, atol=1e-6)
    for t in range(5):
        action = ENV.actions.sample(jax.random.key(t))
        state, out = real.step(state, action, jax.random.key(0))
        ours, expected = STEP(ours, action, None)
        np.testing.assert_allclose(out.obs, expected.obs, atol=1e-4)
        np.testing.assert_allclose(out.reward, expected.reward, atol=1e-4)
        assert out.terminated == expected.terminated
        if out.terminated:
            break


def test_bad_options():
    with pytest.raises(kj.UserError, match="expected lanes >= 2 and vehicles >= 4, found 1 and 20"):
        kj.envs.make_env("highway", lanes=1)
