"""Weights of other projects: PyTorch's names and layouts, from safetensors, npz or .pth files, and back.

    arrays = convert.read("resnet20.safetensors")                          # {"layer1.0.conv1.weight": (16, 16, 3, 3), ...}
    variables = convert.to_karpjax(model, like, arrays, "resnet20")        # {"params": ..., "batch_stats": ...}
    convert.write("mine.npz", convert.to_pytorch(model, variables))

A table says which array is which; both directions read it, and a trip there and back changes no bit. An architecture has one
for each project whose files it takes; a file is read by the one that knows most of its names. The command is
karpjax/convert.py: python -m karpjax.convert --help.
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
from karpjax.weights.names import cleaned, ours_of, places

__all__ = ["read", "to_karpjax", "to_pytorch", "translated", "write"]

SUFFIXES = KINDS + PICKLES
# The first is that of what we write.
TABLES = {CifarResNet: {"akamaster": resnet_cifar.TABLE}, EfficientNetLite0: {"lukemelas": efficientnet_lite.TABLE},
          ResNet: {"torchvision": resnet.TORCHVISION, "huggingface": resnet.HUGGINGFACE},
          Encoder: {"bert": bert.BERT, "roberta": bert.ROBERTA},
          ViT: {"huggingface": vit.HUGGINGFACE, "timm": vit.TIMM}, MAE: {"huggingface": vit.HUGGINGFACE}}


def to_karpjax(model, like: dict, arrays: dict, where) -> dict:
    """The model's variables, as `like` has them (arrays or shapes), from {PyTorch's name: array}; `where` is for errors.

    Every array must have its place and every place its array, of the same shape, or the error lists what differs.
    """
    wanted, found = by_name(like), named(model, arrays, where)
    table = places(table_for(model, found), wanted)
    expected = {name: shape for ours, place in table.items() for name, shape in place.shapes(wanted[ours].shape).items()}
    check_names({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in expected.items()},
                {name: array.shape for name, array in found.items()}, where,
                fix=f"are these weights of config.model = {model.__class__.__name__} with these options?")
    loaded = {name: place.ours(found).astype(wanted[name].dtype) for name, place in table.items()}
    return jax.tree.map_with_path(lambda path, _: loaded[variable_name(path)], like)


def translated(model, arrays: dict, where) -> dict[str, np.ndarray]:
    """{our name: array} of all that a file holds, also of what this model lacks; their own names where there is no place."""
    found = named(model, arrays, where)
    table = table_for(model, found)
    ours = ours_of(table, found)
    whole = {name: place for name, place in places(table, set(ours.values())).items()
             if all(part in found for part in place.names)}
    used = {part for place in whole.values() for part in place.names}
    return {**{name: place.ours(found) for name, place in whole.items()},
            **{name: array for name, array in found.items() if name not in used}}


def to_pytorch(model, variables: dict, names: str = "") -> dict:
    """{PyTorch's name: numpy array} of a model's variables.

    names   of which project; "": the first in TABLES that has a name for each
    """
    tables, ours = tables_of(model), by_name(variables)
    if names:
        check_choice(names, tables, "--names")
    else:
        names = next((each for each, table in tables.items() if covers(table, ours)), next(iter(tables)))
    return {name: array for our, place in places(tables[names], ours).items()
            for name, array in place.theirs(np.asarray(ours[our])).items()}


def named(model, arrays: dict, where) -> dict:
    """Their arrays by the names of the tables, of numbers that float32 holds."""
    found = cleaned(arrays, where, prefix_of(model))
    inexact = [f"{name} {array.dtype}" for name, array in found.items() if not np.can_cast(array.dtype, np.float32)]
    if inexact:
        raise UserError(f"{where}: expected float32 or less, found {', '.join(inexact)}; store them as float32")
    return found


def covers(table: list, ours: dict) -> bool:
    try:
        return bool(places(table, ours))
    except UserError:
        return False


def prefix_of(model) -> str:
    """What the names of a bare encoder's file lack."""
    if isinstance(model, Encoder):
        return "roberta" if model.offset else "bert"
    return "vit" if isinstance(model, Patches) else ""


def table_for(model, found: dict) -> list:
    """Of the model's tables the one that knows most of these names."""
    return max(tables_of(model).values(), key=lambda table: len(ours_of(table, found)))


def tables_of(model) -> dict[str, list]:
    """{project: table} for a model that has PyTorch's names."""
    if isinstance(model, Encoder):
        forms = [form for form, fields in (("bert", BERT), ("roberta", ROBERTA))
                 if all(getattr(model, name) == value for name, value in fields.items() if name != "transform")]
        if not forms or isinstance(model, MaskedLM) and not model.transform:
            raise UserError(f"config.model: only an encoder in BERT's or RoBERTa's form has PyTorch's names, with {BERT} or "
                            f"{ROBERTA}, and a context")
        return {form: TABLES[Encoder][form] for form in forms}
    if isinstance(model, ViT) and model.pool != "cls":
        raise UserError(f"config.model.pool = {model.pool!r}: expected 'cls' for PyTorch's names, whose ViT classifies "
                        "from the class token")
    for architecture, tables in TABLES.items():
        if isinstance(model, architecture):
            return tables
    raise UserError(f"no table of PyTorch's names for the model {type(model).__name__}; there are tables for "
                    f"{', '.join(architecture.__name__ for architecture in TABLES)} (karpjax/weights)")
