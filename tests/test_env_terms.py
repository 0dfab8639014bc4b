"""A restored policy speaks the environment's own terms: what goes into one end comes out at the
other.
"""
import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import config_for

import karpjax as kj
from karpjax.envs import foreign_spaces
from karpjax.run.restore import Run
from karpjax.tasks import ppo

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
from gymnasium.spaces import (Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text,  # noqa: E402
                              Tuple)


class Drawn(gymnasium.Env):
    """An environment whose observations are drawn, and which takes no action but its own."""
    def __init__(self, observes, acts):
        self.observation_space, self.action_space = copy.deepcopy(observes), acts

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


gymnasium.register("Drawn-v0", entry_point=Drawn, max_episode_steps=8)
ROOM = Dict(where=Box(-1, 1, (2, 2)), room=Discrete(3, start=1), lamps=MultiBinary(2))
PAIR = Tuple((Discrete(2), MultiDiscrete([2, 3], start=[1, -1])))
PICTURE = Box(0, 255, (3, 3), np.uint8)
CASES = [(Discrete(16), Discrete(3, start=-1)),
         (Box(-1, 1, (2, 2)), Box(-0.1, 0.7, (2, 2), np.float64)),
         (ROOM, MultiDiscrete([[2, 3], [4, 2]])),
         (PAIR, Box(-2, 3, (2,), np.int8)),
         (PICTURE, MultiBinary((3, 1)))]
EACH = pytest.mark.parametrize("case", range(len(CASES)), ids=str)


def policy(env) -> Run:
    """Return a run of a network that nobody has trained, whose outputs are large."""
    config = config_for("ppo", model=dict(name="actor_critic", width=8))
    task = ppo.build(config, env=env)
    variables = jax.jit(task.init)(jax.random.key(0))
    variables["params"]["policy"]["kernel"] *= 300
    return Run(config, task, variables, 0, {})


@functools.cache
def policy_of(case: int) -> Run:
    observes, acts = CASES[case]
    return policy(kj.envs.make_env("gymnasium:Drawn-v0", observes=observes, acts=acts))


def rows(space, n: int):
    """Return n samples of a space, stacked as Gymnasium's vector environments stack them."""
    space.seed(1)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, (Dict, Tuple)):
        keys = list(space) if isinstance(space, Dict) else range(len(space.spaces))
        columns = {key: np.stack([sample[key] for sample in samples]) for key in keys}
        stacked = columns if isinstance(space, Dict) else tuple(columns.values())
    else:
        stacked = np.stack(samples)
    return samples, stacked


# --------------------------------------------------------------------------- one end and the other

@EACH
def test_a_users_loop_plays_what_evaluation_plays(case):
    """The most likely actions through the simulators, and by hand through run.act, are the same."""
    (observes, acts), run, key = CASES[case], policy_of(case), jax.random.key(0)
    env = run.task.source.env
    taken = []

    def most_likely(variables, obs):
        (outputs, _), _ = kj.apply(run.model, variables["params"], {}, obs)
        return kj.rl.distributions.of(env.actions, outputs).mode()
    likely = jax.jit(most_likely)
    state, obs = env.reset(key)
    theirs = gymnasium.make("Drawn-v0", observes=observes, acts=acts)
    seen, _ = theirs.reset(seed=int(state["seed"]))
    for _ in range(8):
        state, out = env.step(state, likely(run.variables, obs), key)
        action = run.act(seen)
        assert acts.contains(action)
        np.testing.assert_allclose(run.predict(seen), action, rtol=1e-6)
        taken.append(action)
        seen, reward, _, truncated, _ = theirs.step(action)
        assert out.reward == np.float32(reward)
        np.testing.assert_array_equal(out.obs, env.encode(seen))
        obs = out.obs
    assert truncated and out.truncated
    assert len(np.unique(np.array(taken).reshape(8, -1), axis=0)) > 1
    # A mutant: an action of the protocol's is none of these environments'.
    raw = likely(run.variables, obs)
    assert not (acts.contains(np.asarray(raw)) and np.array_equal(raw, env.decode(raw)))


@EACH
def test_many_at_once_are_each_alone(case):
    """(16,) states give 16 actions, and a batch of a Dict's entries one for each row."""
    (observes, acts), run = CASES[case], policy_of(case)
    samples, stacked = rows(observes, 16)
    actions = run.act(stacked)
    assert actions.shape == (16, *acts.shape) and actions.dtype == acts.dtype
    for sample, action in zip(samples, actions, strict=True):
        np.testing.assert_allclose(run.act(sample), action, rtol=1e-5)
    np.testing.assert_allclose(run.predict(stacked), actions, rtol=1e-6)
    # within somebody's program too
    np.testing.assert_allclose(jax.jit(run.act)(stacked), actions, rtol=1e-6)


# ------------------------------------------------------------------------------------ right values

