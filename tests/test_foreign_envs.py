"""Gymnasium's environments that mask actions, ignore their seed or fail: one line, or the rules."""
import random
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl_helpers import begun, config_for

import karpjax as kj
from karpjax.envs import protocol
from karpjax.tasks import ppo

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
from gymnasium.spaces import (Box, Dict, Discrete, Graph, MultiBinary,  # noqa: E402
                              MultiDiscrete, Sequence)

NOISE = random.Random(0)


class Walk(gymnasium.Env):
    """A walk on a line of five places, which refuses to leave it.

    own     what to return of a place, in place of the place and the mask of legal moves
    """
    action_space = Discrete(2, start=1)
    observation_space = Dict(place=Discrete(5), action_mask=MultiBinary(2))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(5))
        return self.seen(), {}

    def seen(self):
        return {"place": self.place, "action_mask": np.int8([self.place > 0, self.place < 4])}

    def step(self, action):
        self.place += {1: -1, 2: 1}[action]
        assert 0 <= self.place < 5, "an illegal move was played"
        return self.seen(), float(self.place == 4), False, False, {}


def made(monkeypatch, **parts):
    """Return the environment of a Walk that differs in these attributes and functions."""
    register(monkeypatch, type("Changed", (Walk,), parts))
    return kj.envs.make_env("gymnasium:Walk-v0")


def register(monkeypatch, kind) -> None:
    """Give Gymnasium an environment, until the test is over."""
    spec = gymnasium.envs.registration.EnvSpec("Walk-v0", entry_point=kind, max_episode_steps=12)
    monkeypatch.setitem(gymnasium.registry, "Walk-v0", spec)


# ------------------------------------------------------------------------------------ legal actions

def test_a_mask_is_the_legal_actions(monkeypatch, capsys):
    """A rollout and run.act play legal moves alone, as in games; the mask is no input."""
    register(monkeypatch, Walk)
    exp, _, _, chunk = begun("ppo", env=dict(name="gymnasium:Walk-v0"), data=dict(num_steps=12))
    obs, action = chunk["rows"]["obs"], chunk["rows"]["action"]
    assert obs["obs"].shape == (16, 12, 5) and obs["legal"].dtype == bool
    assert jnp.take_along_axis(obs["legal"], action[..., None], -1).all()
    assert (~obs["legal"]).sum() > 10 and exp.task.model.obs_shape == (5,)
    assert "only the actions that its observations call legal are played" in capsys.readouterr().err
    variables = jax.jit(exp.task.init)(jax.random.key(0))
    ends = {"place": np.array([0, 4]), "action_mask": np.int8([[0, 1], [1, 0]])}
    assert exp.task.predict(variables, ends).tolist() == [2, 1]
    assert exp.task.predict(variables, {"place": 0, "action_mask": np.int8([0, 1])}) == 2
    # A mutant: if the mask allows all, a network moves on from one of the ends.
    free = {**ends, "action_mask": np.ones((2, 2))}
    assert exp.task.predict(variables, free).tolist() != [2, 1]


@pytest.mark.parametrize("name", ["legal_actions", "avail_actions", "action_masks"])
def test_a_mask_by_another_name_beside_a_picture(monkeypatch, name):
    """What stands alone beside a mask keeps its shape, and pixels stay pixels."""
    env = made(monkeypatch, observation_space=Dict({"observation": Box(0, 255, (4, 4, 1), np.uint8),
                                                    name: Box(0, 1, (2,), np.int8)}),
               seen=lambda self: {"observation": np.full((4, 4, 1), self.place, np.uint8),
                                  name: np.int8([self.place > 0, self.place < 4])})
    _, like = protocol.check_env(env)
    assert protocol.in_words(like) == "{'legal': bool[2], 'obs': uint8[4, 4, 1]}"
    _, obs = env.reset(jax.random.key(1))
    place = int(obs["obs"][0, 0, 0])
    assert obs["legal"].tolist() == [place > 0, place < 4]


def test_a_mask_of_several_choices(monkeypatch):
    """A MultiDiscrete's mask has one entry a choice, in the order of its sizes."""
    legal = np.int8([0, 1, 1, 0, 0])
    env = made(monkeypatch, action_space=MultiDiscrete([2, 3]),
               observation_space=Dict(place=Discrete(5), action_mask=MultiBinary(5)),
               seen=lambda self: {"place": self.place, "action_mask": legal},
               step=lambda self, action: (self.seen(), float(action.tolist() == [1, 0]), False,
                                          False, {}))
    task = ppo.build(config_for("ppo"), env=env)
    variables = jax.jit(task.init)(jax.random.key(0))
    assert task.predict(variables, {"place": 2, "action_mask": legal}).tolist() == [1, 0]


