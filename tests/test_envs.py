"""The embedded environments: against Gymnasium, against plain Python, and what the protocol promises of each."""
import collections
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

from karpjax import UserError, envs
from karpjax.envs import grid_nav, reacher
from karpjax.envs.protocol import auto_reset

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens" / "envs.npz"
NEEDS_GYMNASIUM = pytest.mark.skipif(not importlib.util.find_spec("gymnasium"), reason="Gymnasium is not installed")
MASKED = {"grid_nav": {"masked": True}}
EACH = pytest.mark.parametrize("name, options", [(name, MASKED.get(name, {})) for name in envs.ENVIRONMENTS])
KEYS = jax.random.split(jax.random.key(0), 32)
NEVER_TERMINATE = ("pendulum", "reacher")


def at_random(env):
    return lambda state, obs, key: env.actions.sample(key)


def play(env, policy, steps: int, keys=KEYS, advance=auto_reset):
    """`steps` of each environment: the states that followed and the TimeSteps, leaves (E, T, ...)."""
    def one(key):
        def step(carry, key):
            action_key, step_key = jax.random.split(key)
            state, out = advance(env, carry[0], policy(*carry, action_key), step_key)
            return (state, out.obs), (state, out)
        return jax.lax.scan(step, env.reset(key), jax.random.split(jax.random.fold_in(key, 1), steps))[1]
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def returns(env, policy, seeds: int):
    """Of one episode for each seed: (E,)."""
    _, out = play(env, policy, env.max_steps, jax.vmap(jax.random.key)(jnp.arange(seeds)), advance=type(env).step)
    over = out.terminated | out.truncated
    assert over.any(1).all()
    return (out.reward * (np.cumsum(over, 1) - over == 0)).sum(1)


def equal(found, expected, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), found, expected)


# --- Gymnasium

OURS = {"CartPole-v1": ("cartpole", "obs"), "Acrobot-v1": ("acrobot", "joints"), "Pendulum-v1": ("pendulum", "joint")}


