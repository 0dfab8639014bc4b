"""The tables of names that a model has: one for each project whose files it takes."""
from karpjax.core.errors import UserError
from karpjax.models.efficientnet_lite import EfficientNetLite0
from karpjax.models.encoder import Encoder, MaskedLM
from karpjax.models.resnet import ResNet
from karpjax.models.resnet_cifar import CifarResNet
from karpjax.models.vit import MAE, Patches, ViT
from karpjax.weights import bert, efficientnet_lite, resnet, resnet_cifar, vit
from karpjax.weights.names import places

# We write by the first of each.
TABLES = {CifarResNet: {"akamaster": resnet_cifar.TABLE},
          EfficientNetLite0: {"lukemelas": efficientnet_lite.TABLE},
          ResNet: {"torchvision": resnet.TORCHVISION, "huggingface": resnet.HUGGINGFACE},
          Encoder: {"bert": bert.BERT, "roberta": bert.ROBERTA},
          ViT: {"huggingface": vit.HUGGINGFACE, "timm": vit.TIMM},
          MAE: {"huggingface": vit.HUGGINGFACE, "facebook": vit.FACEBOOK}}


def tables_of(model) -> dict[str, list]:
    """Return {project: table} for a model that has PyTorch's names."""
    if isinstance(model, Encoder):
        form = form_of(model)
        return {form: TABLES[Encoder][form]}
    if isinstance(model, ViT) and model.pool == "norm_of_mean":
        return {**TABLES[ViT], "timm": vit.TIMM_FC_NORM}
    for architecture, tables in TABLES.items():
        if isinstance(model, architecture):
            return tables
    known = ", ".join(architecture.__name__ for architecture in TABLES)
    raise UserError(f"no table of PyTorch's names for the model {type(model).__name__}; there are "
                    f"tables for {known} (karpjax/weights)")


def form_of(model: Encoder) -> str:
    """Return the project whose encoder this is: "bert", or "roberta" with an offset."""
    form = dict(norm="post", bias=True, positions="learned")
    if any(getattr(model, name) != value for name, value in form.items()) or \
            model.mlp == "geglu" or isinstance(model, MaskedLM) and not model.transform:
        raise UserError("config.model: only an encoder in BERT's or RoBERTa's form has PyTorch's "
                        f"names, with {form}, an ungated mlp, transform=True and a context")
    return "roberta" if model.offset else "bert"


def root_of(model) -> str:
    """Return the beginning of an encoder's names that a bare encoder's file lacks."""
    if isinstance(model, Encoder):
        return f"{form_of(model)}."
    return "vit." if isinstance(model, Patches) else "resnet." if isinstance(model, ResNet) else ""


def covers(table: list, ours: dict) -> bool:
    """Return whether a table has a row for each of our variables."""
    try:
        return bool(places(table, ours))
    except UserError:
        return False
