"""Models by name: pure Linen modules, one file an architecture.

    model = karpjax.models.make_model(dict(name="cnn", width=32), classes=10)
"""
from collections.abc import Sequence
import dataclasses
from numbers import Integral

from karpjax.core import old_names
from karpjax.core.errors import UserError, did_you_mean
from karpjax.models.airbench import Airbench
from karpjax.models.board import Board
from karpjax.models.causal_lm import GPT2 as GPT2
from karpjax.models.causal_lm import CausalLM
from karpjax.models.cnn import CNN
from karpjax.models.dit import DiT
from karpjax.models.efficientnet_lite import EfficientNetLite0
from karpjax.models.encoder import BERT as BERT
from karpjax.models.encoder import ROBERTA as ROBERTA
from karpjax.models.encoder import MaskedLM, TextClassifier
from karpjax.models.fasttext import FastText
from karpjax.models.fcos import FCOS
from karpjax.models.fcos import FCOS_COCO as FCOS_COCO
from karpjax.models.layers import Natural
from karpjax.models.policy import ActorCritic
from karpjax.models.resnet import ResNet
from karpjax.models.resnet_cifar import CifarResNet
from karpjax.models.segment import FCN, DeepLab, SemanticFPN
from karpjax.models.seq2seq import MARIAN as MARIAN
from karpjax.models.seq2seq import Seq2Seq
from karpjax.models.unet import UNet
from karpjax.models.value_propagation import ValuePropagation
from karpjax.models.vit import MAE, ViT

MODELS = {"actor_critic": ActorCritic, "airbench": Airbench, "board": Board,
          "causal_lm": CausalLM, "cnn": CNN, "deeplab": DeepLab, "dit": DiT,
          "efficientnet_lite0": EfficientNetLite0, "fasttext": FastText, "fcn": FCN, "fcos": FCOS,
          "mae": MAE, "masked_lm": MaskedLM, "resnet": ResNet, "resnet_cifar": CifarResNet,
          "semantic_fpn": SemanticFPN, "seq2seq": Seq2Seq,
          "text_classifier": TextClassifier, "unet": UNet,
          "value_propagation": ValuePropagation, "vit": ViT}


def make_model(options, **given):
    """Return the model of config.model.

    options    dict(name=..., the model's fields)
    given      fields that the task knows (classes, vocabulary); options come first

    Raises UserError for an unknown name or field, for a missing field, and for a model that lacks a
    field of the task's.
    """
    options = {**given, **dict(options)}
    name = options.pop("name", "")
    if not name:
        raise UserError("config.model.name is missing: give one, or in config.init_from a "
                        f"checkpoint whose model it is to be (known: {', '.join(MODELS)})")
    if name not in MODELS:
        raise UserError(f"config.model.name: no model {name!r}{did_you_mean(name, MODELS)}")
    fields = fields_of(name)
    for key in options:
        if key in fields:
            continue
        if key in given:
            fitting = [each for each in MODELS if given.keys() <= fields_of(each).keys()]
            raise UserError(f"config.model.name: {name} has no field {key!r}, which this task's "
                            f"model must have; expected one of {', '.join(fitting)}")
        raise UserError(f"config.model.{key}: {name} has no such field{did_you_mean(key, fields)}")
    for key, field in fields.items():
        if key not in options and field.default is dataclasses.MISSING:
            raise UserError(f"config.model.{key} is missing, which {name} needs; give it, or "
                            "choose another config.model.name")
    check_fields(options, fields)
    if "backbone" in options:
        options["backbone"] = make_backbone(options["backbone"])
    return MODELS[name](**options)


def make_backbone(options):
    """Return the model of config.model.backbone, without its head."""
    if not hasattr(options, "keys") or "classes" in options:
        raise UserError("config.model.backbone: expected a dict as of config.model, with a name "
                        f"and without classes, found {options!r}")
    known = MODELS.get(options.get("name", ""))
    if known and not hasattr(known, "levels"):
        fitting = [name for name, model in MODELS.items() if hasattr(model, "levels")]
        raise UserError(f"config.model.backbone.name = {options['name']!r}: expected a network of "
                        f"images with maps of several strides, one of {', '.join(fitting)}")
    return make_model(options, classes=0)


def check_fields(options: dict, fields: dict) -> None:
    """Check that whole numbers among a model's options are sizes, and its dropout is a share."""
    for key, value in options.items():
        kind = fields[key].type
        least = 0 if fields[key].default == 0 or kind == Natural else 1
        several = value if isinstance(value, Sequence) else [None]
        sizes = {int: [value], Natural: [value], Sequence[int]: several}.get(kind, ())
        if not all(isinstance(size, Integral) and size >= least for size in sizes):
            raise UserError(f"config.model.{key} = {value!r}: expected whole numbers of at least "
                            f"{least}")
        if key in ("dropout", "drop_path") and not 0 <= value < 1:
            raise UserError(f"config.model.{key} = {value!r}: expected a share of at least 0 and "
                            "below 1")


def fields_of(name: str) -> dict[str, dataclasses.Field]:
    """Return the fields of a model, without those that every Linen module has."""
    return {key: field for key, field in MODELS[name].__dataclass_fields__.items()
            if key not in ("parent", "name")}


__getattr__ = old_names.attributes("models")
