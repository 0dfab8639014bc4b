"""Weights of other projects: PyTorch's names and layouts, read from files and written.

    arrays = files.read_arrays("resnet20.safetensors")  # {"layer1.0.conv1.weight": array, ...}
    variables = weights.to_karpjax(model, like, arrays, "resnet20")  # {"params": ..., ...}
    files.write_arrays("mine.npz", weights.to_pytorch(model, variables))

`files` is karpjax.core.files: safetensors, npz and .pth. A table lists which array is which. Both
directions read it, and a trip there and back changes no bit. An architecture has a table for each
project whose files it takes. A file is read by the table that knows most of its names. The command
is karpjax/convert.py: python -m karpjax.convert --help.
"""
import jax
import numpy as np

from karpjax.core.errors import UserError, check_choice
from karpjax.core.files import KINDS, PICKLES
from karpjax.core.trees import by_name, check_names, variable_name
from karpjax.models.efficientnet_lite import EfficientNetLite0
from karpjax.models.encoder import BERT, ROBERTA, Encoder, MaskedLM
from karpjax.models.resnet import ResNet
from karpjax.models.resnet_cifar import CifarResNet
from karpjax.models.vit import MAE, Patches, ViT
from karpjax.weights import bert, efficientnet_lite, resnet, resnet_cifar, vit
from karpjax.weights.names import clean_arrays, ours_of, places

__all__ = ["to_karpjax", "to_pytorch", "translated"]

SUFFIXES = KINDS + PICKLES
# We write by the first of each.
TABLES = {CifarResNet: {"akamaster": resnet_cifar.TABLE},
          EfficientNetLite0: {"lukemelas": efficientnet_lite.TABLE},
          ResNet: {"torchvision": resnet.TORCHVISION, "huggingface": resnet.HUGGINGFACE},
          Encoder: {"bert": bert.BERT, "roberta": bert.ROBERTA},
          ViT: {"huggingface": vit.HUGGINGFACE, "timm": vit.TIMM},
          MAE: {"huggingface": vit.HUGGINGFACE}}


def to_karpjax(model, like: dict, arrays: dict, where) -> dict:
    """Return a model's variables from {PyTorch's name: array}.

    like    the variables as arrays or shapes
    where   the arrays' origin, for errors

    A UserError lists the arrays that are missing, left over or of another shape.
    """
    wanted = by_name(like)
    theirs = name_arrays(model, arrays, where)
    table = places(table_for(model, theirs), wanted)
    expected = {name: jax.ShapeDtypeStruct(shape, np.float32) for ours, place in table.items()
                for name, shape in place.shapes(wanted[ours].shape).items()}
    check_names(expected, {name: array.shape for name, array in theirs.items()}, where,
                fix=f"are these weights of config.model = {model.__class__.__name__} with these "
                    "options?")
    loaded = {name: place.ours(theirs).astype(wanted[name].dtype)
              for name, place in table.items()}
    return jax.tree.map_with_path(lambda path, _: loaded[variable_name(path)], like)


def translated(model, arrays: dict, where) -> dict[str, np.ndarray]:
    """Return {our name: array} of all that a file holds, also of what this model lacks.

    Arrays without a place in the table keep their own names.
    """
    theirs = name_arrays(model, arrays, where)
    table = table_for(model, theirs)
    ours = ours_of(table, theirs)
    whole = {name: place for name, place in places(table, set(ours.values())).items()
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
    if names:
        check_choice(names, tables, "--names")
    else:
        complete = [each for each, table in tables.items() if covers(table, ours)]
        names = (complete or list(tables))[0]
    return {name: array for our, place in places(tables[names], ours).items()
            for name, array in place.theirs(np.asarray(ours[our])).items()}


def name_arrays(model, arrays: dict, where) -> dict:
    """Return their arrays by the tables' names, or raise if float32 cannot hold one."""
    theirs = clean_arrays(arrays, where, prefix_of(model))
    empty = [f"{name} {array.shape}" for name, array in theirs.items() if not array.size]
    if empty:
        raise UserError(f"{where}: expected numbers in every array, found none in "
                        f"{', '.join(empty[:5])}; get the file again")
    inexact = [f"{name} {array.dtype}" for name, array in theirs.items()
               if not np.can_cast(array.dtype, np.float32)]
    if inexact:
        raise UserError(f"{where}: expected float32 or less, found {', '.join(inexact)}; store "
                        "them as float32")
    return theirs


def covers(table: list, ours: dict) -> bool:
    """Return whether a table has a row for each of our variables."""
    try:
        return bool(places(table, ours))
    except UserError:
        return False


def prefix_of(model) -> str:
    """Return the prefix that the names of a bare encoder's file lack."""
    if isinstance(model, Encoder):
        return "roberta" if model.offset else "bert"
    return "vit" if isinstance(model, Patches) else ""


def table_for(model, theirs: dict) -> list:
    """Return the model's table that knows most of these names."""
    return max(tables_of(model).values(), key=lambda table: len(ours_of(table, theirs)))


def tables_of(model) -> dict[str, list]:
    """Return {project: table} for a model that has PyTorch's names."""
    if isinstance(model, Encoder):
        forms = [form for form, fields in (("bert", BERT), ("roberta", ROBERTA))
                 if all(getattr(model, name) == value for name, value in fields.items()
                        if name != "transform")]
        if not forms or isinstance(model, MaskedLM) and not model.transform:
            raise UserError("config.model: only an encoder in BERT's or RoBERTa's form has "
                            f"PyTorch's names, with {BERT} or {ROBERTA}, and a context")
        return {form: TABLES[Encoder][form] for form in forms}
    if isinstance(model, ViT) and model.pool != "cls":
        raise UserError(f"config.model.pool = {model.pool!r}: expected 'cls' for PyTorch's names, "
                        "whose ViT classifies from the class token")
    for architecture, tables in TABLES.items():
        if isinstance(model, architecture):
            return tables
    known = ", ".join(architecture.__name__ for architecture in TABLES)
    raise UserError(f"no table of PyTorch's names for the model {type(model).__name__}; there are "
                    f"tables for {known} (karpjax/weights)")
