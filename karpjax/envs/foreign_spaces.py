"""Other libraries' spaces in the terms of karpjax/envs/protocol.py, and back.

    actions, decode = actions_of(theirs, owner)               decode(our action) -> theirs
    like, encode = observations_of(theirs, owner, actions)    encode(their observation) -> ours

The spaces are Gymnasium's and gymnax's. Both functions take any leading axes, numpy's arrays or
tracers of JAX, so a simulator, a compiled program and a restored run (`run.act`) share them.

Actions: Discrete, MultiDiscrete, MultiBinary and Box. A Box is clipped to its bounds, and one of
integers is rounded first. Observations: a Box keeps its shape. All else becomes one vector, as
Gymnasium flattens it: a Discrete is one-hot, a Tuple or a Dict one part after the other. If a Dict
has an entry of a name in MASKS, that one says which actions are legal, and the rest is the
observation.
"""
from collections.abc import Mapping
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.envs import spaces

MASKS = ("action_mask", "action_masks", "legal_action_mask", "legal_actions", "legal_moves",
         "valid_actions", "avail_actions", "available_actions")
KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Tuple", "Dict", "Text", "OneOf")
WHOLE = 2**24   # above it, float32 skips integers


def kind(space) -> str:
    """Return the name of the kind of space that this is, "" for any other."""
    return next((each.__name__ for each in type(space).__mro__ if each.__name__ in KINDS), "")


def array(x):
    """Return a numpy array, or a tracer as it is."""
    return x if isinstance(x, jax.core.Tracer) else np.asarray(x)


def cast(x, dtype):
    """Return x in this dtype or, within a compiled program, in JAX's nearest one."""
    return x.astype(jax.dtypes.canonicalize_dtype(dtype) if isinstance(x, jax.core.Tracer)
                    else dtype)


# ---------------------------------------------------------------------------------------- actions

def actions_of(space, owner: str) -> tuple:
    """Return (our space of actions, a function from its actions to theirs)."""
    shape, name = getattr(space, "shape", ()), kind(space)
    if name == "Discrete":
        return spaces.Discrete(int(space.n)), functools.partial(choice, space)
    if name == "MultiDiscrete":
        sizes = tuple(map(int, np.ravel(space.nvec)))
        return spaces.MultiDiscrete(sizes), functools.partial(choices, space)
    if name == "MultiBinary":
        sizes = (2,) * int(np.prod(shape))
        return spaces.MultiDiscrete(sizes), functools.partial(choices, space)
    if name != "Box":
        raise UserError(f"config.env: {owner} takes actions of {space}; "
                        "expected Discrete, MultiDiscrete, MultiBinary or Box")
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    if np.issubdtype(np.dtype(space.dtype), np.integer) and (high - low).max() > WHOLE:
        raise UserError(f"config.env: {owner} takes actions of {space}; expected finite bounds, "
                        f"at most {WHOLE} integers between them")
    return spaces.box_of(space.low, space.high, shape), functools.partial(numbers, space)


def choice(space, action):
    """Return actions (...) of a Discrete space, one alone as Python's int."""
    action = cast(array(action) + getattr(space, "start", 0), space.dtype)
    return action if action.ndim or isinstance(action, jax.core.Tracer) else action.item()


def choices(space, action):
    """Return actions (..., *shape) of a MultiDiscrete or MultiBinary space."""
    action = array(action)
    action = action.reshape(*action.shape[:-1], *space.shape) + getattr(space, "start", 0)
    return cast(action, space.dtype)


def numbers(space, action):
    """Return actions (..., *shape) of a Box, clipped, and rounded if it holds integers."""
    action = array(action)
    action = action.reshape(*action.shape[:-1], *space.shape)
    if np.issubdtype(np.dtype(space.dtype), np.integer):
        action = action.round()   # astype would cut all of -1 .. 1 to 0
    return cast(action.clip(space.low, space.high), space.dtype)


# ----------------------------------------------------------------------------------- observations

