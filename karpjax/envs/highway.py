"""Highway in JAX: overtake on a three-lane motorway without a crash, by five meta-actions.

Frame for frame highway-env's `highway-fast-v0` (Leurent 2018; version 1.12.1): 20 cars ahead that follow the Intelligent
Driver Model (Treiber, Hennecke and Helbing 2000) and change lanes by MOBIL (Kesting, Treiber and Helbing 2007), on a kinematic
bicycle model with its steering and speed controllers; five frames of 0.2 s an action. The ego car observes itself and the
nearest four cars that are not behind it, (5, 5): presence, x, y, vx, vy, scaled to -1 .. 1, the others' relative to its own.

Reward, in 0 to 1 a step: fast (20 to 30 m/s) and in the rightmost lane; 0.1 a lane and 0.4 for speed, a crash -1, then scaled.
A crash ends the episode (terminated), else it is cut after 30 steps (truncated). As there, only the ego car collides.

tests/test_highway.py holds every step to theirs: positions to 2 mm, rewards, ends. Left out, as no episode of 30 steps meets
it: the end of the road after 10 km and the top speed of 40 m/s. Random numbers are not theirs: starts agree in distribution.
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

LANE, LENGTH, WIDTH, SPEED_LIMIT = 4.0, 5.0, 2.0, 30.0                     # m, m, m, m/s
FRAMES, DT = 5, 0.2                                                        # of an action; s
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
SLOWEST, SPEED_STEP, SPEEDS = 20.0, 5.0, 3                                 # what the ego car can aim at, m/s
SEEN, SIGHT, BEHIND = 4, 200.0, -2 * LENGTH                                # cars, m, m

KP_SPEED, KP_HEADING, KP_LATERAL = 1 / 0.6, 1 / 0.2, 1 / 0.6               # 1/s
MAX_SLIP = float(np.arctan(np.tan(np.pi / 3) / 2))                         # rad, at the largest steering angle

ACCELERATION, BRAKING, MAX_ACCELERATION = 3.0, 5.0, 6.0                    # IDM: m/s^2
JAM_DISTANCE, TIME_GAP = 5.0 + LENGTH, 1.5                                 # m, s
MIN_GAIN, MAX_BRAKING_IMPOSED, LANE_CHANGE_DELAY = 0.2, 2.0, 1.0           # MOBIL: m/s^2, m/s^2, s


class Highway:
    """vehicles   others than the ego car, which is the first of all arrays"""
    actions = Discrete(5)                                                  # lane left, idle, lane right, faster, slower

    def __init__(self, max_steps: int = 30, lanes: int = 3, vehicles: int = 20):
        if lanes < 2 or vehicles < SEEN:
            raise UserError(f"config.env: expected lanes >= 2 and vehicles >= {SEEN}, found {lanes} and {vehicles}")
        self.max_steps, self.lanes, self.vehicles = max_steps, lanes, vehicles

    def reset(self, key):
        """Each car ahead of the last one, in any lane."""
        lane_key, speed_key, gap_key, delta_key = jax.random.split(key, 4)
        n = self.vehicles + 1
        ego = jnp.arange(n) == 0
        lane = jax.random.randint(lane_key, (n,), 0, self.lanes)
        speed = jnp.where(ego, 25.0, SPEED_LIMIT * jax.random.uniform(speed_key, (n,), minval=0.7, maxval=0.8))
        spacing = jnp.where(ego, 1.5, 1.0) * (12 + speed) * np.exp(-self.lanes / 8)
        x = jnp.cumsum(spacing * (jax.random.uniform(gap_key, (n,), minval=0.9, maxval=1.1) + 3 * ego))
        y = LANE * lane.astype(jnp.float32)
        state = {"x": x, "y": y, "heading": jnp.zeros(n), "speed": speed, "target_lane": lane, "target_speed": speed,
                 "delta": jax.random.uniform(delta_key, (n,), minval=3.5, maxval=4.5),            # IDM's exponent
                 "timer": jnp.where(ego, 0.0, (x + y) * np.pi % LANE_CHANGE_DELAY),        # since it last thought of lanes
                 "crashed": jnp.zeros(n, bool), "impact": jnp.zeros((n, 2)), "time": jnp.int32(0)}
        return state, self.observe(state)

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        cars, time = {name: x for name, x in state.items() if name != "time"}, state["time"] + 1
        cars = lax.fori_loop(0, FRAMES, lambda _, cars: self.frame(cars), self.steer(cars, action))
        terminated = cars["crashed"][0]
        fast = jnp.clip((cars["speed"][0] * jnp.cos(cars["heading"][0]) - 20) / 10, 0, 1)
        right, off = cars["target_lane"][0] / (self.lanes - 1), jnp.abs(cars["y"] - LANE * self.lane(cars))[0] > LANE / 2
        reward = jnp.where(off, 0.0, (0.4 * fast + 0.1 * right - terminated + 1) / 1.5)
        state = {**cars, "time": time}
        obs = self.observe(state)
        return state, TimeStep(obs, reward, terminated, (time >= self.max_steps) & ~terminated, obs)

    def steer(self, cars: dict, action) -> dict:
        """What the ego car aims at after an action."""
        lane, speed = cars["target_lane"][0], cars["speed"][0]
        beside = jnp.clip(lane + (action == RIGHT) - (action == LEFT), 0, self.lanes - 1)
        reachable = jnp.abs(cars["y"][0] - LANE * beside) <= 2 * LANE
        index = jnp.clip(jnp.round((speed - SLOWEST) / SPEED_STEP), 0, SPEEDS - 1)
        index = jnp.clip(index + jnp.where(action == FASTER, 1, -1), 0, SPEEDS - 1)
        changes = (action == FASTER) | (action == SLOWER)
        wanted = jnp.where(changes, SLOWEST + SPEED_STEP * index, cars["target_speed"][0])
        return {**cars, "target_lane": cars["target_lane"].at[0].set(jnp.where(reachable, beside, lane)),
                "target_speed": cars["target_speed"].at[0].set(wanted)}

    def lane(self, cars: dict) -> Int[Array, "n"]:
        return jnp.clip(jnp.ceil(cars["y"] / LANE - 0.5), 0, self.lanes - 1).astype(jnp.int32)

    def frame(self, cars: dict) -> dict:
        """0.2 s: all decide, then all move, then the ego car may collide."""
        lane, others = self.lane(cars), jnp.arange(self.vehicles + 1) > 0
        # XLA would compute what stands before a barrier anew for each of its uses.
        front, safe = lax.optimization_barrier(around(cars, lane))         # (3, n), (2, n)
        left, ahead, right = front

        # MOBIL, as polite as there: not at all. To the right where both lanes would do.
        sides = jnp.array([[-1], [1]])
        gains = jnp.stack([left, right]) - ahead >= MIN_GAIN
        exists = (lane + sides >= 0) & (lane + sides < self.lanes)
        better = gains & safe & exists & (jnp.abs(cars["speed"]) >= 1)     # (2, n)
        drives, changing = others & ~cars["crashed"], lane != cars["target_lane"]
        due = drives & ~changing & (cars["timer"] > LANE_CHANGE_DELAY)
        chosen = jnp.where(due, jnp.where(better[1], lane + 1, jnp.where(better[0], lane - 1, lane)), cars["target_lane"])
        target = jnp.where(drives & changing & gives_way(cars, lane, chosen), lane, chosen)

        target = lax.optimization_barrier(target)
        beside = jnp.where(target == lane, ahead, jnp.where(target > lane, right, left))
        idm = jnp.clip(jnp.minimum(ahead, beside), -MAX_ACCELERATION, MAX_ACCELERATION)
        speed_control = KP_SPEED * (cars["target_speed"] - cars["speed"])
        acceleration = jnp.where(cars["crashed"], -cars["speed"], jnp.where(others, idm, speed_control))
        slip = jnp.where(cars["crashed"], 0.0, slip_angle(cars, target))
        timer = jnp.where(due, 0.0, cars["timer"]) + DT * others
        return collide(move({**cars, "target_lane": target, "timer": timer}, acceleration, slip))

    def observe(self, state: dict) -> Float[Array, "5 5"]:
        rows = jnp.stack([jnp.ones_like(state["x"]), state["x"] / SIGHT, state["y"] / (LANE * self.lanes),
                          state["speed"] * jnp.cos(state["heading"]) / 80, state["speed"] * jnp.sin(state["heading"]) / 80], 1)
        relative = rows[1:] - rows[0] * jnp.array([0, 1, 1, 1, 1])
        x, y = state["x"][1:] - state["x"][0], state["y"][1:] - state["y"][0]
        seen = (x > BEHIND) & (x**2 + y**2 < SIGHT**2)
        far = jnp.where(seen, jnp.abs(x), jnp.inf)
        index = jnp.argsort(far)[:SEEN]                                    # lax.top_k gathers the environments of all devices
        relative = jnp.where(jnp.isfinite(far[index])[:, None], relative[index], 0.0)
        return jnp.clip(jnp.concatenate([rows[:1], relative]), -1, 1)

    def draw(self, state):
        ego = float(state["x"][0])
        canvas = draw.Canvas(ego - 20, ego + 80, -LANE * (self.lanes + 0.5), LANE * 1.5, pixels=500)
        for i in range(self.lanes + 1):
            canvas.line((ego - 30, LANE * (0.5 - i)), (ego + 90, LANE * (0.5 - i)), 0.3, draw.GREY)
        for i in range(self.vehicles, -1, -1):
            colour = draw.RED if state["crashed"][i] else draw.BLUE if i else draw.GREEN
            canvas.rectangle((state["x"][i], -state["y"][i]), LENGTH, WIDTH, colour)
        return canvas.image


def around(cars: dict, lane) -> tuple[Float[Array, "3 n"], Bool[Array, "2 n"]]:
    """IDM's acceleration behind the car ahead in the lane to the left, in the own and in that to the right; and whether those
    behind, to the left and to the right, would not have to brake hard if one changed there. Pairs are (other, self)."""
    x, speed, cos, sin = cars["x"], cars["speed"], jnp.cos(cars["heading"]), jnp.sin(cars["heading"])
    distance, turn = x[:, None] - x, cos[:, None] * cos + sin[:, None] * sin
    in_lane = jnp.abs(cars["y"][:, None] - LANE * (lane + jnp.array([-1, 0, 1])[:, None, None])) <= LANE / 2 + 1  # (3, n, n)
    share = jnp.maximum(speed, 0) / jnp.maximum(jnp.clip(cars["target_speed"], 0, SPEED_LIMIT), 0.01)

    pressure = (wanted_gap(speed, speed[:, None] * turn) / not_zero(distance)) ** 2
    ahead = nearest(distance, in_lane & (distance >= 0) & ~jnp.eye(len(x), dtype=bool))
    front = 1 - share ** cars["delta"] - jnp.where(ahead, pressure, 0).sum(1)

    pressure = (wanted_gap(speed[:, None], speed * turn) / not_zero(-distance)) ** 2
    behind = nearest(-distance, in_lane[::2] & (distance < 0))
    share = jnp.where(behind, share[:, None], 0).sum(1)                    # of the other, with the own exponent
    follower = 1 - share ** cars["delta"] - jnp.where(behind, pressure, 0).sum(1)
    return ACCELERATION * front, ACCELERATION * follower >= -MAX_BRAKING_IMPOSED


def nearest(distance: Float[Array, "n n"], among: Bool[Array, "k n n"]) -> Bool[Array, "k n n"]:
    """Which of these others, if any, is nearest to self."""
    return among & (distance == jnp.where(among, distance, jnp.inf).min(1, keepdims=True))


def wanted_gap(speed, front_speed):
    """IDM's, to a car in front, whose speed is that along the own way."""
    return JAM_DISTANCE + speed * (TIME_GAP + (speed - front_speed) / (2 * np.sqrt(ACCELERATION * BRAKING)))


