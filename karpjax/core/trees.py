"""Trees of named arrays: names, selections, casts and hashes that every floor uses."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from karpjax.core.errors import UserError


def path_name(path) -> str:
    """A leaf's name as people write it: params/conv/kernel."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def by_name(variables: dict) -> dict:
    return {variable_name(path): leaf for path, leaf in jax.tree.leaves_with_path(variables)}


def variable_name(path) -> str:
    """conv0/kernel, batch_stats/norm0/mean: as the parameter table has it."""
    return path_name(path).removeprefix("params/")


def split_variables(variables: dict) -> tuple[dict, dict]:
    """{"params": p, **model_state} -> (p, model_state)."""
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


def cast_floating(tree, dtype):
    """Cast the floating leaves of a tree; integers, booleans and keys stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def where(condition, tree, other):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, other)


def mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """MurmurHash3's 32-bit finaliser: every input bit flips every output bit with probability about a half."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def check_names(wanted: dict, stored: dict, where, fix="what is meant to differ goes into config.init_skip") -> None:
    """{name: array} against {name: shape}: a partial load would leave holes and say nothing."""
    missing, unexpected = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    shapes = [f"{name} {stored[name]} -> {tuple(leaf.shape)}" for name, leaf in sorted(wanted.items())
              if name in stored and stored[name] != tuple(leaf.shape)]
    if missing or unexpected or shapes:
        raise UserError(f"{where}: names or shapes differ; missing in the checkpoint: {listed(missing)}; unexpected in it: "
                        f"{listed(unexpected)}; of another shape: {listed(shapes)}; {fix}")


def listed(names: list[str], most: int = 8) -> str:
    """For a line: the first few, and how many more."""
    return f"{names[:most]}{f' and {len(names) - most} more' if len(names) > most else ''}" if names else "none"


def first_line(error) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
