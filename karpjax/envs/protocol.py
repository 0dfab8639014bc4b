"""The environment protocol: pure functions of one environment, of which vmap makes many.

    reset(key)               -> (state, obs)
    step(state, action, key) -> (state, TimeStep)

and    actions      a space: Discrete, MultiDiscrete, Box (karpjax/envs/spaces.py)
       max_steps    steps after which an episode is cut at the latest
       draw(state)  -> (H, W, 3) in 0 to 1, on the host; optional
       auto_reset   in place of the function below; optional, if a reset costs more than a choice
       encode(obs), decode(action)  another library's terms -> these, and back (karpjax/envs/
                    foreign_spaces.py); optional. A restored run's `act` speaks the library's terms

An observation is an array, or {"obs": array, "legal": (A,) bool} if not every action is allowed in
every state: A is n of a Discrete, sum(sizes) of a MultiDiscrete. Terminated (the task has ended, no
value beyond) is not truncated (only the clock ran out: bootstrap from final_obs). `check_env`
checks an environment of your own.
"""
from collections.abc import Mapping
import contextlib
import operator
import pathlib
import traceback
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float
import numpy as np

from karpjax.core.errors import UserError, extra, is_own
from karpjax.core.trees import path_name, where
from karpjax.envs import spaces


class TimeStep(NamedTuple):
    """Outcome of one step."""
    obs: Any                     # of the next state; of a new episode after `auto_reset`
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    final_obs: Any               # of the state this step led to, never reset


def check_env(env) -> tuple:
    """Return (state, obs) as shapes, or raise UserError if the protocol is broken.

    Nothing runs: functions are only traced.
    """
    name = type(env).__name__
    check_parts(env, name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with blamed(f"the environment {name} failed in reset(key)"):
        returned = jax.eval_shape(env.reset, key)
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise UserError(f"the reset of the environment {name} returns {in_words(returned)}, "
                        "expected (state, obs)")
    state, obs = returned
    check_obs(obs, env, name)
    if any(jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)):
        raise UserError(f"the environment {name} keeps a PRNG key in its state; "
                        "use step's key, or keep jax.random.key_data")
    with blamed(f"the environment {name} failed in step(state, action, key), from the state that "
                f"its reset returns first, {in_words(state)}"):
        returned = jax.eval_shape(env.step, state, env.actions.example, key)
    check_step(returned, state, obs, name)
    return state, obs


def check_parts(env, name: str) -> None:
    """Check that an environment has all that the protocol names, each of its kind."""
    if isinstance(env, type):
        raise UserError(f"env={env.__name__}: expected an environment, found a class; "
                        f"make one: env={env.__name__}()")
    game = getattr(env, "players", 1) == 2
    parts = ("reset", "step", "actions", "max_steps", *(("to_move",) if game else ()))
    if missing := [part for part in parts if not hasattr(env, part)]:
        own = hasattr(env, "action_space")
        fix = ("; if it is Gymnasium's, register it and take its name: config.env = "
               "dict(name='gymnasium:NAME')" if own else "")
        raise UserError(f"the environment {name} lacks {', '.join(missing)}; "
                        f"the protocol is in karpjax/envs/protocol.py{fix}")
    spaces.check_space(env.actions, name)
    try:
        steps = operator.index(env.max_steps)
    except TypeError:  # None, a float
        steps = 0
    if steps < 1:
        raise UserError(f"{name}.max_steps: expected a whole number, at least 1, "
                        f"found {env.max_steps!r}")


def check_obs(obs, env, name: str) -> None:
    """Check that an observation is an array, or one with the actions that are legal."""
    size = spaces.num_choices(env.actions)
    game = getattr(env, "players", 1) == 2
    if isinstance(obs, jax.ShapeDtypeStruct) and not game:
        return
    if (size and isinstance(obs, Mapping) and {"obs", "legal"} <= set(obs)
            and shapes(obs["legal"]) == [("", (size,), "bool")]
            and isinstance(obs["obs"], jax.ShapeDtypeStruct)):
        return
    forms = ([] if game else ["one array"]) + (
        [f"{{'obs': array, 'legal': ({size},) bool}}"] if size else [])
    raise UserError(f"the reset of the environment {name} returns the observation "
                    f"{in_words(obs)}, expected {' or '.join(forms)}; a reset returns the state "
                    "first and the observation second")


