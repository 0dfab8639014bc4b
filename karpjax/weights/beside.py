"""The facts about weights that arrays cannot say, from the files that projects put beside them.

    config.json               transformers' (model_type) or timm's (architecture)
    preprocessor_config.json  transformers': the pixels' mean and deviation

They are the number of heads, the activation, the norms' epsilon, how a ViT pools, the input's mean
and std, and the classes' names. A file without them is read with the published values, which are
reported.
"""
import dataclasses
import json
import pathlib
import re

from karpjax.core import files
from karpjax.core.errors import UserError, check_choice
from karpjax.core.trees import first_line
from karpjax.models.causal_lm import CausalLM
from karpjax.models.encoder import Encoder
from karpjax.models.resnet import ResNet
from karpjax.models.seq2seq import Seq2Seq
from karpjax.models.vit import MAE, ViT

ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_tanh": "gelu_tanh",
               "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
               "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "quickgelu":
               "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
# {our field: (transformers' key, its default)}
FIELDS = {"heads": ("num_attention_heads", 12), "eps": ("layer_norm_eps", 1e-12),
          "decoder_heads": ("decoder_num_attention_heads", 16), "mlp": ("hidden_act", "gelu")}
GPT2 = {"heads": ("n_head", 12), "eps": ("layer_norm_epsilon", 1e-5),
        "mlp": ("activation_function", "gelu_new")}
MARIAN = {"heads": ("encoder_attention_heads", 16), "mlp": ("activation_function", "gelu"),
          "scale_embedding": ("scale_embedding", False)}
MARIAN_PAD = 58100  # transformers' default
# Other values make other networks of the same arrays.
FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
         "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
FIXED_GPT2 = {"tie_word_embeddings": True, "scale_attn_weights": True,
              "scale_attn_by_inverse_layer_idx": False}
FIXED_MARIAN = {"tie_word_embeddings": True, "normalize_before": False,
                "normalize_embedding": False, "add_final_layer_norm": False,
                "static_position_embeddings": True,
                "share_encoder_decoder_embeddings": True}
# Arguments of timm's models that arrays show, or that matter in training alone.
SHOWN = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio",
         "qkv_bias", "class_token", "fc_norm", "dynamic_img_size", "strict_img_size", "layers",
         "global_pool", "act_layer", "num_heads", "drop_rate", "drop_path_rate")
OURS = "pictures are scaled whole, bilinearly"
FIX = "if it is not of these weights, move it away"


@dataclasses.dataclass
class Told:
    """The words of the files beside weights.

    source  the files that were read: "config.json"
    model   fields of config.model
    data    mean and std of pixels 0 to 255; size, the side of the square images
    names   of the classes, in their order; []: unknown
    unread  lines about words that have no field here
    """
    source: list[str] = dataclasses.field(default_factory=list)
    model: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=dict)
    names: list[str] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)


def told_of(file, model) -> Told:
    """Return what the files beside a file of weights say. Raise if it is of another network."""
    path = files.local(file, "weights").parent / "config.json"
    values, preprocessor = read_json(path), path.with_name("preprocessor_config.json")
    try:
        if "architecture" in values:
            return of_timm(values, model, path)
        if "model_type" in values:
            told = of_transformers(values, model, path)
            if preprocessor.is_file() and not isinstance(model, (Encoder, Seq2Seq)):
                path = preprocessor  # which the error names
                told.source.append(path.name)
                told.data, told.unread = of_preprocessor(read_json(path))
            return told
    except (TypeError, ValueError, AttributeError, LookupError, ZeroDivisionError) as error:
        raise UserError(f"{path}: expected transformers' or timm's values, found others "
                        f"({first_line(error)}); {FIX}") from error
    return Told(unread=["config.json beside it names no network: not read"] if values else [])


def read_json(path: pathlib.Path) -> dict:
    """Return a JSON object, {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, found none ({first_line(error)}); it says what "
                        "the weights beside it are: get it again, or remove it") from error
    return values if isinstance(values, dict) else {}


def of_transformers(values: dict, model, path) -> Told:
    """Return what transformers' config.json says. A key that it leaves out has their default."""
    kind, kinds = values["model_type"], kinds_of(model)
    if kind not in kinds:
        raise UserError(f"{path}: model_type = {kind!r}, expected {' or '.join(kinds) or 'none'} "
                        f"for {type(model).__name__}; {FIX}")
    check_fixed(values, fixed_of(model, values), model, path)
    words = {CausalLM: GPT2, Seq2Seq: MARIAN}.get(type(model), FIELDS)
    fields = {ours: type(default)(values.get(theirs, default))
              for ours, (theirs, default) in words.items()
              if ours in model.__dataclass_fields__}
    if "mlp" in fields:
        fields["mlp"] = activation(fields["mlp"], f"{path}: {words['mlp'][0]}")
    if isinstance(model, ViT):
        fields["pool"] = "cls"
    labels = {int(number): str(name) for number, name in values.get("id2label", {}).items()}
    return Told(["config.json"], fields, names=names_of(labels))


def names_of(labels: dict[int, str]) -> list[str]:
    """Return {0: name, 1: name, ...} as a list, without transformers' LABEL_0. Equal ones differ.

    ImageNet has two cranes, a bird and a machine: the second becomes "crane (517)".
    """
    names = [labels.get(number, "") for number in range(len(labels))]
    if not all(names) or all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return []
    return [f"{name} ({i})" if name in names[:i] else name for i, name in enumerate(names)]


