"""Reacher in JAX: a two-link arm whose fingertip is to reach a random target and stay there.

The arm moves in a plane. The task is that of MuJoCo's Reacher: 50 steps, and the reward that
Gymnasium documents for Reacher-v5 (its code weighs the action by 1), -distance - 0.1 |action|^2
after the step. The physics is simpler. Every joint is a damped double integrator of its own, as if
geared motors hid one link's inertia from the other, and links are 1 long. An episode is cut
(truncated) after `max_steps` and never terminated.

`controller` knows the arm: inverse kinematics, then PD. It is the yardstick. Over 256 episodes
(tests/test_envs.py) a random policy gets -86, doing nothing -81 and the controller -10.5. As
returns are negative, "90 % of the controller's return" means 90 % of the way from the random
policy's to the controller's, here -18.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from karpjax.envs import draw
from karpjax.envs.protocol import TimeStep
from karpjax.envs.spaces import Box

TORQUE, DAMPING, DT = 20.0, 2.0, 0.05              # per inertia: rad/s^2, 1/s, s; at most 10 rad/s
KP, KD = 3.0, 0.4


class Reacher:
    """Environment of this module, by karpjax/envs/protocol.py."""
    actions = Box((-1.0, -1.0), (1.0, 1.0))

    def __init__(self, max_steps: int = 50):
        self.max_steps = max_steps

    def reset(self, key):
        angles_key, radius_key, direction_key = jax.random.split(key, 3)
        # The second angle is relative to the first.
        angles = jax.random.uniform(angles_key, (2,), minval=-jnp.pi, maxval=jnp.pi)
        direction = jax.random.uniform(direction_key, minval=-jnp.pi, maxval=jnp.pi)
        radius = jax.random.uniform(radius_key, minval=0.2, maxval=1.9)    # of 0 to 2 within reach
        target = radius * jnp.stack([jnp.cos(direction), jnp.sin(direction)])
        state = {"angles": angles, "speeds": jnp.zeros(2), "target": target, "time": jnp.int32(0)}
        return state, observe(state)

    def step(self, state: dict, action: Float[Array, "2"], key) -> tuple[dict, TimeStep]:
        action = jnp.clip(action, -1.0, 1.0)
        speeds = state["speeds"] + DT * (TORQUE * action - DAMPING * state["speeds"])
        state = {**state, "angles": state["angles"] + DT * speeds, "speeds": speeds,
                 "time": state["time"] + 1}
        distance = jnp.linalg.norm(fingertip(state["angles"]) - state["target"])
        reward = -distance - 0.1 * jnp.sum(action**2)
        obs, truncated = observe(state), state["time"] >= self.max_steps
        return state, TimeStep(obs, reward, jnp.bool_(False), truncated, obs)

    def draw(self, state):
        angle = float(state["angles"][0])
        elbow = (np.cos(angle), np.sin(angle))
        tip = fingertip(jnp.asarray(state["angles"]))
        canvas = draw.Canvas(-2.2, 2.2, -2.2, 2.2).disc(state["target"], 0.12, draw.GREEN)
        return canvas.line((0, 0), elbow, 0.15).line(elbow, tip, 0.15, draw.RED).image


def fingertip(angles: Float[Array, "2"]) -> Float[Array, "2"]:
    first, both = angles[0], angles[0] + angles[1]
    return jnp.stack([jnp.cos(first) + jnp.cos(both), jnp.sin(first) + jnp.sin(both)])


def observe(state) -> Float[Array, "10"]:
    angles, target = state["angles"], state["target"]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), state["speeds"], target,
                            fingertip(angles) - target])


def inverse_kinematics(target: Float[Array, "2"]) -> Float[Array, "2 2"]:
    """Return two pairs of angles that lead to the target: with the elbow on either side."""
    cosine = jnp.clip(jnp.sum(target**2) / 2 - 1, -1.0, 1.0)               # by the cosine rule
    bend = jnp.arccos(cosine) * jnp.array([1.0, -1.0])
    return jnp.stack([jnp.arctan2(target[1], target[0]) - bend / 2, bend], -1)


def controller(obs: Float[Array, "10"]) -> Float[Array, "2"]:
    """Return the action of PD control towards the nearer of the two solutions."""
    angles, speeds, target = jnp.arctan2(obs[2:4], obs[:2]), obs[4:6], obs[6:8]
    errors = inverse_kinematics(target) - angles                           # (2 solutions, 2 joints)
    errors = (errors + jnp.pi) % (2 * jnp.pi) - jnp.pi
    error = errors[jnp.argmin(jnp.abs(errors).max(-1))]
    return jnp.clip(KP * error - KD * speeds, -1.0, 1.0)
