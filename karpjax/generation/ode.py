"""Integration of a flow: from noise at time 0 to a sample at time 1, along a field of velocities.

    x = integrate(field, noise(key, numbers, shape), steps=50)

The field is a function (x (N, ...), t ()) -> velocity (N, ...). Sample i starts from noise that is
keyed by its number, so it is the same whatever else is drawn beside it, on any device.

Sources: flow matching, Lipman et al. 2023, arXiv:2210.02747; guidance, Ho & Salimans 2022,
arXiv:2207.12598, and its interval, Kynkaanniemi et al. 2024, arXiv:2404.07724.
"""
from collections.abc import Callable
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from karpjax.core.errors import UserError, check_choice

METHODS = ("euler", "heun")


def noise(key, numbers: Integer[Array, "N"], shape: tuple) -> Float[Array, "N ..."]:
    """Return each sample's noise, of the samples with these numbers."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def integrate(field: Callable, x: Float[Array, "N *S"], steps: int,
              method: str = "heun") -> Float[Array, "N *S"]:
    """Return x at time 1, in equal steps from x at time 0.

    method  "euler", of first order; "heun", of second order, which asks the field twice a step.
            Its last step is Euler's, and its order stays: so no field is asked at time 1, where a
            network that predicts pictures has none
    """
    euler, advance = steppers(field, steps, method)
    x = jax.lax.fori_loop(0, steps - 1, lambda i, x: advance(x, i), x)
    return euler(x, steps - 1)


def trajectory(field: Callable, x: Float[Array, "N *S"], steps: int,
               method: str = "heun") -> Float[Array, "T N *S"]:
    """Return x at all times from 0 to 1, as `integrate` passes them: T is steps + 1."""
    euler, advance = steppers(field, steps, method)
    last, passed = jax.lax.scan(lambda x, i: (advance(x, i), x), x, jnp.arange(steps - 1))
    return jnp.concatenate([passed, jnp.stack([last, euler(last, steps - 1)])])


def steppers(field: Callable, steps: int, method: str) -> tuple[Callable, Callable]:
    """Return Euler's and the method's (x, i) -> x after step i."""
    check_choice(method, METHODS, "method")
    if not isinstance(steps, Integral) or steps < 1:
        raise UserError(f"steps = {steps!r}: expected a whole number of at least 1")
    h = 1 / steps

    def euler(x, i):
        return x + h * field(x, i * h)

    def heun(x, i):
        v = field(x, i * h)
        return x + h / 2 * (v + field(x + h * v, (i + 1) * h))
    return euler, heun if method == "heun" else euler


def guided(velocity: Callable, label: Int[Array, "N"], none: int, guidance: float,
           interval: tuple[float, float] = (0.0, 1.0)) -> Callable:
    """Return the field (x, t) of samples of the classes `label`, driven away from those of none.

    velocity  (x (N, ...), t (N,), label (N,)) -> (N, ...)
    none      the label of no class
    guidance  1: the network's own velocity; w: that of no class and w times the difference
    interval  the times from and before which samples are guided
    """
    if len(interval) != 2 or not interval[0] < interval[1]:
        raise UserError(f"interval = {interval}: expected the first time and a later one, as "
                        "(0, 1)")
    low, high = interval

    def both(a, b):
        """Return rows of a and b in turns, so that each device keeps its own."""
        return jnp.stack([a, b], axis=1).reshape(2 * len(a), *a.shape[1:])

    def field(x, t):
        times = jnp.full(len(x), t)
        if guidance == 1:
            return velocity(x, times, label)
        v = velocity(both(x, x), both(times, times), both(label, jnp.full_like(label, none)))
        of_class, of_none = v[::2], v[1::2]
        weight = jnp.where((low <= t) & (t < high), guidance, 1.0)
        return of_none + weight * (of_class - of_none)
    return field