def check_fixed(values: dict, fixed: dict, model, path) -> None:
    """Raise UserError if a value is not the one that all networks of this model have."""
    for key, value in fixed.items():
        if values.get(key, value) != value:
            raise UserError(f"{path}: {key} = {values[key]!r}, expected {value!r}: "
                            f"{type(model).__name__} has no other; {FIX}")


def fixed_of(model, values: dict) -> dict:
    """Return the keys of transformers' config.json whose values the model cannot choose."""
    if isinstance(model, ResNet):
        return {**FIXED, "hidden_act": "relu"}
    if isinstance(model, CausalLM):
        return {**FIXED, **FIXED_GPT2}
    if isinstance(model, Seq2Seq):
        heads = values.get("encoder_attention_heads", MARIAN["heads"][1])
        return {**FIXED, **FIXED_MARIAN, "decoder_attention_heads": heads,
                "decoder_start_token_id": values.get("pad_token_id", MARIAN_PAD)}
    offset = isinstance(model, Encoder) and model.offset
    return {**FIXED, "pad_token_id": offset - 1} if offset else FIXED


def kinds_of(model) -> tuple[str, ...]:
    """Return transformers' model_type of a model's files."""
    if isinstance(model, Encoder) and not isinstance(model, CausalLM):
        return ("roberta", "xlm-roberta", "camembert") if model.offset else ("bert",)
    kinds = {CausalLM: ("gpt2",), Seq2Seq: ("marian",), ResNet: ("resnet",),
             ViT: ("vit", "deit", "vit_mae"), MAE: ("vit_mae", "vit")}
    return kinds.get(type(model), ())


def activation(name, where: str) -> str:
    """Return our name of an activation."""
    check_choice(name, ACTIVATIONS, where)
    return ACTIVATIONS[name]


def of_preprocessor(values: dict) -> tuple[dict, list[str]]:
    """Return mean, std and size from transformers' preprocessor_config.json, and lines on the rest.
    """
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    data = {"mean": [0.0], "std": pixels([1.0], scale)}
    if values.get("do_normalize", True):
        data = {ours: pixels(values[theirs], scale)
                for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
                if theirs in values}
    check_positive(data.get("std", ()))
    cropped = values.get("do_center_crop", "crop_size" in values) and "crop_size" in values
    whole, size = (side_of(values.get(key)) for key in ("size", "crop_size" if cropped else "size"))
    crop = values.get("crop_pct") or (size / whole if whole and size else 1)
    scaling = {"crop": crop, "resample": values.get("resample", 2)}
    unread = [f"preprocessor_config.json's {key} = {scaling[key]:.3g} is not read: {OURS}"
              for key, ours in (("crop", 1), ("resample", 2)) if scaling[key] != ours]
    return {**data, "size": size} if size else data, unread


def check_positive(std) -> None:
    """Raise ValueError if a deviation is not above 0: pixels are divided by it."""
    if not all(value > 0 for value in std):
        raise ValueError(f"a deviation of {min(std)}")


def side_of(size) -> int:
    """Return the side of squares that transformers' size says, 0 if it says none."""
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) else 0


def pixels(values, scale: float) -> list[float]:
    """Return numbers on the scale of pixels 0 to 255, for those after a product with `scale`."""
    return [round(value / scale, 6) for value in values]


def of_timm(values: dict, model, path) -> Told:
    """Return what timm's config.json says."""
    name = values["architecture"].removeprefix("timm/").partition(".")[0]
    names = timm_names(model)
    if not re.fullmatch(names, name):
        raise UserError(f"{path}: architecture = {name!r}, expected one that matches {names!r} for "
                        f"{type(model).__name__}; {FIX}")
    arguments = values.get("model_args") or {}
    given = {**(values.get("pretrained_cfg") or {}), **values, **arguments}
    told = Told(["config.json"], unread=[f"config.json's {key} = {arguments[key]!r} is not read"
                                         for key in arguments if key not in SHOWN])
    told.data = {key: pixels(given[key], 1 / 255) for key in ("mean", "std") if key in given}
    check_positive(told.data.get("std", ()))
    if isinstance(given.get("label_names"), list):
        told.names = names_of(dict(enumerate(map(str, given["label_names"]))))
    if given.get("input_size"):
        told.data["size"] = given["input_size"][-1]
    told.unread += [f"config.json's {key} = {given[key]} is not read: {OURS}"
                    for key, ours in (("crop_pct", 1), ("interpolation", "bilinear"))
                    if given.get(key, ours) != ours]
    if isinstance(model, (ViT, MAE)):
        told.model = {"eps": 1e-6,  # in all of timm's
                      "mlp": activation(given.get("act_layer") or "gelu", f"{path}: act_layer")}
        if "num_heads" in given:
            told.model["heads"] = int(given["num_heads"])
    else:
        fixed = {"act_layer": "relu", "global_pool": "avg"}
        check_fixed({key: given[key] for key in fixed if given.get(key)}, fixed, model, path)
    if isinstance(model, ViT) and given.get("global_pool"):
        pools = {"token": "cls", "avg": "mean"}
        check_choice(given["global_pool"], pools, f"{path}: global_pool")
        told.model["pool"] = pools[given["global_pool"]]
        if model.pool == "norm_of_mean" and told.model["pool"] == "mean":  # it has fc_norm
            told.model["pool"] = model.pool
    return told


def timm_names(model) -> str:
    """Return a regular expression for timm's names of a model's networks."""
    if isinstance(model, ResNet) and model.width_per_group != 64:
        return f"wide_resnet{model.depth}_{model.width_per_group // 64}"
    if isinstance(model, ResNet):
        return rf"(tv_)?resnet{model.depth}"
    return "(vit|deit|mae)_.*" if isinstance(model, (ViT, MAE)) else "none"
