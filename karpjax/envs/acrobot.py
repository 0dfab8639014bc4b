"""Acrobot in JAX: swing the tip of a double pendulum one link above its axis.

The only torque acts at the joint between the links. Step for step this is Gymnasium's Acrobot-v1:
the equations of Sutton and Barto's book (Sutton 1996), one Runge-Kutta step of 0.2 s, reward -1 a
step and 0 on the last. An episode ends (terminated) when the tip is high enough and is cut
(truncated) after `max_steps`. Over 256 episodes (tests/test_envs.py) a random policy gets -499.
Torque against the first link's speed, which pumps energy in, gets -87.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from karpjax.envs import draw
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Discrete

GRAVITY, MASS, LENGTH, CENTRE, INERTIA, DT = 9.8, 1.0, 1.0, 0.5, 1.0, 0.2  # the links are alike
MAX_SPEED = np.array([4 * np.pi, 9 * np.pi], np.float32)


class Acrobot:
    """Environment of this module, by karpjax/envs/protocol.py."""
    actions = Discrete(3)                                                  # torque -1, 0, 1

    def __init__(self, max_steps: int = 500):
        self.max_steps = max_steps

    def reset(self, key):
        # Two angles, rad, 0 if hanging; two speeds, rad/s.
        joints = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return {"joints": joints, "time": jnp.int32(0)}, observe(joints)

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        joints, torque, time = state["joints"], action - 1.0, state["time"] + 1
        k1 = derivative(joints, torque)
        k2 = derivative(joints + DT / 2 * k1, torque)
        k3 = derivative(joints + DT / 2 * k2, torque)
        k4 = derivative(joints + DT * k3, torque)
        angles, speeds = jnp.split(joints + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), 2)
        angles = (angles + jnp.pi) % (2 * jnp.pi) - jnp.pi
        joints = jnp.concatenate([angles, jnp.clip(speeds, -MAX_SPEED, MAX_SPEED)])
        height = -jnp.cos(angles[0]) - jnp.cos(angles[0] + angles[1])      # the tip's
        terminated = height > 1.0
        truncated = (time >= self.max_steps) & ~terminated
        obs, reward = observe(joints), jnp.where(terminated, 0.0, -1.0)
        state = {"joints": joints, "time": time}
        return state, TimeStep(obs, reward, terminated, truncated, obs)

    def draw(self, state):
        first, both = np.cumsum(np.asarray(state["joints"])[:2])
        elbow = np.array([np.sin(first), -np.cos(first)])
        tip = elbow + [np.sin(both), -np.cos(both)]
        canvas = draw.Canvas(-2.2, 2.2, -2.2, 2.2).line((-2.2, 1), (2.2, 1), 0.03, draw.GREY)
        return canvas.line((0, 0), elbow, 0.15).line(elbow, tip, 0.15, draw.RED).image


def observe(joints: Float[Array, "4"]) -> Float[Array, "6"]:
    theta1, theta2, omega1, omega2 = joints
    return jnp.stack([jnp.cos(theta1), jnp.sin(theta1), jnp.cos(theta2), jnp.sin(theta2),
                      omega1, omega2])


def derivative(joints: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
    """Return the time derivative of the joints (theta1, theta2, omega1, omega2).

    theta2 is relative to the first link. Names are those of the book.
    """
    theta1, theta2, omega1, omega2 = joints
    cos, sin, coupling = jnp.cos(theta2), jnp.sin(theta2), MASS * LENGTH * CENTRE
    d1 = MASS * (LENGTH**2 + 2 * CENTRE**2) + 2 * coupling * cos + 2 * INERTIA
    d2 = MASS * CENTRE**2 + coupling * cos + INERTIA
    phi2 = MASS * CENTRE * GRAVITY * jnp.sin(theta1 + theta2)
    phi1 = (MASS * (CENTRE + LENGTH) * GRAVITY * jnp.sin(theta1) + phi2
            - coupling * omega2 * (omega2 + 2 * omega1) * sin)
    alpha2 = ((torque + d2 / d1 * phi1 - coupling * omega1**2 * sin - phi2)
              / (MASS * CENTRE**2 + INERTIA - d2**2 / d1))
    return jnp.stack([omega1, omega2, -(d2 * alpha2 + phi1) / d1, alpha2])