def gives_way(cars: dict, lane, target) -> Bool[Array, "n"]:
    """Whether a car on its way to a lane goes back since one ahead, within its gap, is on its way there too.

    highway-env asks one after the other: who comes later sees who has gone back. Three rounds are exact unless a car waits for
    a car that waits for a third that waits for a fourth.
    """
    order, turn = jnp.arange(len(lane)), jnp.cos(cars["heading"][:, None] - cars["heading"])
    distance = cars["x"][:, None] - cars["x"]
    near = (distance > 0) & (distance < wanted_gap(cars["speed"], cars["speed"][:, None] * turn))
    earlier = order[:, None] < order
    goal = jnp.where(earlier, target[:, None], cars["target_lane"][:, None])
    blocks = near & (goal == cars["target_lane"]) & (lane[:, None] != cars["target_lane"])
    back = jnp.zeros(len(lane), bool)
    for _ in range(3):
        back = (blocks & ~(earlier & back[:, None])).any(0) & (lane != cars["target_lane"]) & (order > 0) & ~cars["crashed"]
    return back


def slip_angle(cars: dict, target) -> Float[Array, "n"]:
    """Of the bicycle model under the steering that leads to the middle of the target lane."""
    speed = not_zero(cars["speed"])
    heading = jnp.arcsin(jnp.clip(-KP_LATERAL * (cars["y"] - LANE * target) / speed, -1, 1))
    turn = jnp.clip(heading, -np.pi / 4, np.pi / 4) - cars["heading"]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    return jnp.clip(jnp.arcsin(jnp.clip(LENGTH / 2 / speed * KP_HEADING * turn, -1, 1)), -MAX_SLIP, MAX_SLIP)


