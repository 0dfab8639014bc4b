"""Highway in JAX: overtake on a three-lane motorway without a crash, by five meta-actions.

Frame for frame this is highway-env's `highway-fast-v0` (Leurent 2018; version 1.12.1). The 20 cars
ahead follow the Intelligent Driver Model (IDM; Treiber, Hennecke and Helbing 2000) and change lanes
by MOBIL (Kesting, Treiber and Helbing 2007). All move by a kinematic bicycle model with steering
and speed controllers, five frames of 0.2 s an action. The ego car observes itself and the nearest
four cars that are not behind it, (5, 5): presence, x, y, vx, vy, scaled to -1 .. 1, the others'
relative to its own.

The reward of a step, 0 to 1, is for speed (20 to 30 m/s) and the rightmost lane: 0.1 a lane and 0.4
for speed, a crash -1, then scaled. A crash ends the episode (terminated), else it is cut after 30
steps (truncated). As there, only the ego car collides.

tests/test_highway.py compares every step with theirs: positions to 2 mm, rewards, ends. Two things
are left out, as no episode of 30 steps meets them: the end of the road after 10 km and the top
speed of 40 m/s. Random numbers are not theirs: starts agree in distribution.
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
SLOWEST, SPEED_STEP, SPEEDS = 20.0, 5.0, 3                                 # the ego car's, m/s
OBSERVED, SIGHT, BEHIND = 4, 200.0, -2 * LENGTH                            # cars, m, m

KP_SPEED, KP_HEADING, KP_LATERAL = 1 / 0.6, 1 / 0.2, 1 / 0.6               # 1/s
MAX_SLIP = float(np.arctan(np.tan(np.pi / 3) / 2))                         # rad, at full steering

ACCELERATION, BRAKING, MAX_ACCELERATION = 3.0, 5.0, 6.0                    # IDM: m/s^2
JAM_DISTANCE, TIME_GAP = 5.0 + LENGTH, 1.5                                 # m, s
MIN_GAIN, MAX_BRAKING_IMPOSED, LANE_CHANGE_DELAY = 0.2, 2.0, 1.0           # MOBIL: m/s^2, m/s^2, s


class Highway:
    """Environment of this module, by karpjax/envs/protocol.py.

    vehicles   cars beside the ego car, which is the first entry of all arrays
    """
    actions = Discrete(5)                          # lane left, idle, lane right, faster, slower

    def __init__(self, max_steps: int = 30, lanes: int = 3, vehicles: int = 20):
        if lanes < 2 or vehicles < OBSERVED:
            raise UserError(f"config.env: expected lanes >= 2 and vehicles >= {OBSERVED}, "
                            f"found {lanes} and {vehicles}")
        self.max_steps, self.lanes, self.vehicles = max_steps, lanes, vehicles

    def reset(self, key):
        """Place each car ahead of the previous one, in any lane."""
        lane_key, speed_key, gap_key, delta_key = jax.random.split(key, 4)
        n = self.vehicles + 1
        ego = jnp.arange(n) == 0
        lane = jax.random.randint(lane_key, (n,), 0, self.lanes)
        share = jax.random.uniform(speed_key, (n,), minval=0.7, maxval=0.8)
        speed = jnp.where(ego, 25.0, SPEED_LIMIT * share)
        spacing = jnp.where(ego, 1.5, 1.0) * (12 + speed) * np.exp(-self.lanes / 8)
        gap = jax.random.uniform(gap_key, (n,), minval=0.9, maxval=1.1) + 3 * ego
        x = jnp.cumsum(spacing * gap)
        y = LANE * lane.astype(jnp.float32)
        state = {"x": x, "y": y, "heading": jnp.zeros(n), "speed": speed,
                 "target_lane": lane, "target_speed": speed,
                 # IDM's exponent.
                 "delta": jax.random.uniform(delta_key, (n,), minval=3.5, maxval=4.5),
                 # Seconds since the driver last considered another lane.
                 "timer": jnp.where(ego, 0.0, (x + y) * np.pi % LANE_CHANGE_DELAY),
                 "crashed": jnp.zeros(n, bool), "impact": jnp.zeros((n, 2)),
                 "time": jnp.int32(0)}
        return state, self.observe(state)

    def step(self, state: dict, action: Int[Array, ""], key) -> tuple[dict, TimeStep]:
        cars = {name: x for name, x in state.items() if name != "time"}
        time = state["time"] + 1
        cars = lax.fori_loop(0, FRAMES, lambda _, cars: self.frame(cars), self.steer(cars, action))
        terminated = cars["crashed"][0]
        fast = jnp.clip((cars["speed"][0] * jnp.cos(cars["heading"][0]) - 20) / 10, 0, 1)
        right = cars["target_lane"][0] / (self.lanes - 1)
        off = jnp.abs(cars["y"] - LANE * self.lane(cars))[0] > LANE / 2
        reward = jnp.where(off, 0.0, (0.4 * fast + 0.1 * right - terminated + 1) / 1.5)
        state = {**cars, "time": time}
        obs = self.observe(state)
        truncated = (time >= self.max_steps) & ~terminated
        return state, TimeStep(obs, reward, terminated, truncated, obs)

    def steer(self, cars: dict, action) -> dict:
        """Return the cars with the ego car's target lane and speed after an action."""
        lane, speed = cars["target_lane"][0], cars["speed"][0]
        beside = jnp.clip(lane + (action == RIGHT) - (action == LEFT), 0, self.lanes - 1)
        reachable = jnp.abs(cars["y"][0] - LANE * beside) <= 2 * LANE
        index = jnp.clip(jnp.round((speed - SLOWEST) / SPEED_STEP), 0, SPEEDS - 1)
        index = jnp.clip(index + jnp.where(action == FASTER, 1, -1), 0, SPEEDS - 1)
        changes = (action == FASTER) | (action == SLOWER)
        wanted = jnp.where(changes, SLOWEST + SPEED_STEP * index, cars["target_speed"][0])
        target = jnp.where(reachable, beside, lane)
        return {**cars, "target_lane": cars["target_lane"].at[0].set(target),
                "target_speed": cars["target_speed"].at[0].set(wanted)}

    def lane(self, cars: dict) -> Int[Array, "n"]:
        return jnp.clip(jnp.ceil(cars["y"] / LANE - 0.5), 0, self.lanes - 1).astype(jnp.int32)

    def frame(self, cars: dict) -> dict:
        """Advance by 0.2 s: all decide, then all move, then the ego car may collide."""
        lane, others = self.lane(cars), jnp.arange(self.vehicles + 1) > 0
        # Without barriers XLA would compute their operands again for each use.
        front, safe = lax.optimization_barrier(around(cars, lane))         # (3, n), (2, n)
        left, ahead, right = front

        # MOBIL with a politeness of 0, as there. To the right if both lanes would do.
        sides = jnp.array([[-1], [1]])
        gains = jnp.stack([left, right]) - ahead >= MIN_GAIN
        exists = (lane + sides >= 0) & (lane + sides < self.lanes)
        better = gains & safe & exists & (jnp.abs(cars["speed"]) >= 1)     # (2, n)
        drives, changing = others & ~cars["crashed"], lane != cars["target_lane"]
        due = drives & ~changing & (cars["timer"] > LANE_CHANGE_DELAY)
        best = jnp.where(better[1], lane + 1, jnp.where(better[0], lane - 1, lane))
        chosen = jnp.where(due, best, cars["target_lane"])
        target = jnp.where(drives & changing & gives_way(cars, lane, chosen), lane, chosen)

        target = lax.optimization_barrier(target)
        beside = jnp.where(target == lane, ahead, jnp.where(target > lane, right, left))
        idm = jnp.clip(jnp.minimum(ahead, beside), -MAX_ACCELERATION, MAX_ACCELERATION)
        speed_control = KP_SPEED * (cars["target_speed"] - cars["speed"])
        driven = jnp.where(others, idm, speed_control)
        acceleration = jnp.where(cars["crashed"], -cars["speed"], driven)
        slip = jnp.where(cars["crashed"], 0.0, slip_angle(cars, target))
        timer = jnp.where(due, 0.0, cars["timer"]) + DT * others
        cars = {**cars, "target_lane": target, "timer": timer}
        return collide(move(cars, acceleration, slip))

    def observe(self, state: dict) -> Float[Array, "5 5"]:
        rows = jnp.stack([jnp.ones_like(state["x"]), state["x"] / SIGHT,
                          state["y"] / (LANE * self.lanes),
                          state["speed"] * jnp.cos(state["heading"]) / 80,
                          state["speed"] * jnp.sin(state["heading"]) / 80], 1)
        relative = rows[1:] - rows[0] * jnp.array([0, 1, 1, 1, 1])
        x, y = state["x"][1:] - state["x"][0], state["y"][1:] - state["y"][0]
        visible = (x > BEHIND) & (x**2 + y**2 < SIGHT**2)
        far = jnp.where(visible, jnp.abs(x), jnp.inf)
        # Sorted: lax.top_k would gather the environments of all devices.
        index = jnp.argsort(far)[:OBSERVED]
        relative = jnp.where(jnp.isfinite(far[index])[:, None], relative[index], 0.0)
        return jnp.clip(jnp.concatenate([rows[:1], relative]), -1, 1)

    def draw(self, state):
        ego = float(state["x"][0])
        canvas = draw.Canvas(ego - 20, ego + 80, -LANE * (self.lanes + 0.5), LANE * 1.5, pixels=500)
        for i in range(self.lanes + 1):
            y = LANE * (0.5 - i)
            canvas.line((ego - 30, y), (ego + 90, y), 0.3, draw.GREY)
        for i in range(self.vehicles, -1, -1):
            colour = draw.RED if state["crashed"][i] else draw.BLUE if i else draw.GREEN
            canvas.rectangle((state["x"][i], -state["y"][i]), LENGTH, WIDTH, colour)
        return canvas.image


