"""Kinds of metrics, and how their parts of batches, devices and micro-batches add up.

    mean(values, weight)    (total, count): added over the global batch or the split, divided once
    total(array)            integers of any shape, added over a split: a confusion matrix (C, C)
    rows(array)             one entry an example of a split, kept as they are: detections, features

A loss returns means alone. An evaluation returns all three kinds: `Task.summarize` makes floats of
totals and rows. The kinds are registered pytrees, so they pass through jit.
"""
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from karpjax.core.errors import UserError

Pair = tuple[Float[Array, ""], Float[Array, ""]]  # (total, count), divided once over a global batch


def static(default):
    """Return a field of a registered dataclass that is no array: it survives jit as it is."""
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Count:
    """A count below which nothing divides: `floor` stands for a smaller sum over the batch."""
    value: Array
    floor: float = static(0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Total:
    """An array that is added over a split: int32 a batch, int64 on the host."""
    array: Array
    tolerance: float | None = static(None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Arrays with a leading batch axis, gathered over a split in the order of `index`."""
    array: Array
    at_end: bool = static(False)


def mean(values: Float[Array, "B *rest"], weight: Float[Array, "*leading"] | None = None,
         floor: float = 0) -> Pair:
    """Return (total, count) of values an example or token: their mean over the *global* batch.

    weight  has the leading axes of values: (B,) weighs examples, (B, T) tokens. None counts every
            element once
    floor   the least count to divide by, compared with the count of the global batch. With
            floor=1 the background loss of a batch without boxes counts. 0: an empty batch gives 0
    """
    weight = jnp.ones(values.shape) if weight is None else weight
    if weight.shape != values.shape[:weight.ndim]:
        raise UserError(
            f"karpjax.mean: expected a weight with the leading axes of the values {values.shape}, "
            f"found {weight.shape}; give one weight an example, (B,), or an element, "
            f"{values.shape}")
    weight = weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    weight = jnp.broadcast_to(weight, values.shape)
    # A weight of 0 removes an example even if its value is inf or nan (padding).
    total = jnp.sum(jnp.where(weight == 0, 0.0, values * weight))
    count = jnp.sum(weight).astype(jnp.float32)
    return total, (Count(count, float(floor)) if floor else count)


def total(array, tolerance: float | None = None) -> Total:
    """Return an array of counts, to be added over a split without rounding.

    array      integers or booleans of any shape; at most 2^31 - 1 in a cell of one batch
    tolerance  for floats: the relative difference that other meshes may make. Floats are refused
               without it, since their sum depends on the order of the batches
    """
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return Total(array.astype(jnp.int32))
    if tolerance is None:
        raise UserError(f"karpjax.total: expected integers, found {array.dtype} {array.shape}; "
                        "count in integers, use karpjax.mean, or state the tolerance of their sum: "
                        "karpjax.total(array, tolerance=1e-5)")
    return Total(array, float(tolerance))


def rows(array, at_end: bool = False) -> Rows:
    """Return one entry an example (B, ...), or a tree of such, to be gathered over a split.

    at_end  gathered in the last evaluation of a run alone, for `Task.pictures`
    """
    return Rows(array, at_end)


def quotient(total: float, count: float | Count) -> float:
    """Return total / count of a split on the host, nan where nothing was counted."""
    count = max(count.value, count.floor) if isinstance(count, Count) else count
    return total / count if count else float("nan")


def confusion(label, prediction, weight, classes: int) -> Total:
    """Return the (C, C) counts of examples by class: rows hold the true one, columns the predicted.

    Examples of weight 0 and labels outside 0 to C - 1 are left out.
    """
    counts = (weight > 0) & (label >= 0) & (label < classes)
    cells = jnp.zeros((classes, classes), jnp.int32)
    # An index beyond the end is dropped; -1 would be the last class.
    return Total(cells.at[jnp.where(counts, label, classes), prediction].add(1, mode="drop"))


def added(so_far, part):
    """Return totals of a split so far plus those of a batch, on the host in 64 bits."""
    part = jax.tree.map(lambda x: np.asarray(x).astype(
        np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64), part)
    return part if so_far is None else jax.tree.map(np.add, so_far, part)