def move(cars: dict, acceleration, slip) -> dict:
    direction, speed, impact = cars["heading"] + slip, cars["speed"], cars["impact"]
    return {**cars, "x": cars["x"] + DT * speed * jnp.cos(direction) + impact[:, 0],
            "y": cars["y"] + DT * speed * jnp.sin(direction) + impact[:, 1],
            "heading": cars["heading"] + DT * speed * jnp.sin(slip) / (LENGTH / 2), "speed": speed + DT * acceleration,
            "crashed": cars["crashed"] | (impact != 0).any(1), "impact": jnp.zeros_like(impact)}


def collide(cars: dict) -> dict:
    """The ego car with each other, as rectangles by the separating axis theorem: those that overlap are crashed; those that
    will within a frame, as they move, are pushed apart along the shortest way, half of it each, and are crashed then."""
    cos, sin, speed = jnp.cos(cars["heading"]), jnp.sin(cars["heading"]), DT * cars["speed"]
    along = lambda x, y: jnp.stack([x * cos[0] + y * sin[0], y * cos[0] - x * sin[0], x * cos[1:] + y * sin[1:],
                                    y * cos[1:] - x * sin[1:]])            # (4, o): on both cars' axes, ahead and to the left
    x, y = cars["x"][0] - cars["x"][1:], cars["y"][0] - cars["y"][1:]
    away = along(x, y)
    closing = along(speed[0] * cos[0] - speed[1:] * cos[1:], speed[0] * sin[0] - speed[1:] * sin[1:])
    parallel, crossed = jnp.abs(cos[0] * cos[1:] + sin[0] * sin[1:]), jnp.abs(cos[0] * sin[1:] - sin[0] * cos[1:])
    reach = jnp.stack([LENGTH * (1 + parallel) + WIDTH * crossed, WIDTH * (1 + parallel) + LENGTH * crossed] * 2) / 2
    depth = reach + jnp.minimum(away + jnp.maximum(closing, 0), -away - jnp.minimum(closing, 0))
    near = x**2 + y**2 <= (np.hypot(LENGTH, WIDTH) + speed[0]) ** 2
    overlap, will = near & (jnp.abs(away) <= reach).all(0), near & (depth >= 0).all(0)
    shortest = jax.nn.one_hot(jnp.argmin(depth, 0), 4, axis=0)             # (4, o)
    by = (shortest * jnp.where(away > 0, depth, -depth)).sum(0) / 2 * will
    normal = lambda ego, other: (shortest * jnp.stack([*jnp.broadcast_arrays(*ego, *other)])).sum(0)
    push = jnp.stack([by * normal((cos[0], -sin[0]), (cos[1:], -sin[1:])),
                      by * normal((sin[0], cos[0]), (sin[1:], cos[1:]))], -1)                 # (o, 2)
    last = jnp.max(jnp.where(will, jnp.arange(len(will)), 0))              # of several the last one's counts
    crashed = cars["crashed"] | jnp.concatenate([overlap.any()[None], overlap])
    return {**cars, "crashed": crashed, "impact": jnp.concatenate([push[last][None], -push])}


def not_zero(x):
    return jnp.where(jnp.abs(x) > 0.01, x, jnp.where(x >= 0, 0.01, -0.01))