def check_step(returned, state, obs, name: str) -> None:
    """Check the form of what `step` returns by that of a reset's state and observation."""
    try:
        new, out = returned
        lacking = [field for field in TimeStep._fields if not hasattr(out, field)]
    except (TypeError, ValueError):  # one thing, or five as in Gymnasium
        lacking = TimeStep._fields
    if lacking:
        raise UserError(f"the step of the environment {name} returns a {type(returned).__name__} "
                        f"without {', '.join(lacking)}, expected (state, TimeStep), "
                        f"found {in_words(returned)}")
    number, flag = [("", (), "float32")], [("", (), "bool")]
    for part, found, expected in (("a state", shapes(new), shapes(state)),
                                  ("an observation", shapes(out.obs), shapes(obs)),
                                  ("a final_obs", shapes(out.final_obs), shapes(obs)),
                                  ("a reward", shapes(out.reward), number),
                                  ("terminated", shapes(out.terminated), flag),
                                  ("truncated", shapes(out.truncated), flag)):
        if found != expected:
            raise UserError(f"the step of the environment {name} returns {part} of {found}, "
                            f"expected {expected}")


def in_words(tree) -> str:
    """Return the types and shapes of a tree, for an error message."""
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{name!r}: {in_words(x)}' for name, x in tree.items())}}}"
    if type(tree) in (tuple, list):
        return f"({', '.join(map(in_words, tree))})"
    return type(tree).__name__


def imported(module: str, name: str = ""):
    """Import a module of another library, or raise a line that says why it cannot be."""
    with blamed(f"config.env: {module} cannot be imported"):
        return extra(module, name)


@contextlib.contextmanager
def blamed(what: str):
    """Turn whatever somebody else's code raises into one line: what failed, why and where."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        frames = traceback.extract_tb(error.__traceback__)
        last = ([*filter(is_own, frames)] or frames)[-1]
        raise UserError(f"{what}: {type(error).__name__}: {reason} "
                        f"({pathlib.Path(last.filename).name}, line {last.lineno})") from error


def shapes(tree) -> list[tuple[str, tuple, str]]:
    """Return (name, shape, type) of each leaf."""
    return [(path_name(path), leaf.shape, str(leaf.dtype))
            for path, leaf in jax.tree.leaves_with_path(tree)]


def encode(env, obs, like):
    """Return an environment's own observations by the protocol, any axes before those of `like`."""
    if hasattr(env, "encode"):
        obs = env.encode(obs)
    obs = np.asarray(obs) if isinstance(obs, (list, tuple)) else obs

    def cast(x, like):
        tail = x.shape[max(0, x.ndim - len(like.shape)):]
        counts = np.issubdtype(like.dtype, np.integer) or like.dtype == bool
        if tail != like.shape or (counts and np.issubdtype(x.dtype, np.floating)):
            raise TypeError
        return x.astype(like.dtype)
    try:
        return jax.tree.map(cast, obs, like)
    except (AttributeError, TypeError, ValueError) as error:  # or other entries than those of like
        raise UserError(f"expected observations {in_words(like)}, with any axes before these, "
                        f"found {in_words(obs)}") from error


def decode(env, action):
    """Return actions (...) as the environment's own, those of a Box within its bounds."""
    return env.decode(action) if hasattr(env, "decode") else spaces.clipped(env.actions, action)


def array_of(obs):
    """Return the array of an observation, without the legal actions it may come with."""
    return obs["obs"] if isinstance(obs, Mapping) else obs


def auto_reset(env, state, action, key) -> tuple[Any, TimeStep]:
    """Return env.step, with the state and obs of a new episode if that step ended one."""
    if hasattr(env, "auto_reset"):
        return env.auto_reset(state, action, key)
    step_key, reset_key = jax.random.split(key)
    state, out = env.step(state, action, step_key)
    fresh_state, fresh_obs = env.reset(reset_key)
    done = out.terminated | out.truncated
    return where(done, fresh_state, state), out._replace(obs=where(done, fresh_obs, out.obs))


def step_keys(keys, t, num: int = 2):
    """Return the keys of step t, (E, num), from the environments' keys (E,)."""
    def split(key):
        return jax.random.split(jax.random.fold_in(key, t), num)
    return jax.vmap(split)(keys)
