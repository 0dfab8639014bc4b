"""The environment protocol, pure functions of one environment; vmap makes many.

    reset(key)               -> (state, obs)
    step(state, action, key) -> (state, TimeStep)

and    actions      a space: Discrete, MultiDiscrete, Box (karpjax/envs/spaces.py)
       max_steps    where an episode is cut at the latest
       draw(state)  -> (H, W, 3) in 0 to 1, on the host; optional

An observation is an array, or {"obs": array, "legal": (A,) bool} where not every action is allowed in every state.
Terminated (the task is over, no value beyond) is not truncated (only the clock ran out: bootstrap from final_obs).
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class TimeStep(NamedTuple):
    obs: Any                     # of the next state; of a fresh episode after `auto_reset`
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    final_obs: Any               # of the state this step led to, never reset


def auto_reset(env, state, action, key) -> tuple[Any, TimeStep]:
    """env.step, and where the episode ended the state and obs of a new one."""
    step_key, reset_key = jax.random.split(key)
    state, out = env.step(state, action, step_key)
    fresh_state, fresh_obs = env.reset(reset_key)
    over = out.terminated | out.truncated
    choose = lambda fresh, old: jax.tree.map(lambda f, o: jnp.where(over, f, o), fresh, old)
    return choose(fresh_state, state), out._replace(obs=choose(fresh_obs, out.obs))