@pytest.mark.parametrize("parts, says", [
    (dict(observation_space=Dict(place=Discrete(5), action_mask=MultiBinary(3))),
     r"'action_mask' .* expected 2 numbers, one a choice, found MultiBinary\(3\)"),
    (dict(observation_space=Dict(place=Discrete(5), action_mask=Discrete(2))), "found Discrete"),
    (dict(action_space=Box(0, 1, (2,))), "expected none beside actions of a Box"),
    (dict(observation_space=Dict(action_mask=MultiBinary(2))), "and an observation beside it"),
    (dict(observation_space=Dict(place=Discrete(5), action_mask=MultiBinary(2),
                                 legal_actions=MultiBinary(2))), "found 2"),
    (dict(observation_space=Dict(place=Discrete(5), game=Dict(action_mask=MultiBinary(2)))),
     "'action_mask' inside another entry")])
def test_masks_that_fit_no_action(monkeypatch, parts, says):
    with pytest.raises(kj.UserError, match=says):
        made(monkeypatch, **parts)


def place(self):
    return self.place


def step(self, action):
    self.place = (self.place + 1) % 5
    return self.seen(), 0.0, False, False, {}


PLAIN = dict(observation_space=Discrete(5), seen=place, step=step)


def test_what_is_chosen_is_said(monkeypatch, capsys):
    made(monkeypatch, **PLAIN)
    assert not capsys.readouterr().err
    made(monkeypatch, **PLAIN, action_space=Box(0, 3, (2,), np.int32))
    assert "drawn from a Gaussian and rounded" in capsys.readouterr().err
    picture = np.zeros((3, 8, 9), np.uint8)
    made(monkeypatch, **PLAIN | dict(observation_space=Box(0, 255, picture.shape, np.uint8),
                                     seen=lambda self: picture))
    assert "read as 3 rows of 8 pixels with 9 channels" in capsys.readouterr().err
    made(monkeypatch, **PLAIN, action_masks=lambda self: np.ones(2, bool))
    assert "its mask of legal actions is not read" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- seeds

def ignores(self, seed=None, options=None):
    self.place = NOISE.randrange(10**6)
    return np.float32([self.place]), {}


def drawn_once(self, render_mode=None):
    self.render_mode, self.map = render_mode, NOISE.random()


def noisy(self, action):
    return np.float32([NOISE.random()]), 0.0, False, False, {}


def begun_again(self):
    self.place = 0
    return np.float32([0])


def noisy_later(self, action):
    self.place += 1
    return np.float32([NOISE.random() if self.place > 9 else 0]), 0.0, False, False, {}


def noisy_reward(self, action):
    return np.float32([0]), NOISE.random(), False, False, {}


def levels(self, seed=None, options=None):
    self.level = getattr(self, "level", 0) + 1
    return np.float32([self.level]), {}


def first_only(self, seed=None, options=None):
    gymnasium.Env.reset(self, seed=None if hasattr(self, "place") else seed)
    self.place = self.np_random.random()
    return np.float32([self.place]), {}


def still(self, action):
    return np.float32([0]), 0.0, False, False, {}


@pytest.mark.parametrize("parts", [
    dict(reset=ignores), dict(step=noisy), dict(step=noisy_reward), dict(reset=levels),
    dict(reset=first_only),
    dict(step=noisy_later, reset=lambda self, seed=None, options=None: (begun_again(self), {})),
    dict(__init__=drawn_once, reset=lambda self, seed=None, options=None: ([self.map], {}))],
    ids=["reset", "step", "reward", "levels", "first", "later", "init"])
def test_an_environment_that_ignores_its_seed(monkeypatch, parts):
    parts = {"step": still, "reset": lambda self, seed=None, options=None: (np.float32([0]), {}),
             "observation_space": Box(-np.inf, np.inf, (1,)), **parts}
    with pytest.raises(kj.UserError, match="plays another episode if it is reset to the same seed"):
        made(monkeypatch, **parts)


def test_an_environment_without_chance_needs_no_seed(monkeypatch):
    made(monkeypatch, observation_space=Box(-9, 9, (1,)), step=still,
         reset=lambda self, seed=None, options=None: (np.float32([0]), {}))


# ---------------------------------------------------------------------------------------- failures

def fails(*args, **kwargs):
    raise RuntimeError("no licence\n  for the engine")


def old(self, action):
    return 0, 0.0, False, {}


