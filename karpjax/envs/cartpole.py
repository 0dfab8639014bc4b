"""CartPole in JAX: balance a pole on a cart by pushing left or right; reward 1 a step.

Dynamics, thresholds and start are those of Gymnasium's CartPole (Barto, Sutton and Anderson 1983,
explicit Euler). An episode ends (terminated) beyond 2.4 units or 12 degrees and is cut (truncated)
after `max_steps`: 500 in CartPole-v1, 200 in v0, where an average of 195 counts as solved.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from karpjax.envs import draw
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
X_LIMIT, THETA_LIMIT = 2.4, 12 * 2 * jnp.pi / 360


class CartPole:
    """Environment of this module, by karpjax/envs/protocol.py."""
    actions = Discrete(2)                                                 # push left, push right

    def __init__(self, max_steps: int = 500):
        self.max_steps = max_steps

    def reset(self, key):
        obs = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return {"obs": obs, "time": jnp.int32(0)}, obs

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        x, v, theta, omega = state["obs"]                                 # metres, m/s, rad, rad/s
        force = jnp.where(action == 1, FORCE, -FORCE)
        sin, cos, mass = jnp.sin(theta), jnp.cos(theta), CART + POLE
        push = (force + POLE * HALF_LENGTH * omega**2 * sin) / mass
        alpha = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / mass))
        a = push - POLE * HALF_LENGTH * alpha * cos / mass
        obs: Float[Array, "4"] = jnp.stack(
            [x + DT * v, v + DT * a, theta + DT * omega, omega + DT * alpha])
        time = state["time"] + 1
        terminated = (jnp.abs(obs[0]) > X_LIMIT) | (jnp.abs(obs[2]) > THETA_LIMIT)
        truncated = (time >= self.max_steps) & ~terminated
        out = TimeStep(obs, jnp.float32(1.0), terminated, truncated, obs)
        return {"obs": obs, "time": time}, out

    def draw(self, state):
        x, theta = float(state["obs"][0]), float(state["obs"][2])
        canvas = draw.Canvas(-X_LIMIT, X_LIMIT, -0.6, 1.6)
        canvas.line((-X_LIMIT, -0.2), (X_LIMIT, -0.2), 0.02, draw.GREY).rectangle((x, 0), 0.6, 0.3)
        tip = x + 2 * HALF_LENGTH * np.sin(theta), 2 * HALF_LENGTH * np.cos(theta)
        return canvas.line((x, 0), tip, 0.1, draw.RED).image
