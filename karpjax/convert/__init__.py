"""Weights of other projects: PyTorch's names and layouts, from safetensors, npz or .pth files, and back.

    arrays = convert.read("resnet20.safetensors")                          # {"layer1.0.conv1.weight": (16, 16, 3, 3), ...}
    variables = convert.to_karpjax(model, like, arrays, "resnet20")        # {"params": ..., "batch_stats": ...}
    convert.write("mine.npz", convert.to_pytorch(model, variables))

One table an architecture says which array is which; both directions read it, and a trip there and back changes no bit. The
command is karpjax/convert/__main__.py: python -m karpjax.convert --help.
"""
import jax
import numpy as np

from karpjax.checkpoint import check_names
from karpjax.convert import bert, efficientnet_lite, resnet, resnet_cifar, vit
from karpjax.convert.files import read, write
from karpjax.convert.names import cleaned, places
from karpjax.errors import UserError
from karpjax.models.efficientnet_lite import EfficientNetLite0
from karpjax.models.encoder import BERT, MaskedLM
from karpjax.models.resnet import ResNet
from karpjax.models.resnet_cifar import CifarResNet
from karpjax.models.vit import MAE, ViT
from karpjax.restore import by_name, variable_name

__all__ = ["read", "to_karpjax", "to_pytorch", "write"]

TABLES = {CifarResNet: resnet_cifar.TABLE, ResNet: resnet.TABLE, EfficientNetLite0: efficientnet_lite.TABLE,
          MaskedLM: bert.TABLE, ViT: vit.TABLE, MAE: vit.TABLE}


def to_karpjax(model, like: dict, arrays: dict, where) -> dict:
    """The model's variables, as `like` has them (arrays or shapes), from {PyTorch's name: array}; `where` is for errors.

    Every array must have its place and every place its array, of the same shape, or the error lists what differs.
    """
    wanted = by_name(like)
    found = cleaned(arrays, where)
    table = places(table_of(model), wanted)
    expected = {name: shape for ours, place in table.items() for name, shape in place.shapes(wanted[ours].shape).items()}
    check_names({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in expected.items()},
                {name: array.shape for name, array in found.items()}, where,
                fix=f"are these weights of config.model = {model.__class__.__name__} with these options?")
    inexact = [f"{name} {array.dtype}" for name, array in found.items() if not np.can_cast(array.dtype, np.float32)]
    if inexact:
        raise UserError(f"{where}: expected float32 or less, found {', '.join(inexact)}; store them as float32")
    loaded = {name: place.ours(found).astype(wanted[name].dtype) for name, place in table.items()}
    return jax.tree.map_with_path(lambda path, _: loaded[variable_name(path)], like)


def to_pytorch(model, variables: dict) -> dict:
    """{PyTorch's name: numpy array} of a model's variables."""
    ours = by_name(variables)
    return {name: array for our, place in places(table_of(model), ours).items()
            for name, array in place.theirs(np.asarray(ours[our])).items()}


def table_of(model) -> list:
    if isinstance(model, MaskedLM) and any(getattr(model, field) != value for field, value in BERT.items()):
        raise UserError(f"config.model: only a masked_lm in BERT's form has PyTorch's names, with {BERT}, and a context")
    if isinstance(model, ViT) and model.pool != "cls":
        raise UserError(f"config.model.pool = {model.pool!r}: expected 'cls' for PyTorch's names, whose ViT classifies "
                        "from the class token")
    for architecture, table in TABLES.items():
        if isinstance(model, architecture):
            return table
    raise UserError(f"no table of PyTorch's names for the model {type(model).__name__}; there are tables for "
                    f"{', '.join(architecture.__name__ for architecture in TABLES)} (karpjax/convert)")