def around(cars: dict, lane) -> tuple[Float[Array, "3 n"], Bool[Array, "2 n"]]:
    """Return IDM's acceleration in three lanes (3, n), and whether a lane change is safe (2, n).

    The lanes are the one to the left, the car's own and the one to the right: the acceleration is
    that behind the car ahead there. A change to the left or to the right is safe if the car behind
    would not have to brake hard. Pairs are (other, self).
    """
    x, speed = cars["x"], cars["speed"]
    cos, sin = jnp.cos(cars["heading"]), jnp.sin(cars["heading"])
    distance, turn = x[:, None] - x, cos[:, None] * cos + sin[:, None] * sin
    middle = LANE * (lane + jnp.array([-1, 0, 1])[:, None, None])
    in_lane = jnp.abs(cars["y"][:, None] - middle) <= LANE / 2 + 1         # (3, n, n)
    limit = jnp.maximum(jnp.clip(cars["target_speed"], 0, SPEED_LIMIT), 0.01)
    share = jnp.maximum(speed, 0) / limit

    pressure = (wanted_gap(speed, speed[:, None] * turn) / not_zero(distance)) ** 2
    ahead = nearest(distance, in_lane & (distance >= 0) & ~jnp.eye(len(x), dtype=bool))
    front = 1 - share ** cars["delta"] - jnp.where(ahead, pressure, 0).sum(1)

    pressure = (wanted_gap(speed[:, None], speed * turn) / not_zero(-distance)) ** 2
    behind = nearest(-distance, in_lane[::2] & (distance < 0))
    share = jnp.where(behind, share[:, None], 0).sum(1)                    # with the own exponent
    follower = 1 - share ** cars["delta"] - jnp.where(behind, pressure, 0).sum(1)
    return ACCELERATION * front, ACCELERATION * follower >= -MAX_BRAKING_IMPOSED