def observations_of(space, owner: str, actions) -> tuple:
    """Return (an observation by our protocol as shapes, a function that makes one of theirs)."""
    mask = mask_of(space, owner, actions)
    if mask is None:
        return flat_observations_of(space, owner)
    rest = {name: part for name, part in space.spaces.items() if name != mask}
    pick = operator.itemgetter(*rest) if len(rest) == 1 else dict
    like, encode = flat_observations_of(rest if len(rest) > 1 else pick(rest), owner)
    size = spaces.num_choices(actions)

    def masked(obs) -> dict:
        check_names(obs, space.spaces, owner)
        legal = array(obs[mask])
        lead = legal.shape[:legal.ndim - len(space.spaces[mask].shape)]
        return {"obs": encode(pick(obs)), "legal": legal.reshape(*lead, size) > 0}
    return {"obs": like, "legal": jax.ShapeDtypeStruct((size,), np.bool_)}, masked


def mask_of(space, owner: str, actions) -> str | None:
    """Return the name of a Dict's entry of legal actions, or None if there is none."""
    masks = [name for name in MASKS if kind(space) == "Dict" and name in space.spaces]
    if not masks:
        return None
    found, size = space.spaces[masks[0]], spaces.num_choices(actions)
    if len(masks) > 1 or len(space.spaces) == 1:
        raise UserError(f"config.env: {owner} observes {', '.join(space.spaces)}; expected one "
                        f"entry of legal actions, found {len(masks)}, and an observation beside it")
    if not size or kind(found) not in ("Box", "MultiBinary") or width(found, owner) != size:
        expected = f"{size} numbers, one a choice" if size else "none beside actions of a Box"
        raise UserError(f"config.env: {owner}: the entry {masks[0]!r} of its observations says "
                        f"which actions are legal; expected {expected}, found {found}")
    return masks[0]


def flat_observations_of(space, owner: str) -> tuple:
    """Return what observations_of does, of a space without legal actions."""
    leaves = leaves_of(space, owner)
    pixels = all(kind(leaf) == "Box" and np.dtype(leaf.dtype) == np.uint8 for leaf in leaves)
    dtype = np.uint8 if pixels else np.float32
    whole = kind(space) == "Box"
    shape = tuple(space.shape) if whole else (sum(width(leaf, owner) for leaf in leaves),)

    def encode(obs):
        x = numbers_of(space, obs, owner) if whole else vector(space, obs, owner)
        if pixels and x.dtype != np.uint8:
            check_pixels(x, owner)
        return cast(x, dtype)
    return jax.ShapeDtypeStruct(shape, dtype), encode


def members(space) -> dict:
    """Return {name or number: part} of a Tuple, a Dict or a dict of spaces."""
    parts = getattr(space, "spaces", space)
    return dict(parts if isinstance(parts, Mapping) else enumerate(parts))


def is_several(space) -> bool:
    return isinstance(space, dict) or kind(space) in ("Tuple", "Dict")


def leaves_of(space, owner: str) -> list:
    """Return the parts of a space that are no Tuple and no Dict, in order."""
    if not is_several(space):
        width(space, owner)
        return [space]
    if hidden := [name for name in members(space) if name in MASKS]:
        raise UserError(f"config.env: {owner} observes {hidden[0]!r} inside another entry; "
                        "expected legal actions as an entry of the observation's own Dict")
    return [leaf for part in members(space).values() for leaf in leaves_of(part, owner)]


def width(space, owner: str) -> int:
    """Return how many numbers a part of an observation becomes."""
    name = kind(space)
    if name in ("Box", "MultiBinary"):
        return int(np.prod(space.shape))
    if name == "Discrete":
        return int(space.n)
    if name == "MultiDiscrete":
        return int(np.sum(space.nvec))
    if name in ("Text", "OneOf"):
        from gymnasium.spaces import flatdim  # here: gymnax does without
        return flatdim(space)
    raise UserError(f"config.env: {owner} observes {space}; expected Box, Discrete, MultiDiscrete, "
                    "MultiBinary or Text, alone or in Tuple and Dict; leave it out by a wrapper")


