"""Pendulum in JAX: swing a rod up and hold it there, with a torque too weak to lift it at once.

Step for step this is Gymnasium's Pendulum-v1. The reward is -(angle^2 + 0.1 speed^2 + 0.001
torque^2) of the state *before* the step, angle 0 upright. An episode never ends by itself
(terminated): it is cut (truncated) after `max_steps`. Over 256 episodes (tests/test_envs.py) a
random policy gets -1251. Pumping energy in, then balancing by hand-tuned PD, gets -155.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from karpjax.envs import draw
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box

GRAVITY, MASS, LENGTH, DT = 10.0, 1.0, 1.0, 0.05
MAX_SPEED, MAX_TORQUE = 8.0, 2.0


class Pendulum:
    """Environment of this module, by karpjax/envs/protocol.py."""
    actions = Box((-MAX_TORQUE,), (MAX_TORQUE,))

    def __init__(self, max_steps: int = 200):
        self.max_steps = max_steps

    def reset(self, key):
        joint = jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])  # rad, rad/s
        return {"joint": joint, "time": jnp.int32(0)}, observe(joint)

    def step(self, state: dict, action: Float[Array, "1"], key) -> tuple[dict, TimeStep]:
        theta, omega = state["joint"]
        torque = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
        angle = (theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
        reward = -(angle**2 + 0.1 * omega**2 + 0.001 * torque**2)
        alpha = 3 * GRAVITY / (2 * LENGTH) * jnp.sin(theta) + 3 / (MASS * LENGTH**2) * torque
        omega = jnp.clip(omega + DT * alpha, -MAX_SPEED, MAX_SPEED)
        joint, time = jnp.stack([theta + DT * omega, omega]), state["time"] + 1
        obs = observe(joint)
        out = TimeStep(obs, reward, jnp.bool_(False), time >= self.max_steps, obs)
        return {"joint": joint, "time": time}, out

    def draw(self, state):
        theta = float(state["joint"][0])
        tip = (-np.sin(theta), np.cos(theta))
        canvas = draw.Canvas(-1.2, 1.2, -1.2, 1.2).line((0, 0), tip, 0.2, draw.RED)
        return canvas.disc((0, 0), 0.05).image


def observe(joint: Float[Array, "2"]) -> Float[Array, "3"]:
    return jnp.stack([jnp.cos(joint[0]), jnp.sin(joint[0]), joint[1]])