@pytest.mark.parametrize("source", ["golden", pytest.param("live", marks=NEEDS_GYMNASIUM)])
@pytest.mark.parametrize("name", OURS)
def test_a_step_is_gymnasiums(name, source):
    """From hundreds of states. None of them ends within rounding of a threshold, so that `terminated` is the same too."""
    stored = np.load(GOLDENS)
    expected = {key.split("/")[1]: stored[key] for key in stored if key.startswith(name)}
    if source == "live":
        equal(make_envs.roll(name), expected, atol=1e-6)
        expected = make_envs.roll(name, seed=1)
    ours, part = OURS[name]
    env = envs.make_env(ours)
    state = {part: jnp.asarray(expected["state"]), "time": jnp.zeros(len(expected["state"]), jnp.int32)}
    state, out = jax.jit(jax.vmap(env.step, (0, 0, None)))(state, jnp.asarray(expected["action"]), None)
    np.testing.assert_allclose(state[part], expected["after"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(out.obs, expected["obs"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(out.reward, expected["reward"], rtol=1e-6, atol=1e-5)
    assert (out.terminated == expected["terminated"]).all()
    assert 10 < expected["terminated"].sum() < 100 or ours in NEVER_TERMINATE


@pytest.mark.parametrize("name, part, high", [("cartpole", "obs", [0.05] * 4), ("acrobot", "joints", [0.1] * 4),
                                              ("pendulum", "joint", [np.pi, 1.0])])
def test_starts_are_gymnasiums(name, part, high):
    """Uniform between -high and high: the extremes and the spread."""
    starts = jax.jit(jax.vmap(envs.make_env(name).reset))(jax.random.split(jax.random.key(0), 4000))[0][part] / np.array(high)
    assert (np.abs(starts) <= 1).all() and (starts.max(0) > 0.99).all() and (starts.min(0) < -0.99).all()
    np.testing.assert_allclose(starts.std(0), 3**-0.5, rtol=0.05)


# --- the protocol

@EACH
def test_shapes_and_types_stay(name, options):
    """A step's state and observation are of the same shapes and types as a reset's; alone and in a batch it is the same."""
    env = envs.make_env(name, **options)
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)

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
    """Episodes of at most 30 steps, 120 steps of them."""
    env = envs.make_env(name, max_steps=30)
    return env, *play(env, at_random(env), 120)


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_episodes_end(name):
    """After `max_steps` at the latest, then truncated and not terminated, and a new one begins."""
    env, state, out = random_play(name)
    over = out.terminated | out.truncated
    before = np.concatenate([np.zeros((len(KEYS), 1), int), state["time"][:, :-1]], 1)
    assert (state["time"] == np.where(over, 0, before + 1)).all() and before.max() == 29
    assert out.truncated.any() and (out.truncated == (before == 29) & ~out.terminated).all()
    assert out.terminated.any() == (name in ("cartpole", "grid_nav", "highway"))            # acrobot needs more than 30 steps


@pytest.mark.parametrize("name, action, part", [
    ("cartpole", 1, {"obs": jnp.array([2.39, 1.0, 0.0, 0.0])}), ("acrobot", 1, {"joints": jnp.array([jnp.pi, 0.0, 0.0, 0.0])}),
    ("grid_nav", 2, {"agent": jnp.array([4, 4]), "goal": jnp.array([4, 3]), "walls": jnp.zeros((8, 8), bool)}),
    ("highway", 1, {"x": 4.0 * jnp.arange(21), "y": jnp.zeros(21), "target_lane": jnp.zeros(21, jnp.int32)})])
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
    "highway": lambda s: (np.abs(s["heading"]) < 1.6) & (np.abs(s["speed"]) <= 31) & (np.abs(s["y"] - 4) < 10),
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
    pictures = [env.draw(jax.tree.map(lambda x: x[e, t], states)) for e, t in ((0, 0), (0, 4), (1, 4))]
    for picture in pictures:
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.float32
        assert picture.min() >= 0 and picture.max() <= 1 and 0.01 < (picture < 0.9).any(-1).mean() < 0.9
    assert min(np.abs(pictures[0] - pictures[1]).max(), np.abs(pictures[1] - pictures[2]).max()) > 0.3


@EACH
def test_auto_reset_keeps_the_final_observation(name, options):
    """Half of the environments are at their last step: those start anew, the others go on."""
    env = envs.make_env(name, **options)

    @jax.vmap
    def one(key, last):
        state, obs = env.reset(key)
        state["time"] = jnp.where(last, env.max_steps - 1, 0)
        action, (step_key, reset_key) = at_random(env)(state, obs, key), jax.random.split(key)
        return auto_reset(env, state, action, key), env.step(state, action, step_key), env.reset(reset_key)
    last = np.arange(len(KEYS)) % 2 == 0
    (after, out), (stepped, plain), (fresh, start) = jax.tree.map(np.asarray, jax.jit(one)(KEYS, last))
    over = plain.terminated | last
    rows = lambda where, *trees: jax.tree.map(lambda x: x[where], trees)
    equal(out._replace(obs=0), plain._replace(obs=0))
    equal(rows(over, after, out.obs), rows(over, fresh, start))
    equal(rows(~over, after, out.obs), rows(~over, stepped, plain.obs))
    differs = lambda a, b: any((x[over] != y[over]).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    assert differs(out.obs, out.final_obs) and 0 < over.sum() < len(KEYS)


@EACH
def test_environments_on_eight_devices_exchange_nothing(name, options):
    """What a rollout does to them compiles to a program without collectives."""
    env = envs.make_env(name, **options)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))

    def rollout(keys):
        def one(carry, key):
            return auto_reset(env, carry[0], at_random(env)(*carry, key), key)
        return jax.vmap(one)(jax.vmap(env.reset)(keys), keys)

    def collectives(function):
        text = jax.jit(function, out_shardings=spread).lower(jax.device_put(KEYS, spread)).compile().as_text()
        return re.findall("all-reduce|all-gather|all-to-all|collective-permute", text)
    assert not collectives(rollout)
    assert collectives(lambda keys: jnp.cumsum(jax.vmap(jax.random.bits)(keys)))            # or this would test nothing


def test_bad_names_and_options():
    for call, message in ((lambda: envs.make_env("pendulm"), "did you mean 'pendulum'"),
                          (lambda: envs.make_env("chess"), "known: acrobot, cartpole, grid_nav, highway, pendulum, reacher"),
                          (lambda: envs.make_env("reacher", max_step=5), "did you mean 'max_steps'"),
                          (lambda: envs.make_env("grid_nav", size=1), "expected size >= 2"),
                          (lambda: envs.make_env("grid_nav", walls=30.0), "walls in 0 to 1, found size 8 and walls 30.0")):
        with pytest.raises(UserError, match=message):
            call()


# --- what a random policy gets and what a good one, as each module's docstring says

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


@pytest.mark.parametrize("name, numbers", [("acrobot", (-499, -87)), ("pendulum", (-1251, -155)), ("grid_nav", (-0.12,)),
                                           ("reacher", (-86, -10.5, -81))])
def test_returns_are_as_the_docstrings_say(name, numbers):
    env = envs.make_env(name)
    nothing = lambda *_: jnp.zeros(2)
    for number, policy in zip(numbers, (at_random(env), GOOD.get(name), nothing)):
        assert f" {number}" in sys.modules[type(env).__module__].__doc__
        np.testing.assert_allclose(returns(env, policy, 256).mean(), number, rtol=0.04)


# --- grid_nav

def plain_distances(walls, goal):
    """Breadth-first search as in a textbook."""
    distance, queue = np.full(walls.shape, np.inf), collections.deque([goal])
    distance[goal] = 0
    while queue:
        row, column = queue.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= min(cell) and max(cell) < len(walls) and not walls[cell] and distance[cell] == np.inf:
                distance[cell] = distance[row, column] + 1
                queue.append(cell)
    return distance


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_shortest_paths(share):
    rng = np.random.default_rng(0)
    walls, goals = rng.random((40, 8, 8)) < share, rng.integers(0, 8, (40, 2))
    walls[np.arange(40), goals[:, 0], goals[:, 1]] = False
    found = jax.jit(jax.vmap(grid_nav.shortest_path))(walls, goals)
    within = jax.jit(jax.vmap(lambda w, g: grid_nav.shortest_path(w, g, 3)))(walls, goals)
    for i in range(40):
        expected = plain_distances(walls[i], tuple(goals[i]))
        equal(found[i], expected)
        equal(within[i], np.where(expected <= 3, expected, np.inf))


def test_the_longest_way_on_a_grid():
    """Back and forth between walls with a gap at alternating ends."""
    walls = np.zeros((9, 9), bool)
    walls[1::2] = True
    walls[1::4, -1] = walls[3::4, 0] = False
    found = grid_nav.shortest_path(jnp.asarray(walls), jnp.array([0, 0]))
    equal(found, plain_distances(walls, (0, 0)))
    assert found[8, 8] == 48


@pytest.mark.parametrize("options", [dict(walls=0.6), dict(walls=1.0), dict(size=2), dict(size=5, max_steps=3)], ids=str)
def test_the_goal_can_be_reached_in_time(options):
    """From the start, in state["shortest"] steps, however many walls there are; the start is never the goal."""
    env = envs.make_env("grid_nav", **options)
    state, _ = jax.tree.map(np.asarray, jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 300)))
    for walls, goal, agent, shortest in zip(state["walls"], state["goal"], state["agent"], state["shortest"]):
        assert plain_distances(walls, tuple(goal))[tuple(agent)] == shortest and 1 <= shortest <= env.max_steps
    for cells in (state["goal"], state["agent"]):
        assert len(np.unique(cells, axis=0)) > 0.9 * env.size**2


