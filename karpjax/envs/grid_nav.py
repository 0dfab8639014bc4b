"""Navigation on a grid: from a random start to a random goal round random walls, another map every episode.

An action is a step up, down, left or right; into a wall or the edge it leads nowhere. Every step costs 0.01; the goal gives 1
and ends the episode (terminated), so a shortest path pays best: 1 - 0.01 * its steps. It is cut (truncated) after `max_steps`.
The goal can always be reached in that time; state["shortest"] says in how many steps (5.5 on average, up to 17).
Over 256 episodes (tests/test_envs.py) a random policy gets -0.12 and shortest paths get 0.945.
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

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])                                       # rows and columns


class GridNav:
    """walls    the share of cells that are walls
    masked   observe {"obs", "legal"}: an action is legal that leads somewhere
    """
    actions = Discrete(4)

    def __init__(self, size: int = 8, walls: float = 0.3, max_steps: int = 64, masked: bool = False):
        if size < 2 or not 0 <= walls <= 1:
            raise UserError(f"config.env: expected size >= 2 and walls in 0 to 1, found size {size} and walls {walls}")
        self.size, self.walls, self.max_steps, self.masked = size, walls, max_steps, masked

    def reset(self, key):
        walls_key, goal_key, agent_key = jax.random.split(key, 3)
        goal = jax.random.randint(goal_key, (2,), 0, self.size)
        walls = jax.random.bernoulli(walls_key, self.walls, (self.size, self.size)) & ~plane(goal, self.size)
        walls = walls & open_moves(walls, goal).any()                      # all of them fall where they shut the goal in
        distance = shortest_path(walls, goal, within=self.max_steps)
        reachable = jnp.isfinite(distance) & (distance > 0)
        cell = jnp.argmax(jnp.where(reachable, jax.random.uniform(agent_key, distance.shape), -1.0))
        agent = jnp.stack(jnp.unravel_index(cell, distance.shape))
        state = {"walls": walls, "goal": goal, "agent": agent, "shortest": distance.ravel()[cell], "time": jnp.int32(0)}
        return state, self.observe(state)

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        moves = open_moves(state["walls"], state["agent"])[action]
        state = {**state, "agent": state["agent"] + moves * jnp.asarray(MOVES)[action], "time": state["time"] + 1}
        terminated = (state["agent"] == state["goal"]).all()
        truncated = (state["time"] >= self.max_steps) & ~terminated
        obs = self.observe(state)
        return state, TimeStep(obs, terminated - 0.01, terminated, truncated, obs)

    def observe(self, state):
        cells = [state["walls"], plane(state["agent"], self.size), plane(state["goal"], self.size)]
        obs: Float[Array, "n n 3"] = jnp.stack(cells, -1).astype(jnp.float32)
        legal = open_moves(state["walls"], state["agent"])
        return {"obs": obs, "legal": legal | ~legal.any()} if self.masked else obs

    def draw(self, state):
        canvas, centre = draw.Canvas(-0.5, self.size - 0.5, 0.5 - self.size, 0.5), lambda cell: (cell[1], -cell[0])
        for cell in np.argwhere(state["walls"]):
            canvas.rectangle(centre(cell), 1.0, 1.0)
        canvas.rectangle(centre(state["goal"]), 0.8, 0.8, draw.GREEN)
        return canvas.disc(centre(state["agent"]), 0.3, draw.RED).image


def plane(cell: Int[Array, "2"], size: int) -> Bool[Array, "n n"]:
    return (jnp.arange(size)[:, None] == cell[0]) & (jnp.arange(size) == cell[1])


def open_moves(walls: Bool[Array, "n n"], cell: Int[Array, "2"]) -> Bool[Array, "4"]:
    """Whether each action leads to another cell."""
    row, column = (cell + MOVES + 1).T                                                     # (4,) of the padded walls
    return ~jnp.pad(walls, 1, constant_values=True)[row, column]


def shortest_path(walls: Bool[Array, "n n"], goal: Int[Array, "2"], within: int | None = None) -> Float[Array, "n n"]:
    """Steps from every cell to the goal, infinite in walls and where there is no way, or none of at most `within` steps.

    Min-plus sweeps: in each, every cell looks at its four neighbours. Their number is fixed: to stop early, devices must agree.
    """
    def sweep(_, distance):
        far = jnp.pad(distance, 1, constant_values=jnp.inf)
        nearest = jnp.stack([far[:-2, 1:-1], far[2:, 1:-1], far[1:-1, :-2], far[1:-1, 2:]]).min(0)
        return jnp.where(walls, jnp.inf, jnp.minimum(distance, nearest + 1))

    return lax.fori_loop(0, within or walls.size, sweep, jnp.where(plane(goal, len(walls)), 0.0, jnp.inf))