def nearest(distance: Float[Array, "n n"], among: Bool[Array, "k n n"]) -> Bool[Array, "k n n"]:
    """Return which of these others, if any, is nearest to self."""
    return among & (distance == jnp.where(among, distance, jnp.inf).min(1, keepdims=True))


def wanted_gap(speed, front_speed):
    """Return IDM's gap to a car in front, whose speed is measured along the own way."""
    closing = (speed - front_speed) / (2 * np.sqrt(ACCELERATION * BRAKING))
    return JAM_DISTANCE + speed * (TIME_GAP + closing)


def gives_way(cars: dict, lane, target) -> Bool[Array, "n"]:
    """Return whether a car that changes lane goes back, as one close ahead goes there too."""
    # highway-env asks one car after the other: later ones know which have gone back. Three rounds
    # are exact unless a car waits for a car that waits for a third that waits for a fourth.
    order, turn = jnp.arange(len(lane)), jnp.cos(cars["heading"][:, None] - cars["heading"])
    distance = cars["x"][:, None] - cars["x"]
    gap = wanted_gap(cars["speed"], cars["speed"][:, None] * turn)
    near = (distance > 0) & (distance < gap)
    earlier = order[:, None] < order
    goal = jnp.where(earlier, target[:, None], cars["target_lane"][:, None])
    blocks = near & (goal == cars["target_lane"]) & (lane[:, None] != cars["target_lane"])
    back = jnp.zeros(len(lane), bool)
    for _ in range(3):
        blocked = (blocks & ~(earlier & back[:, None])).any(0)
        back = blocked & (lane != cars["target_lane"]) & (order > 0) & ~cars["crashed"]
    return back


