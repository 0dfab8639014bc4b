"""The tables of names that a model has: one for each project whose files it takes."""
from karpjax.core.errors import UserError
from karpjax.models.causal_lm import CausalLM
from karpjax.models.dit import DiT
from karpjax.models.efficientnet_lite import EfficientNetLite0
from karpjax.models.encoder import Encoder, MaskedLM
from karpjax.models.fcos import FCOS
from karpjax.models.inception import InceptionV3
from karpjax.models.resnet import ResNet
from karpjax.models.resnet_cifar import CifarResNet
from karpjax.models.segment import FCN, DeepLab
from karpjax.models.seq2seq import Seq2Seq
from karpjax.models.unet import UNet
from karpjax.models.vit import MAE, Patches, ViT
from karpjax.weights import (
    bert, dit, efficientnet_lite, fcos, gpt2, inception, marian, resnet, resnet_cifar, segment,
    unet, vit)
from karpjax.weights.names import places

# We write by the first of each.
TABLES = {CifarResNet: {"akamaster": resnet_cifar.TABLE},
          EfficientNetLite0: {"lukemelas": efficientnet_lite.TABLE},
          ResNet: {"torchvision": resnet.TORCHVISION, "huggingface": resnet.HUGGINGFACE},
          DiT: {"diffusers": dit.TABLE}, UNet: {"diffusers": unet.TABLE},
          InceptionV3: {"pytorch-fid": inception.TABLE},
          FCN: {"torchvision": segment.FCN}, DeepLab: {"torchvision": segment.DEEPLAB},
          Encoder: {"bert": bert.BERT, "roberta": bert.ROBERTA, "gpt2": gpt2.TABLE},
          Seq2Seq: {"marian": marian.TABLE},
          ViT: {"huggingface": vit.HUGGINGFACE, "timm": vit.TIMM},
          MAE: {"huggingface": vit.HUGGINGFACE, "facebook": vit.FACEBOOK}}


def tables_of(model) -> dict[str, list]:
    """Return {project: table} for a model that has PyTorch's names."""
    if isinstance(model, (Encoder, Seq2Seq)):
        form = form_of(model)
        return {form: {**TABLES[Encoder], **TABLES[Seq2Seq]}[form]}
    if isinstance(model, ViT) and model.pool == "norm_of_mean":
        return {**TABLES[ViT], "timm": vit.TIMM_FC_NORM}
    if isinstance(model, FCOS):
        backbone = next(iter(tables_of(model.backbone).values()))
        return {"torchvision": fcos.table(backbone, model.strides)}
    for architecture, tables in TABLES.items():
        if isinstance(model, architecture):
            return tables
    known = ", ".join(architecture.__name__ for architecture in TABLES)
    raise UserError(f"no table of PyTorch's names for the model {type(model).__name__}; there are "
                    f"tables for {known} (karpjax/weights)")


# A model of texts has PyTorch's names in these forms alone: (project, fields).
DECODERS = {
    CausalLM: ("gpt2", dict(norm="pre", bias=True, positions="learned", offset=0, types=0)),
    Seq2Seq: ("marian", dict(norm="post", bias=True, positions="sinusoids", final_bias=True,
                             eps=1e-5))}


def form_of(model: Encoder | Seq2Seq) -> str:
    """Return the project whose model of texts this is. An encoder with an offset is RoBERTa's."""
    if type(model) in DECODERS:
        form, fields = DECODERS[type(model)]
        if not has_form(model, fields):
            raise UserError(f"config.model: only a {form} has PyTorch's names, with {fields} and "
                            "an ungated mlp")
        return form
    fields = dict(norm="post", bias=True, positions="learned")
    if not has_form(model, fields) or isinstance(model, MaskedLM) and not model.transform:
        raise UserError("config.model: only an encoder in BERT's or RoBERTa's form has PyTorch's "
                        f"names, with {fields}, an ungated mlp, transform=True and a context")
    return "roberta" if model.offset else "bert"


def has_form(model, fields: dict) -> bool:
    """Return whether a model has these fields, and an MLP without a gate."""
    return model.mlp != "geglu" and all(
        getattr(model, name) == value for name, value in fields.items())


def root_of(model) -> str:
    """Return the beginning of a model's names that a file of the model without its head lacks."""
    if isinstance(model, CausalLM):
        return "transformer."
    if isinstance(model, Seq2Seq):
        return "model."
    if isinstance(model, Encoder):
        return f"{form_of(model)}."
    return "vit." if isinstance(model, Patches) else "resnet." if isinstance(model, ResNet) else ""


def covers(table: list, ours: dict) -> bool:
    """Return whether a table has a row for each of our variables."""
    try:
        return bool(places(table, ours))
    except UserError:
        return False
