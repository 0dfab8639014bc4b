"""Weights of other projects: PyTorch's names and layouts, read from files and written.

    arrays = weights.read_arrays("resnet20.safetensors")  # {"layer1.0.conv1.weight": array, ...}
    variables = weights.to_karpjax(model, like, arrays, "resnet20")  # {"params": ..., ...}
    files.write_arrays("mine.npz", weights.to_pytorch(model, variables))

`files` is karpjax.core.files. A table lists which array is which. Both directions read it, and a
trip there and back changes no bit. An architecture has a table for each project whose files it
takes (tables.py). A file is read by the table that knows most of its names, behind the prefix where
it does (copies.py). The command is karpjax/convert.py: python -m karpjax.convert --help.
"""
import jax
import numpy as np

from karpjax.core.errors import UserError, check_choice
from karpjax.core.trees import by_name, check_names, first_match, variable_name
from karpjax.models.dit import DiT
from karpjax.models.encoder import Encoder
from karpjax.models.vit import ViT
from karpjax.weights.dit import with_copies
from karpjax.weights.files import SUFFIXES, is_weights, read_arrays
from karpjax.weights.named import Named, knows_more, name_arrays, nearest
from karpjax.weights.names import ours_of, places
from karpjax.weights.tables import covers, tables_of

__all__ = ["SUFFIXES", "Named", "is_weights", "knows_more", "name_arrays", "read_arrays",
           "to_karpjax", "to_pytorch", "translated", "without_padding"]


def to_karpjax(model, like: dict, arrays: dict, where, anew=()) -> dict:
    """Return a model's variables from {PyTorch's name: array}.

    like    the variables as arrays or shapes
    where   the arrays' origin, for errors
    anew    regular expressions on our names: the file has none of these, and their leaves stay

    A UserError lists the arrays that are missing, left over or of another shape.
    """
    wanted = {name: leaf for name, leaf in by_name(like).items() if first_match(anew, name) is None}
    named = name_arrays(model, arrays, where)
    theirs, table = named.arrays, places(named.table, wanted)
    expected = {name: jax.ShapeDtypeStruct(shape, np.float32) for ours, place in table.items()
                for name, shape in place.shapes(wanted[ours].shape).items()}
    missing, others = expected.keys() - theirs.keys(), theirs.keys() - expected.keys()
    check_names(expected, {name: array.shape for name, array in theirs.items()}, where,
                fix=f"are these weights of config.model = {model.__class__.__name__} with these "
                    f"options?{nearest(missing, others)}")
    loaded = {name: place.ours(theirs).astype(wanted[name].dtype)
              for name, place in table.items()}
    return jax.tree.map_with_path(lambda path, leaf: loaded.get(variable_name(path), leaf), like)


def translated(model, arrays: dict, where) -> dict[str, np.ndarray]:
    """Return {our name: array} of all that a file holds, also of what this model lacks.

    Arrays without a place in the table keep their own names.
    """
    named = name_arrays(model, arrays, where)
    theirs = named.arrays
    ours = ours_of(named.table, theirs)
    whole = {name: place for name, place in places(named.table, set(ours.values())).items()
             if all(part in theirs for part in place.names)}
    odd = [f"{part} {theirs[part].shape}" for place in whole.values() for part in place.names
           if not place.fits([theirs[name].shape for name in place.names])]
    if odd:
        raise UserError(f"{where}: {', '.join(odd[:5])}: arrays of these names have other axes; is "
                        f"it of another model than {type(model).__name__}?")
    used = {part for place in whole.values() for part in place.names}
    return {**{name: place.ours(theirs) for name, place in whole.items()},
            **{name: array for name, array in theirs.items() if name not in used}}


def to_pytorch(model, variables: dict, names: str = "") -> dict:
    """Return {PyTorch's name: numpy array} of a model's variables.

    names   the project whose names to take; "": the first in TABLES that has a name for each
    """
    tables, ours = tables_of(model), by_name(variables)
    if isinstance(model, ViT) and model.pool != "cls" and names != "timm":
        raise UserError(f"config.model.pool = {model.pool!r}: expected 'cls' for these names of "
                        "PyTorch's, whose ViT classifies from the class token; only timm's have "
                        "others: --names=timm")
    if names:
        check_choice(names, tables, "--names")
    else:
        complete = [each for each, table in tables.items() if covers(table, ours)]
        names = (complete or list(tables))[0]
    theirs = {name: array for our, place in places(tables[names], ours).items()
              for name, array in place.theirs(np.asarray(ours[our])).items()}
    return with_copies(theirs, model.layers) if isinstance(model, DiT) else theirs


def without_padding(model, like: dict, named: Named) -> tuple[dict, list[str]]:
    """Return the arrays, those of a padded vocabulary cut to that of `like`, and lines on it."""
    if not isinstance(model, Encoder):
        return named.arrays, []
    wanted, cut = by_name(like), {}
    for theirs, ours in ours_of(named.table, named.arrays).items():
        array = named.arrays[theirs]
        fitted = model.adapt(ours, array, wanted[ours].shape) if ours in wanted else None
        if fitted is not None:
            cut[theirs] = fitted
    rows = sorted({(len(named.arrays[name]), len(array)) for name, array in cut.items()})
    return {**named.arrays, **cut}, [f"left out {stored - size} rows that pad the vocabulary, "
                                     f"{size} to {stored}" for stored, size in rows]