def slip_angle(cars: dict, target) -> Float[Array, "n"]:
    """Return the bicycle model's slip angle, steering to the middle of the target lane."""
    speed = not_zero(cars["speed"])
    heading = jnp.arcsin(jnp.clip(-KP_LATERAL * (cars["y"] - LANE * target) / speed, -1, 1))
    turn = jnp.clip(heading, -np.pi / 4, np.pi / 4) - cars["heading"]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    slip = jnp.arcsin(jnp.clip(LENGTH / 2 / speed * KP_HEADING * turn, -1, 1))
    return jnp.clip(slip, -MAX_SLIP, MAX_SLIP)


def move(cars: dict, acceleration, slip) -> dict:
    """Return the cars after 0.2 s of the bicycle model, and pushed by the impacts of before."""
    direction, speed, impact = cars["heading"] + slip, cars["speed"], cars["impact"]
    return {**cars, "x": cars["x"] + DT * speed * jnp.cos(direction) + impact[:, 0],
            "y": cars["y"] + DT * speed * jnp.sin(direction) + impact[:, 1],
            "heading": cars["heading"] + DT * speed * jnp.sin(slip) / (LENGTH / 2),
            "speed": speed + DT * acceleration,
            "crashed": cars["crashed"] | (impact != 0).any(1), "impact": jnp.zeros_like(impact)}


def collide(cars: dict) -> dict:
    """Collide the ego car with each other car, as rectangles by the separating axis theorem.

    Cars that overlap are crashed. Cars that will overlap within a frame, as they move, are pushed
    apart along the shortest way, half of it each, and are crashed in the next frame.
    """
    cos, sin, speed = jnp.cos(cars["heading"]), jnp.sin(cars["heading"]), DT * cars["speed"]

    def along(x, y):  # (4, o): on both cars' axes, ahead and to the left
        return jnp.stack([x * cos[0] + y * sin[0], y * cos[0] - x * sin[0],
                          x * cos[1:] + y * sin[1:], y * cos[1:] - x * sin[1:]])

    x, y = cars["x"][0] - cars["x"][1:], cars["y"][0] - cars["y"][1:]
    away = along(x, y)
    closing = along(speed[0] * cos[0] - speed[1:] * cos[1:],
                    speed[0] * sin[0] - speed[1:] * sin[1:])
    parallel = jnp.abs(cos[0] * cos[1:] + sin[0] * sin[1:])
    crossed = jnp.abs(cos[0] * sin[1:] - sin[0] * cos[1:])
    reach = jnp.stack([LENGTH * (1 + parallel) + WIDTH * crossed,
                       WIDTH * (1 + parallel) + LENGTH * crossed] * 2) / 2
    depth = reach + jnp.minimum(away + jnp.maximum(closing, 0), -away - jnp.minimum(closing, 0))
    near = x**2 + y**2 <= (np.hypot(LENGTH, WIDTH) + speed[0]) ** 2
    overlap = near & (jnp.abs(away) <= reach).all(0)
    will = near & (depth >= 0).all(0)
    shortest = jax.nn.one_hot(jnp.argmin(depth, 0), 4, axis=0)             # (4, o)
    by = (shortest * jnp.where(away > 0, depth, -depth)).sum(0) / 2 * will

    def component(*axes):  # (o,): of the shortest way's direction, from that of the four axes
        return (shortest * jnp.stack(jnp.broadcast_arrays(*axes))).sum(0)

    push = jnp.stack([by * component(cos[0], -sin[0], cos[1:], -sin[1:]),
                      by * component(sin[0], cos[0], sin[1:], cos[1:])], -1)                # (o, 2)
    last = jnp.max(jnp.where(will, jnp.arange(len(will)), 0))              # the last impact counts
    crashed = cars["crashed"] | jnp.concatenate([overlap.any()[None], overlap])
    return {**cars, "crashed": crashed, "impact": jnp.concatenate([push[last][None], -push])}


def not_zero(x):
    """Return x, or 0.01 with its sign if it is nearer to 0 than that."""
    return jnp.where(jnp.abs(x) > 0.01, x, jnp.where(x >= 0, 0.01, -0.01))
