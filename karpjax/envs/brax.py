"""Environments of Brax (Freeman et al. 2021), in JAX.

    config.env = dict(name="brax:reacher", max_steps=1000)
"""
import jax.numpy as jnp

from karpjax.core.errors import UserError, check_keys, did_you_mean
from karpjax.envs.protocol import blamed, imported, TimeStep
from karpjax.envs.spaces import Box


class Brax:
    """Environment of Brax.

    backend     of Brax's physics: "spring" by default
    max_steps   steps after which an episode is cut; 1,000 in Brax's own wrappers
    """

    def __init__(self, name: str, **options):
        envs = imported("brax.envs")
        if name not in envs._envs:
            raise UserError(f"config.env: brax has no environment {name!r}"
                            f"{did_you_mean(name, envs._envs)}")
        check_keys(options, ("backend", "max_steps"), "config.env")
        backend = options.get("backend", "spring")
        self.max_steps = options.get("max_steps", 1000)
        with blamed(f"config.env: brax cannot make {name} on the backend {backend!r} (try another, "
                    "as backend='generalized')"):
            self.env = envs.get_environment(name, backend=backend)
        self.actions = Box((-1.0,) * self.env.action_size, (1.0,) * self.env.action_size)

    def reset(self, key):
        inner = self.env.reset(key)
        return {"brax": inner, "time": jnp.int32(0)}, inner.obs

    def step(self, state, action, key) -> tuple:
        inner = self.env.step(state["brax"], jnp.clip(action, -1, 1))
        time = state["time"] + 1
        terminated = inner.done > 0
        truncated = (time >= self.max_steps) & ~terminated
        out = TimeStep(inner.obs, inner.reward, terminated, truncated, inner.obs)
        return {"brax": inner, "time": time}, out
