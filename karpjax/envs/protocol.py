"""The environment protocol: pure functions of one environment, of which vmap makes many.

    reset(key)               -> (state, obs)
    step(state, action, key) -> (state, TimeStep)

and    actions      a space: Discrete, MultiDiscrete, Box (karpjax/envs/spaces.py)
       max_steps    steps after which an episode is cut at the latest
       draw(state)  -> (H, W, 3) in 0 to 1, on the host; optional
       auto_reset   in place of the function below; optional, if a reset costs more than a choice

An observation is an array, or {"obs": array, "legal": (A,) bool} if not every action is allowed in
every state. Terminated (the task has ended, no value beyond) is not truncated (only the clock ran
out: bootstrap from final_obs). `check_env` checks an environment of your own.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from karpjax.core.errors import UserError
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
    missing = [part for part in ("reset", "step", "actions", "max_steps") if not hasattr(env, part)]
    if missing:
        raise UserError(f"the environment {name} lacks {', '.join(missing)}; "
                        "the protocol is in karpjax/envs/protocol.py")
    spaces.check_space(env.actions, name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, obs = jax.eval_shape(env.reset, key)
    if any(jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)):
        raise UserError(f"the environment {name} keeps a PRNG key in its state; "
                        "use step's key, or keep jax.random.key_data")
    returned = jax.eval_shape(env.step, state, env.actions.example, key)
    try:
        new, out = returned
        lacking = [field for field in TimeStep._fields if not hasattr(out, field)]
    except (TypeError, ValueError):  # one thing, or five as in Gymnasium
        lacking = TimeStep._fields
    if lacking:
        raise UserError(f"the step of the environment {name} returns a {type(returned).__name__} "
                        f"without {', '.join(lacking)}, expected (state, TimeStep)")
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
    return state, obs


def shapes(tree) -> list[tuple[str, tuple, str]]:
    """Return (name, shape, type) of each leaf."""
    return [(path_name(path), leaf.shape, str(leaf.dtype))
            for path, leaf in jax.tree.leaves_with_path(tree)]


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