def vector(space, obs, owner: str):
    """Return observations (...) as vectors (..., width)."""
    if is_several(space):
        parts = members(space)
        check_names(obs, parts, owner)
        vectors = [vector(part, obs[name], owner) for name, part in parts.items()]
        if len({x.shape[:-1] for x in vectors}) != 1:
            raise UserError(f"{owner}: expected as many of each entry of an observation, found "
                            f"{', '.join(str(x.shape[:-1]) for x in vectors)}")
        return joined(vectors)
    name = kind(space)
    if name in ("Box", "MultiBinary"):
        x = numbers_of(space, obs, owner)
        return x.reshape(*x.shape[:x.ndim - len(space.shape)], -1)
    if name == "Discrete":
        return one_hot(array(obs), int(space.n), int(getattr(space, "start", 0)), space, owner)
    if name == "MultiDiscrete":
        return one_hots(space, obs, owner)
    return codes(space, obs)


def check_names(obs, names, owner: str) -> None:
    """Check that an observation has the entries of its Tuple or Dict."""
    several = isinstance(obs, (Mapping, tuple, list))
    has = list(obs) if isinstance(obs, Mapping) else list(range(len(obs))) if several else []
    if missing := [str(name) for name in names if name not in has]:
        raise UserError(f"{owner}: expected an observation of the entries "
                        f"{', '.join(map(str, names))}, found {type(obs).__name__} without "
                        f"{', '.join(missing)}")


def numbers_of(space, obs, owner: str):
    """Return an array (..., *shape) of a Box or a MultiBinary."""
    x, shape = array(obs), tuple(space.shape)
    if x.shape[x.ndim - len(shape):] != shape or x.dtype == object:
        raise UserError(f"{owner}: expected an observation of {space}, found {x.dtype} {x.shape}")
    return x


def check_pixels(x, owner: str) -> None:
    """Check that what a space calls uint8 is whole and in 0 to 255: a cast would hide the rest."""
    traced = isinstance(x, jax.core.Tracer)
    if np.issubdtype(x.dtype, np.floating) if traced else (x != x.astype(np.uint8)).any():
        raise UserError(f"{owner}: expected observations of uint8, as its space says, found "
                        f"{x.dtype}" + ("" if traced else f" from {x.min()} to {x.max()}"))


def one_hot(x, n: int, start, space, owner: str):
    """Return whole numbers (...), from `start` on, as (..., n)."""
    traced = isinstance(x, jax.core.Tracer)
    whole = np.issubdtype(x.dtype, np.integer) or x.dtype == bool
    if not whole or not traced and ((x < start) | (x >= start + n)).any():
        raise UserError(f"{owner}: expected an observation of {space}, found {x.dtype} "
                        f"{x.shape if traced or x.size > 9 else x.tolist()}")
    return x[..., None] == np.arange(start, start + n)


def one_hots(space, obs, owner: str):
    """Return arrays (..., *shape) of a MultiDiscrete as (..., sum of its sizes)."""
    x, lead = numbers_of(space, obs, owner), len(space.shape)
    x = x.reshape(*x.shape[:x.ndim - lead], -1)
    sizes = np.ravel(space.nvec)
    starts = np.ravel(np.broadcast_to(getattr(space, "start", 0), space.shape))
    columns = [one_hot(x[..., i], int(sizes[i]), int(starts[i]), space, owner)
               for i in range(len(sizes))]
    return joined(columns)


def joined(parts: list):
    """Return arrays (..., n), (..., m) as one (..., n + m)."""
    traced = any(isinstance(part, jax.core.Tracer) for part in parts)
    return (jnp if traced else np).concatenate(parts, -1)


def codes(space, obs):
    """Return what Gymnasium makes of a Text, for any leading axes, or of one OneOf."""
    from gymnasium.spaces import flatten
    if kind(space) == "OneOf":
        return flatten(space, obs)
    texts = np.asarray(obs)
    rows = [flatten(space, str(text)) for text in texts.ravel()]
    return np.stack(rows).reshape(*texts.shape, -1)
