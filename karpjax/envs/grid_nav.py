"""Navigation on a grid: round random walls to a random goal, on another map every episode.

An action is a step up, down, left or right. A step into a wall or beyond the edge leads nowhere.
Every step costs 0.01. The goal gives 1 and ends the episode (terminated), so a shortest path pays
best: 1 - 0.01 * its steps. The episode is cut (truncated) after `max_steps`. The goal can always be
reached in that time: state["shortest"] is in how many steps (5.5 on average, up to 17). Over 256
episodes (tests/test_envs.py) a random policy gets -0.12 and shortest paths get 0.945.
"""
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from karpjax.core.errors import UserError
from karpjax.envs import draw
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])                       # rows and columns


class GridNav:
    """Environment of this module, by karpjax/envs/protocol.py.

    size     rows and columns of the grid
    walls    share of cells that are walls
    masked   whether observations are {"obs", "legal"}: an action is legal if it leads somewhere
    """
    actions = Discrete(4)

    def __init__(self, size: int = 8, walls: float = 0.3, max_steps: int = 64,
                 masked: bool = False):
        if size < 2 or not 0 <= walls <= 1:
            raise UserError("config.env: expected size >= 2 and walls in 0 to 1, "
                            f"found size {size} and walls {walls}")
        self.size, self.walls, self.max_steps, self.masked = size, walls, max_steps, masked

    def reset(self, key):
        walls_key, goal_key, agent_key = jax.random.split(key, 3)
        goal = jax.random.randint(goal_key, (2,), 0, self.size)
        walls = jax.random.bernoulli(walls_key, self.walls, (self.size, self.size))
        walls = walls & ~plane(goal, self.size)
        walls = walls & open_moves(walls, goal).any()              # none if they shut the goal in
        distance = shortest_path(walls, goal, within=self.max_steps)
        reachable = jnp.isfinite(distance) & (distance > 0)
        cell = jnp.argmax(jnp.where(reachable, jax.random.uniform(agent_key, distance.shape), -1.0))
        agent = jnp.stack(jnp.unravel_index(cell, distance.shape))
        state = {"walls": walls, "goal": goal, "agent": agent,
                 "shortest": distance.ravel()[cell], "time": jnp.int32(0)}
        return state, self.observe(state)

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        moves = open_moves(state["walls"], state["agent"])[action]
        agent = state["agent"] + moves * jnp.asarray(MOVES)[action]
        state = {**state, "agent": agent, "time": state["time"] + 1}
        terminated = (state["agent"] == state["goal"]).all()
        truncated = (state["time"] >= self.max_steps) & ~terminated
        obs = self.observe(state)
        return state, TimeStep(obs, terminated - 0.01, terminated, truncated, obs)

    def observe(self, state):
        agent, goal = plane(state["agent"], self.size), plane(state["goal"], self.size)
        planes = jnp.stack([state["walls"], agent, goal], -1)
        obs: Float[Array, "n n 3"] = planes.astype(jnp.float32)
        legal = open_moves(state["walls"], state["agent"])
        return {"obs": obs, "legal": legal | ~legal.any()} if self.masked else obs

    def draw(self, state):
        def centre(cell):
            return cell[1], -cell[0]

        canvas = draw.Canvas(-0.5, self.size - 0.5, 0.5 - self.size, 0.5)
        for cell in np.argwhere(state["walls"]):
            canvas.rectangle(centre(cell), 1.0, 1.0)
        canvas.rectangle(centre(state["goal"]), 0.8, 0.8, draw.GREEN)
        return canvas.disc(centre(state["agent"]), 0.3, draw.RED).image


def plane(cell: Int[Array, "2"], size: int) -> Bool[Array, "n n"]:
    """Return a grid that is True at one cell alone."""
    return (jnp.arange(size)[:, None] == cell[0]) & (jnp.arange(size) == cell[1])


def open_moves(walls: Bool[Array, "n n"], cell: Int[Array, "2"]) -> Bool[Array, "4"]:
    """Return whether each action leads to another cell."""
    row, column = (cell + MOVES + 1).T                                # (4,) of the padded walls
    return ~jnp.pad(walls, 1, constant_values=True)[row, column]


def shortest_path(walls: Bool[Array, "n n"], goal: Int[Array, "2"],
                  within: int | None = None) -> Float[Array, "n n"]:
    """Return the steps from every cell to the goal, by min-plus sweeps.

    The distance is infinite in walls, and where no way of at most `within` steps leads to the goal.
    """
    def sweep(_, distance):
        far = jnp.pad(distance, 1, constant_values=jnp.inf)
        neighbours = [far[:-2, 1:-1], far[2:, 1:-1], far[1:-1, :-2], far[1:-1, 2:]]
        nearest = jnp.stack(neighbours).min(0)
        return jnp.where(walls, jnp.inf, jnp.minimum(distance, nearest + 1))

    start = jnp.where(plane(goal, len(walls)), 0.0, jnp.inf)
    # The number of sweeps is fixed: to stop early, devices would have to agree.
    return lax.fori_loop(0, within or walls.size, sweep, start)
