"""Augmentation on the device, inside jit, after normalisation: padding has the mean's colour.

    config.augment = [dict(name="pad_crop", pixels=4), dict(name="flip"),
                      dict(name="cutmix", alpha=1.0)]

Each is keyed by the number of the example's draw, so 1 and 8 devices, and a batch or its
micro-batches, see the same images. Those in EACH map (example, key) to an example. Those in
TOGETHER mix the rows of a batch, and its labels with them.
"""
import inspect

import jax

from karpjax.core.errors import UserError, did_you_mean
from karpjax.sources.augment.images import (PAD_MODES, alternating_flip, cutout, flip, pad_crop,
                                            random_resized_crop)
from karpjax.sources.augment.mixing import cutmix, mixup, targets
from karpjax.sources.augment.warp import scale_jitter, warp

__all__ = ["EACH", "PAD_MODES", "TOGETHER", "check_moves", "make", "targets", "warp"]

EACH = {f.__name__: f for f in (pad_crop, flip, alternating_flip, random_resized_crop, cutout,
                                scale_jitter)}
TOGETHER = {f.__name__: f for f in (mixup, cutmix)}
MOVES = ("scale_jitter", "cutout")  # they move boxes and masks along, or leave them in place


def check_moves(specs):
    """Return config.augment of a task whose pictures have boxes or masks, if they stay right."""
    for spec in specs:
        if (name := dict(spec).get("name", "")) in EACH | TOGETHER and name not in MOVES:
            raise UserError(f"config.augment: {name} moves the picture alone, and its boxes or "
                            f"masks would be wrong; expected one of {', '.join(MOVES)}: "
                            "scale_jitter also mirrors and crops")
    return specs


def make(specs, **known):
    """Return (augment, mix) for a source from config.augment.

    Those that mix come last, wherever they stand in the list.

    known  values that the task gives: the run's seed
    """
    each, together = [], []
    for spec in specs:
        name, function = function_of(spec, known)
        (each if name in EACH else together).append(function)
    return (_in_order(each, jax.random.fold_in),
            _in_order(together, jax.vmap(jax.random.fold_in, (0, None))))


def function_of(spec, known: dict):
    """Return the name of an augmentation and its function, from dict(name=..., options)."""
    options = dict(spec)
    name = options.pop("name", "")
    if name not in EACH | TOGETHER:
        raise UserError(f"config.augment: no augmentation {name!r}"
                        f"{did_you_mean(name, EACH | TOGETHER)}")
    function = (EACH | TOGETHER)[name]
    arguments = inspect.signature(function).parameters
    for key in options:
        if key not in arguments or key in known:
            raise UserError(f"config.augment: {name} has no option {key!r}"
                            f"{did_you_mean(key, set(arguments) - set(known))}")
    given = {**{a: known[a] for a in arguments if a in known}, **options}
    lacking = [a for a, p in arguments.items() if p.default is p.empty and a not in given]
    if lacking:
        raise UserError(f"config.augment: {name} needs {', '.join(lacking)}; found "
                        f"{options or 'no options'}")
    return name, function(**given)


def _in_order(functions, fold_in):
    """Return one function that applies several, each with a key of its own; None for none."""
    def apply(example, key):
        for i, function in enumerate(functions):
            example = function(example, fold_in(key, i))
        return example
    return apply if functions else None