def decoded(space, action):
    return foreign_spaces.actions_of(space, "Mine")[1](action)


def test_actions_are_the_spaces_own():
    assert decoded(Discrete(3, start=-1), jnp.int32(2)) == 1
    assert type(decoded(Discrete(3, start=-1), np.int32(2))) is int       # a key of P in FrozenLake
    assert decoded(Discrete(3, start=-1), np.array([0, 2])).tolist() == [-1, 1]
    box = decoded(Box(-1, 1, (2, 2)), np.float32([1.61, -7, 0.5, 1]))
    assert box.tolist() == [[1, -1], [0.5, 1]] and box.dtype == np.float32
    sizes = MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]])
    assert decoded(sizes, np.array([0, 2, 3, 1])).tolist() == [[1, 2], [3, 6]]
    assert decoded(MultiBinary((1, 2)), np.array([0, 1])).tolist() == [[0, 1]]


def test_integers_are_rounded():
    """Of -3 to 3, cut to integers, 0 would be twice as likely as any other."""
    numbers = np.float32([[-9], [-2.6], [-0.6], [0.4], [0.6], [2.7]])
    few = decoded(Box(-3, 3, (1,), np.int64), numbers)
    assert few.ravel().tolist() == [-3, -3, -1, 0, 1, 3]
    even = np.float32([[(i + 0.5) / 200 - 0.5] for i in range(400)])       # from -0.5 to 1.5
    assert decoded(Box(0, 1, (1,), np.int32), even).mean() == 0.5


TEXT = Text(4, charset="abc", min_length=1)


@pytest.mark.parametrize("space", [
    Discrete(5, start=-2), MultiDiscrete([2, 3], start=[1, 4]), MultiDiscrete([[2, 3], [4, 2]]),
    MultiBinary((2, 2)), ROOM, PAIR, Tuple((PICTURE, PICTURE)), Dict(b=PAIR, a=ROOM),
    Dict(a=PICTURE, t=TEXT), TEXT], ids=str)
def test_observations_are_flattened_as_gymnasium_does(space):
    like, encode = foreign_spaces.observations_of(space, "Mine", None)
    flat = gymnasium.spaces.flatten_space(space)
    assert like.shape == flat.shape
    assert like.dtype == (np.uint8 if flat.dtype == np.uint8 else np.float32)
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        expected = gymnasium.spaces.flatten(space, sample).astype(like.dtype)
        np.testing.assert_array_equal(encode(sample), expected)
    if space is TEXT:
        assert encode([["ab", "c"], ["cab", "a"]]).shape == (2, 2, 4)


@pytest.mark.parametrize("observes, obs, says", [
    (Discrete(16), 16, r"expected an observation of Discrete\(16\), found int64 16"),
    (Discrete(16), [-1, 3], r"found int64 \[-1, 3\]"),
    (Discrete(16), np.eye(16)[:2], r"found float64 \(2, 16\)"),
    (ROOM, {"where": np.zeros((2, 2))}, "without room, lamps|without lamps, room"),
    (ROOM, np.zeros(9), "found ndarray without"),
    (PAIR, (1,), "found tuple without 1"),
    (PICTURE, np.full((3, 3), 0.5), "uint8, as its space says, found float64 from 0.5 to 0.5"),
    (PICTURE, np.full((3, 3), 256), "found int64 from 256 to 256"),
    (PICTURE, np.zeros((3, 4), np.uint8), r"found uint8 \(3, 4\)"),
    (Box(-1, 1, (2, 2)), np.zeros((2, 3)), r"found float64 \(2, 3\)")])
def test_other_observations_are_refused(observes, obs, says):
    _, encode = foreign_spaces.observations_of(observes, "Mine", None)
    with pytest.raises(kj.UserError, match=says):
        encode(obs)


def test_environments_in_jax():
    """Theirs are the protocol's terms; torques are within their bounds, types as in training."""
    run = policy(kj.envs.make_env("pendulum"))
    torque = np.asarray(run.act(np.float64([[0.6, 0.8, 2], [-1, 0, -5]])))
    assert torque.shape == (2, 1) and (np.abs(torque) <= 2).all() and torque[1] == -2
    np.testing.assert_allclose(run.act([0.6, 0.8, 2.0]), torque[0], rtol=1e-6)
    np.testing.assert_array_equal(run.act(np.array([1, 0, 3])), run.act(np.float32([1, 0, 3])))
    np.testing.assert_array_equal(run.act(np.uint8([1, 0, 3])), run.act(np.float32([1, 0, 3])))
    for obs, says in ((np.zeros(4), r"float32\[3\], .* found float64\[4\]"),
                      ({"obs": np.zeros(3)}, "found {'obs'"), ("north", "found str")):
        with pytest.raises(kj.UserError, match=says):
            run.act(obs)