@pytest.mark.parametrize("parts, says", [
    (dict(__init__=fails), r"cannot be made: RuntimeError: no licence for the engine \(test_fore"),
    (dict(reset=fails), r"failed in reset\(seed=0\): RuntimeError: no licence"),
    (dict(reset=lambda self, seed=None, options=None: 3), r"failed in reset\(seed=0\)"),
    (dict(reset=lambda self: (0, {})), r"failed in reset\(seed=0\): TypeError"),
    (dict(step=fails), "failed on the action .: RuntimeError: no licence"),
    (dict(step=old), "failed on the action .: ValueError: not enough values"),
    (dict(step=lambda self, action: (0, None, False, False, {})), "failed on the action"),
    (dict(seen=lambda self: 5), r"observation of Discrete\(5\), found int64 5"),
    (dict(observation_space=Graph(Box(0, 1, (2,)), None)), "observes Graph"),
    (dict(observation_space=Dict(a=Sequence(Discrete(2)))), "observes Sequence"),
    (dict(observation_space=None), "cannot be made: TypeError: observation space does not"),
    (dict(action_space=None), "cannot be made: TypeError: action space does not"),
    (dict(observation_space=Box(0, 1, (3,))), r"observation of Box.* found int64 \(\)"),
    (dict(observation_space=Box(0, 9, (3,)), seen=lambda self: np.zeros((2, 3), np.float32)),
     r"expected observations \(3,\), as its space says, found \(2, 3\)"),
    (dict(action_space=Box(-np.inf, np.inf, (2,))), "finite bounds"),
    (dict(action_space=Box(-2**40, 2**40, (2,), np.int64)), "at most 16777216 integers"),
], ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_an_environment_that_fails_is_one_line(monkeypatch, parts, says):
    with pytest.raises(kj.UserError, match=says) as refused:
        made(monkeypatch, **{**PLAIN, **parts})
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_a_module_that_is_not_there():
    with pytest.raises(kj.UserError, match="cannot be made: .*nowhere"):
        kj.envs.make_env("gymnasium:nowhere:Walk-v0")


@pytest.mark.parametrize("render, says", [
    (fails, "RuntimeError: no licence for the engine"), (lambda self: None, "found"),
    (lambda self: np.zeros((4, 4)), r"expected a picture \(H, W, 3\), found \(4, 4\)")])
def test_a_picture_that_fails_costs_no_run(monkeypatch, capsys, render, says):
    """The run is whole by then: a line says why there is no picture of it."""
    env = made(monkeypatch, **PLAIN, metadata={"render_modes": ["rgb_array"]}, render=render)
    state = jax.tree.map(np.asarray, env.start(jax.random.key(0)))
    states = jax.tree.map(lambda x: x[None, None], state)
    assert kj.envs.draw.episode(env, states, 1) == {}
    said = capsys.readouterr().err
    assert said.startswith("karpjax: no episode.gif") or "render()" in said
    assert len(said.strip().splitlines()) == 1
    with pytest.raises(kj.UserError, match=says):
        env.draw(state)


def test_other_libraries_fail_in_one_line(monkeypatch):
    """Environments of gymnax and Brax that cannot be made, or whose spaces fail."""
    gymnax = types.SimpleNamespace(registered_envs=["Broken-v0"], make=fails)
    monkeypatch.setitem(sys.modules, "gymnax", gymnax)
    with pytest.raises(kj.UserError, match="gymnax's Broken-v0 cannot be made: RuntimeError: no l"):
        kj.envs.make_env("gymnax:Broken-v0")
    inner = types.SimpleNamespace(action_space=fails)
    params = types.SimpleNamespace(max_steps_in_episode=3)
    params.replace = lambda: params
    gymnax.make = lambda name: (inner, params)
    with pytest.raises(kj.UserError, match="gymnax:Broken-v0 failed in its spaces: RuntimeError"):
        kj.envs.make_env("gymnax:Broken-v0")
    brax = types.SimpleNamespace(_envs=["broken"], get_environment=fails)
    monkeypatch.setitem(sys.modules, "brax", types.ModuleType("brax"))
    monkeypatch.setitem(sys.modules, "brax.envs", brax)
    with pytest.raises(kj.UserError, match="broken on the backend 'spring'.*no licence"):
        kj.envs.make_env("brax:broken")


def test_a_library_of_another_time(tmp_path, monkeypatch):
    """A library whose import fails, as those made for another JAX do, is named with its line."""
    (tmp_path / "pgx.py").write_text("import jax\njax.core.ThatWasThereLastYear\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pgx", raising=False)
    with pytest.raises(kj.UserError, match=r"config.env: pgx cannot be imported: AttributeError: "
                       r".*ThatWasThereLastYear.* \(pgx.py, line 2\)"):
        kj.envs.make_env("pgx:connect_four")