def downhill(state, obs, key):
    distance = jnp.pad(grid_nav.shortest_path(state["walls"], state["goal"]), 1, constant_values=jnp.inf)
    return jnp.argmin(distance[tuple((state["agent"] + grid_nav.MOVES + 1).T)])


def test_a_shortest_path_pays_its_length():
    env = envs.make_env("grid_nav")
    start, _ = jax.jit(jax.vmap(env.reset))(jax.vmap(jax.random.key)(jnp.arange(256)))
    best = 1 - 0.01 * np.asarray(start["shortest"])
    equal(returns(env, downhill, 32), best[:32], atol=1e-5)
    assert " 0.945" in grid_nav.__doc__ and abs(best.mean() - 0.945) < 1e-3


def test_legal_actions_are_those_that_move():
    env, plain = envs.make_env("grid_nav", masked=True), envs.make_env("grid_nav")

    @jax.vmap
    def one(key):
        state, obs = env.reset(key)
        shut_in = {**state, "walls": jnp.ones((8, 8), bool)}
        after = jax.vmap(lambda action: env.step(state, action, key)[0]["agent"])(jnp.arange(4))
        return obs, plain.observe(state), env.observe(shut_in), after - state["agent"]
    obs, planes, shut_in, move = jax.tree.map(np.asarray, jax.jit(one)(KEYS))               # move (E, 4, 2)
    assert (obs["legal"] == move.any(-1)).all() and 0.2 < obs["legal"].mean() < 0.9
    up_down_left_right = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    assert (move == up_down_left_right * obs["legal"][..., None]).all()
    assert (obs["obs"] == planes).all() and shut_in["legal"].all()


