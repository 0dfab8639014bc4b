"""The grid world: shortest paths against a textbook's search, legal actions, and planes."""
import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import equal, KEYS, returns

from karpjax import envs
from karpjax.envs import grid_nav


def plain_distances(walls, goal):
    """Return the distances to the goal, by a textbook's breadth-first search."""
    distance, queue = np.full(walls.shape, np.inf), collections.deque([goal])
    distance[goal] = 0
    while queue:
        row, column = queue.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= min(cell) and max(cell) < len(walls)
            if inside and not walls[cell] and distance[cell] == np.inf:
                distance[cell] = distance[row, column] + 1
                queue.append(cell)
    return distance


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_shortest_paths(share):
    rng = np.random.default_rng(0)
    walls, goals = rng.random((40, 8, 8)) < share, rng.integers(0, 8, (40, 2))
    walls[np.arange(40), goals[:, 0], goals[:, 1]] = False
    distances = jax.jit(jax.vmap(grid_nav.shortest_path))(walls, goals)
    within = jax.jit(jax.vmap(lambda w, g: grid_nav.shortest_path(w, g, 3)))(walls, goals)
    for i in range(40):
        expected = plain_distances(walls[i], tuple(goals[i]))
        equal(distances[i], expected)
        equal(within[i], np.where(expected <= 3, expected, np.inf))


def test_the_longest_way_on_a_grid():
    """The way goes back and forth between walls with a gap at alternating ends."""
    walls = np.zeros((9, 9), bool)
    walls[1::2] = True
    walls[1::4, -1] = walls[3::4, 0] = False
    distances = grid_nav.shortest_path(jnp.asarray(walls), jnp.array([0, 0]))
    equal(distances, plain_distances(walls, (0, 0)))
    assert distances[8, 8] == 48


@pytest.mark.parametrize("options", [dict(walls=0.6), dict(walls=1.0), dict(size=2),
                                     dict(size=5, max_steps=3)], ids=str)
def test_the_goal_can_be_reached_in_time(options):
    """The goal is state["shortest"] steps from the start, which is never the goal itself."""
    env = envs.make_env("grid_nav", **options)
    keys = jax.random.split(jax.random.key(0), 300)
    state, _ = jax.tree.map(np.asarray, jax.jit(jax.vmap(env.reset))(keys))
    parts = (state[name] for name in ("walls", "goal", "agent", "shortest"))
    for walls, goal, agent, shortest in zip(*parts, strict=True):
        assert plain_distances(walls, tuple(goal))[tuple(agent)] == shortest
        assert 1 <= shortest <= env.max_steps
    for cells in (state["goal"], state["agent"]):
        assert len(np.unique(cells, axis=0)) > 0.9 * env.size**2


def downhill(state, obs, key):
    distance = jnp.pad(grid_nav.shortest_path(state["walls"], state["goal"]), 1,
                       constant_values=jnp.inf)
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
    obs, planes, shut_in, move = jax.tree.map(np.asarray, jax.jit(one)(KEYS))  # move (E, 4, 2)
    assert (obs["legal"] == move.any(-1)).all() and 0.2 < obs["legal"].mean() < 0.9
    up_down_left_right = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    assert (move == up_down_left_right * obs["legal"][..., None]).all()
    assert (obs["obs"] == planes).all() and shut_in["legal"].all()


def test_planes_show_walls_agent_and_goal():
    env = envs.make_env("grid_nav", size=3)
    state = {"walls": jnp.zeros((3, 3), bool).at[0, 1].set(True), "agent": jnp.array([1, 1]),
             "goal": jnp.array([2, 0]), "time": jnp.int32(0)}
    planes = np.asarray(env.observe(state))
    cells = [np.argwhere(planes[..., i]).tolist() for i in range(3)]
    assert cells == [[[0, 1]], [[1, 1]], [[2, 0]]]
    blocked, up = env.step(state, jnp.int32(0), None)
    assert blocked["agent"].tolist() == [1, 1] and not up.terminated
    assert up.reward == np.float32(-0.01)
    down, _ = env.step(state, jnp.int32(1), None)
    _, goal = env.step(down, jnp.int32(2), None)
    assert goal.terminated and goal.reward == np.float32(0.99)
