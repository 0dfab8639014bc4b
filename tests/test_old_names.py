"""Version 1's names of modules, attributes, keywords and config keys: each works, or is named."""
import importlib
import inspect
import pathlib
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core import old_names, settings
from karpjax.core.errors import UserError
from karpjax.rl.advantages import gae
from karpjax.run import checkpoint, cli
from karpjax.tasks import ppo

REACHER = pathlib.Path(__file__).parent / "data" / "v1" / "reacher"
ROWS = {"image": np.zeros((4, 2, 2, 1), np.uint8), "label": np.zeros(4, np.int32)}
USERS = dict(discount=0.9, trace=0.8, clip=0.2, value_clip=0.0, value_coefficient=0.5,
             target_kl=0.0, entropy_coefficient=0.01, model=dict(name="actor_critic"),
             data=dict(num_envs=2, length=8))


def called(old: str, new: str):
    return pytest.warns(DeprecationWarning, match=rf"{old} is called {new} now")


def fresh_import(monkeypatch, module: str):
    """Import a module as a process that has not imported it yet."""
    if module != "restore":  # there from the start, as the package has a function of that name
        monkeypatch.delitem(sys.modules, f"karpjax.{module}", raising=False)
    return importlib.import_module(f"karpjax.{module}")


@pytest.mark.parametrize("module", old_names.MODULES)
def test_modules(module, monkeypatch):
    new = importlib.import_module(f"karpjax.{old_names.MODULES[module]}")
    moved = old_names.MOVED.get(module, {})
    name = next(name for name in vars(new) if name[0] != "_" and name not in moved)
    with pytest.warns(DeprecationWarning, match=f"karpjax.{module}.* is {new.__name__}"):
        assert getattr(fresh_import(monkeypatch, module), name) is getattr(new, name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ways_to_import(monkeypatch):
    for module, names in old_names.MOVED.items():
        old = importlib.import_module(f"karpjax.{module}")
        assert not [name for name in names if not hasattr(old, name)], module
    monkeypatch.delitem(sys.modules, "karpjax.loop", raising=False)
    import karpjax.loop
    import karpjax.restore
    from karpjax.convert import archs
    from karpjax.restore import restore
    assert karpjax.loop.train is kj.fit and restore is kj.restore and inspect.isfunction(restore)
    assert karpjax.step.make_train_step is kj.make_train_step
    assert karpjax.convert.archs is archs and archs.config_for.__module__ == "karpjax.weights.archs"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_unknown_names_and_a_mutant(monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="karpjax.nothing"):
        importlib.import_module("karpjax.nothing")
    for module in (kj, kj.sources, fresh_import(monkeypatch, "loop")):
        with pytest.raises(AttributeError, match="nothing"):
            module.nothing  # noqa: B018
    # The mutant: the finder is not installed.
    others = [finder for finder in sys.meta_path if not isinstance(finder, old_names.OldNames)]
    monkeypatch.setattr(sys, "meta_path", others)
    with pytest.raises(ModuleNotFoundError, match="karpjax.loop"):
        fresh_import(monkeypatch, "loop")


def test_a_source_of_version_1():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Mine(kj.sources.arrays):
            chunk, lends, described, host_fed = 2, ("moments",), {"a": 1}, True
            prepare = staticmethod(dict)

            def __init__(self):
                self.n = 7

            def begin(self, *args):
                return super().begin(*args)

            def feed(self, step, seed):
                return step
    names = ("chunk", "lends", "described", "host_fed", "begin", "feed", "prepare")
    assert {str(each.message).split()[0] for each in caught} == {f"Mine.{name}" for name in names}
    with called("Source.n", "num_examples"):
        mine = Mine()
    assert (mine.steps_per_chunk, mine.num_examples, mine.streamed) == (2, 7, True)
    assert mine.preprocess({"b": 2}) == {"b": 2}
    assert (mine.eval_state, mine.spec, mine.next_batch(3, 0)) == (("moments",), {"a": 1}, 3)
    mine.batch_size, state = 4, dict.fromkeys(("epoch", "position", "draw"), np.uint32(5))
    with called("Shuffled.begin", "advance"):  # the parent's, not its own again
        assert mine.advance({}, state, {})[0]["position"] == 2
    with called("Source.n", "num_examples"), called("Mine.chunk", "steps_per_chunk"):
        assert mine.n == 7 and mine.chunk == 2


def test_keywords(tmp_path):
    env, ones, no = kj.envs.make_env("cartpole"), jnp.ones((1, 3)), jnp.zeros((1, 3), bool)
    with called(r"Task.*\(start=\)", "init_from_data"):
        task = kj.Task(kj.models.CNN(2, 4), kj.sources.Source(), print, start=dict)
    with called("Task.start", "init_from_data"):
        assert task.start is task.init_from_data is dict
    with called(r"gae\(trace=\)", "gae_lambda"):
        old = gae(ones, ones, ones, no, no, 0.9, trace=0.8)
    np.testing.assert_array_equal(old, gae(ones, ones, ones, no, no, 0.9, gae_lambda=0.8))
    with called(r"Arrays.*\(prepare=\)", "preprocess"):
        source = kj.sources.arrays(ROWS, batch_size=2, prepare=lambda batch: {**batch, "more": 1})
    assert "more" in source.example
    rows = [{name: column[i] for name, column in ROWS.items()} for i in range(4)]
    with called(r"Loader.*\(ahead=\)", "prefetch"):
        assert kj.sources.Loader(rows, batch_size=2, ahead=5).prefetch == 5
    with called(r"Rollout.*\(length=\)", "num_steps"):
        assert kj.sources.Rollout(env, len, len, num_envs=2, length=6).num_steps == 6
    with called(r"fit\(record=\)", "task_file"), pytest.raises(UserError, match="x.py: no build"):
        kj.fit(kj.config(), tmp_path / "run", record={"path": "x.py", "text": "nothing = 1\n"})


@pytest.mark.parametrize("values, old, new", [
    (dict(hang_after=1), "hang_after", "hang_timeout"),
    (dict(task="ppo", trace=0.9), "trace", "gae_lambda"),
    (dict(task="ppo", data=dict(num_envs=2, length=8)), "data.length", "data.num_steps")])
def test_old_keys(values, old, new):
    with pytest.raises(UserError, match=f"^config.{old} is called config.{new} now; rename it$"):
        settings.check_config(kj.config(**values))
    with pytest.raises(UserError, match="^config.hang_after is called config.hang_timeout now"):
        cli.parse(["--config=configs/poly.py", "--config.hang_after=1"], "Doc.", config=True)
    config = checkpoint.read_meta(checkpoint.find(REACHER))["config"]  # translated
    names = {*config, *(f"data.{key}" for key in config["data"])}
    assert new in names and old not in names


@pytest.mark.parametrize("values", [
    USERS, dict(task="my.task", trace=0.9), dict(task="masked_text", data=dict(length=8))])
def test_a_tasks_own_keys_stay(values):
    config = kj.config(**values)
    settings.check_config(config)
    assert old_names.today(config.to_dict()) == config.to_dict()


def test_a_users_file_that_builds_a_task_of_ours():
    with called("config.trace", "config.gae_lambda"), called("config.data.length", ".*num_steps"):
        assert ppo.build(kj.config(**USERS), kj.envs.make_env("cartpole")).source.num_steps == 8
