"""The fingerprint of a state: a checksum of every leaf, computed on the devices that hold it.

It is an integer sum, the same on any number of devices.
"""
from typing import Any

import jax
import jax.numpy as jnp

from karpjax.core.trees import mix, named


def fingerprint(tree: Any) -> dict[str, int]:
    """Return {leaf name: checksum}.

    A changed bit or two swapped elements change it, except for one chance in 2^32.
    """
    leaves = named(tree)
    values = jax.device_get(_checksums([*leaves.values()]))
    return {name: int(value) for name, value in zip(leaves, values, strict=True)}


@jax.jit
def _checksums(leaves):
    return [_checksum(leaf) for leaf in leaves]


@jax.jit  # so that leaves of one shape are traced once
def _checksum(x):
    """Return the sum over elements of a hash of bits and position, modulo 2^32.

    It is exact in any order, so on any sharding.
    """
    # Part of the schema: with another hash every old checkpoint would look damaged.
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{x.dtype.itemsize * 8}").astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        position = position * jnp.uint32(length) + index
    return jnp.sum(mix(bits ^ mix(position + 1)), dtype=jnp.uint32)


def different(expected: dict, loaded: dict) -> list[str]:
    """Return the names whose checksums differ, or that only one has."""
    names = sorted(set(expected) | set(loaded))
    return [name for name in names if expected.get(name) != loaded.get(name)]
