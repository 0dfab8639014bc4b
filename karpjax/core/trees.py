"""Trees of named arrays: names, selections, casts and hashes that every floor uses."""
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from karpjax.core.errors import UserError


def path_name(path) -> str:
    """Return a leaf's name as people write it: params/conv/kernel."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named(tree) -> dict:
    """Return {"params/conv/kernel": leaf} for the leaves of a tree."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def by_name(variables: dict) -> dict:
    """Return {variable_name: leaf} for the leaves of a model's variables."""
    return {variable_name(path): leaf for path, leaf in jax.tree.leaves_with_path(variables)}


def variable_name(path) -> str:
    """Return a name as the parameter table has it: conv0/kernel, batch_stats/norm0/mean."""
    return path_name(path).removeprefix("params/")


def first_match(patterns, name: str) -> int | None:
    """Return the index of the first regular expression that matches a name in full, or None."""
    try:
        return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), None)
    except re.error as error:
        raise UserError(f"{error.pattern!r}: expected a regular expression on a name, as in "
                        f"'head/.*' or '.*bias', found none ({error.msg})") from error


def split_variables(variables: dict) -> tuple[dict, dict]:
    """Return (params, model_state) for {"params": params, **model_state}."""
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return variables["params"], model_state


def cast_floating(tree, dtype):
    """Cast the floating leaves of a tree. Integers, booleans and keys stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
                        tree)


def where(condition, tree, other):
    """Select the leaves of one tree or of another, as jnp.where does for arrays."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, other)


def mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Hash each number by MurmurHash3's 32-bit finaliser.

    Every input bit flips every output bit with probability about a half.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def check_names(wanted: dict, stored: dict, where,
                fix="what is meant to differ goes into config.init_skip") -> None:
    """Check {name: array} against the stored {name: shape}, or raise UserError.

    Without the check a partial load would leave holes and report nothing.
    """
    missing, unexpected = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    shapes = [f"{name} {stored[name]} -> {tuple(leaf.shape)}"
              for name, leaf in sorted(wanted.items())
              if name in stored and stored[name] != tuple(leaf.shape)]
    if missing or unexpected or shapes:
        raise UserError(f"{where}: names or shapes differ; missing in the checkpoint: "
                        f"{listed(missing)}; unexpected in it: {listed(unexpected)}; "
                        f"of another shape: {listed(shapes)}; {fix}")


def listed(names: list[str], most: int = 8) -> str:
    """Return the first few names for a line, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{names[:most]}{more}"


def first_line(error) -> str:
    """Return the first line of an error's text, up to 200 characters."""
    return (str(error).strip().splitlines() or [""])[0][:200]