def test_planes_show_walls_agent_and_goal():
    env = envs.make_env("grid_nav", size=3)
    state = {"walls": jnp.zeros((3, 3), bool).at[0, 1].set(True), "agent": jnp.array([1, 1]), "goal": jnp.array([2, 0]),
             "time": jnp.int32(0)}
    planes = np.asarray(env.observe(state))
    assert [np.argwhere(planes[..., i]).tolist() for i in range(3)] == [[[0, 1]], [[1, 1]], [[2, 0]]]
    blocked, up = env.step(state, jnp.int32(0), None)
    assert blocked["agent"].tolist() == [1, 1] and not up.terminated and up.reward == np.float32(-0.01)
    down, _ = env.step(state, jnp.int32(1), None)
    _, goal = env.step(down, jnp.int32(2), None)
    assert goal.terminated and goal.reward == np.float32(0.99)


# --- reacher and pendulum

def test_inverse_kinematics():
    """Both solutions bring the fingertip to the target, with the elbow on different sides."""
    target = jax.jit(jax.vmap(envs.make_env("reacher").reset))(KEYS)[0]["target"]
    angles = jax.jit(jax.vmap(reacher.inverse_kinematics))(target)                          # (E, 2 solutions, 2 joints)
    tips = jax.jit(jax.vmap(jax.vmap(reacher.fingertip)))(angles)
    equal(tips, np.repeat(np.asarray(target)[:, None], 2, 1), atol=1e-5)
    bend = np.asarray(angles)[:, :, 1]
    equal(bend[:, 0], -bend[:, 1])
    assert np.abs(bend).min() > 0.1
    equal(reacher.fingertip(jnp.array([jnp.pi / 2, -jnp.pi / 2])), [1.0, 1.0], atol=1e-6)


def test_the_controller_reaches_every_target_and_stays():
    _, out = play(envs.make_env("reacher"), GOOD["reacher"], 50)
    distance = np.linalg.norm(out.final_obs[..., 8:], axis=-1)                              # (E, T)
    assert distance[:, 0].mean() > 1 and distance[:, 25:].max() < 0.02 and distance[:, -1].max() < 1e-3


def test_torques_are_clipped():
    for name, wild, legal in (("reacher", [7.0, -3.0], [1.0, -1.0]), ("pendulum", [-5.0], [-2.0])):
        env = envs.make_env(name)
        state, _ = env.reset(KEYS[0])
        equal(env.step(state, jnp.array(wild), None), env.step(state, jnp.array(legal), None))


def test_a_free_pendulum_keeps_its_energy():
    """About: symplectic Euler's energy oscillates but does not drift."""
    env = envs.make_env("pendulum")
    start = {"joint": jnp.array([1.0, 0.0]), "time": jnp.int32(0)}
    step = lambda state, _: (lambda after: (after, after["joint"]))(env.step(state, jnp.zeros(1), None)[0])
    theta, omega = jax.lax.scan(step, start, length=400)[1].T
    energy = omega**2 / 6 + 5 * jnp.cos(theta)
    assert np.abs(energy - 5 * np.cos(1.0)).max() < 0.8 and theta.max() > 5
    assert abs(energy[:200].mean() - energy[200:].mean()) < 0.05
