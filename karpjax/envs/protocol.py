"""The environment protocol, pure functions of one environment; vmap makes many.

    reset(key)               -> (state, obs)
    step(state, action, key) -> (state, TimeStep)

and    actions      a space: Discrete, MultiDiscrete, Box (karpjax/envs/spaces.py)
       max_steps    where an episode is cut at the latest
       draw(state)  -> (H, W, 3) in 0 to 1, on the host; optional
       auto_reset   in place of the function below; optional, for where a reset costs more than a choice

An observation is an array, or {"obs": array, "legal": (A,) bool} where not every action is allowed in every state.
Terminated (the task is over, no value beyond) is not truncated (only the clock ran out: bootstrap from final_obs).
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from karpjax.core.errors import UserError
from karpjax.core.trees import path_name
from karpjax.envs import spaces


class TimeStep(NamedTuple):
    obs: Any                     # of the next state; of a fresh episode after `auto_reset`
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    final_obs: Any               # of the state this step led to, never reset


def check_env(env) -> tuple:
    """(state, obs) as shapes; an environment that breaks the protocol is refused in one line, before anything runs."""
    name = type(env).__name__
    missing = [part for part in ("reset", "step", "actions", "max_steps") if not hasattr(env, part)]
    if missing:
        raise UserError(f"the environment {name} lacks {', '.join(missing)}; the protocol is in karpjax/envs/protocol.py")
    spaces.check_space(env.actions, name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, obs = jax.eval_shape(env.reset, key)
    if any(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
        raise UserError(f"the environment {name} keeps a PRNG key in its state; use step's key, or keep jax.random.key_data")
    new, out = jax.eval_shape(env.step, state, spaces.example(env.actions), key)
    shapes = lambda tree: [(path_name(path), leaf.shape, str(leaf.dtype)) for path, leaf in jax.tree.leaves_with_path(tree)]
    scalar = lambda dtype: [("", (), dtype)]
    for what, found, expected in (("a state", shapes(new), shapes(state)), ("an observation", shapes(out.obs), shapes(obs)),
                                  ("a final_obs", shapes(out.final_obs), shapes(obs)),
                                  ("a reward", shapes(out.reward), scalar("float32")),
                                  ("terminated", shapes(out.terminated), scalar("bool")),
                                  ("truncated", shapes(out.truncated), scalar("bool"))):
        if found != expected:
            raise UserError(f"the step of the environment {name} returns {what} of {found}, expected {expected}")
    return state, obs


def array_of(obs):
    """The array of an observation, which may come with its legal actions."""
    return obs["obs"] if isinstance(obs, Mapping) else obs


def auto_reset(env, state, action, key) -> tuple[Any, TimeStep]:
    """env.step, and where the episode ended the state and obs of a new one."""
    if hasattr(env, "auto_reset"):
        return env.auto_reset(state, action, key)
    step_key, reset_key = jax.random.split(key)
    state, out = env.step(state, action, step_key)
    fresh_state, fresh_obs = env.reset(reset_key)
    over = out.terminated | out.truncated
    choose = lambda fresh, old: jax.tree.map(lambda f, o: jnp.where(over, f, o), fresh, old)
    return choose(fresh_state, state), out._replace(obs=choose(fresh_obs, out.obs))
