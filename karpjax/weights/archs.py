"""Published architectures by name: the model, and the input that it was trained on.

    python -m karpjax.convert --from=resnet50.pth --arch=resnet50 --to=runs/resnet50

Width, layers, patch, channels, classes, types and positions are read from the shapes in a file.
Heads, activation, epsilon, pooling, mean and std are not in them: they are those of config.json
beside the file (beside.py), or the published ones, which are reported. Input, for pixels 0 to 255:
(x - mean) / std.
"""
from collections.abc import Callable
import dataclasses
import functools
import math
import re

from karpjax.core.errors import UserError, did_you_mean
from karpjax.core.settings import config
from karpjax.core.trees import first_match, listed
from karpjax.datasets.characters import stored_vocabulary
from karpjax.models import MODELS, make_model
from karpjax.models.causal_lm import GPT2
from karpjax.models.encoder import BERT, ROBERTA
from karpjax.models.fcos import FCOS_COCO
from karpjax.models.seq2seq import MARIAN
from karpjax.weights import fcos, segment
from karpjax.weights.beside import Told
from karpjax.weights.named import network_in

# torchvision, timm's ResNets, DeiT, MAE
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
HALF = dict(mean=[127.5], std=[127.5])                      # Google's ViTs
LITE = dict(mean=[127.0], std=[128.0])

# {width: heads} of the sizes that their papers name.
VIT_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 16}
TEXT_HEADS = {128: 2, 256: 4, 512: 8, 768: 12, 1024: 16}
GPT2_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}
MARIAN_HEADS = {512: 8, 1024: 16}
MARIAN_LENGTH = 512  # of the longest texts that the published translators were made for


@dataclasses.dataclass(frozen=True)
class Arch:
    """A published architecture.

    task     of the checkpoint
    model    fields of config.model that all of this name share
    shapes   (arrays by our names, {"heads": N, "decoder_heads": N}) -> the other fields; heads that
             are not given, or 0, are looked up
    recipe   of the input: mean and std
    size     of the square images, if the arrays do not say
    data     other keys of config.data, of pictures in a letterbox
    names    {number of classes: their names} of the published files
    unseen   fields of config.model that arrays do not show
    """
    task: str
    model: dict
    shapes: Callable | None = None
    recipe: dict = dataclasses.field(default_factory=dict)
    size: int = 224
    data: dict = dataclasses.field(default_factory=dict)
    names: dict = dataclasses.field(default_factory=dict)
    unseen: tuple[str, ...] = ()


def of_vit(arrays: dict, heads: dict) -> dict:
    """Return a ViT's fields by its arrays' shapes."""
    patch, *_, width = arrays["patch/kernel"].shape
    return dict(patch=patch, layers=count_blocks(arrays, "block"), width=width,
                heads=heads.get("heads") or published_heads(VIT_HEADS, width))


def of_deit(arrays: dict, heads: dict) -> dict:
    """Return a DeiT's fields by its arrays' shapes."""
    return {**of_vit(arrays, heads), "distilled": "dist" in arrays}


def of_mae(arrays: dict, heads: dict) -> dict:
    """Return an MAE's fields by its arrays' shapes."""
    width = arrays["decoder_embed/kernel"].shape[1]
    decoder_heads = heads.get("decoder_heads") or \
        published_heads(DECODER_HEADS, width, "--decoder_heads")
    return {**of_vit(arrays, heads), "decoder_layers": count_blocks(arrays, "decoder_block"),
            "decoder_width": width, "decoder_heads": decoder_heads}


def of_encoder(arrays: dict, heads: dict, offset: int = 0) -> dict:
    """Return a text encoder's fields by its arrays' shapes."""
    width = arrays["embed/embedding"].shape[1]
    return dict(layers=count_blocks(arrays, "block"), width=width,
                heads=heads.get("heads") or published_heads(TEXT_HEADS, width),
                context=len(arrays["position/embedding"]) - offset,
                types=len(arrays.get("type/embedding", ())))


def of_gpt2(arrays: dict, heads: dict) -> dict:
    """Return a GPT-2's fields by its arrays' shapes."""
    width = arrays["embed/embedding"].shape[1]
    return dict(layers=count_blocks(arrays, "block"), width=width,
                heads=heads.get("heads") or published_heads(GPT2_HEADS, width),
                context=len(arrays["position/embedding"]))


def of_marian(arrays: dict, heads: dict) -> dict:
    """Return a Marian translator's fields by its arrays' shapes."""
    width = arrays["embed/embedding"].shape[1]
    return dict(layers=count_blocks(arrays, "block"), width=width,
                decoder_layers=count_blocks(arrays, "decoder_block"),
                heads=heads.get("heads") or published_heads(MARIAN_HEADS, width))


def published_heads(known: dict, width: int, flag: str = "--heads") -> int:
    """Return the heads of the published size of this width, or ask for the flag."""
    if width not in known:
        raise UserError(f"the file is of width {width}, of which no published size is known here, "
                        f"and arrays do not say their number of heads; give {flag}=N")
    return known[width]


def of_head(arrays: dict, heads: dict) -> dict:
    """Return whether a segmenter's file has the auxiliary head."""
    return dict(auxiliary=any(name.startswith("auxiliary_head/") for name in arrays))


VIT = dict(unseen=("heads", "eps", "mlp", "pool"))
DILATED = dict(name="resnet", depth=50, dilated=2)
# torchvision scales the shorter side to 520. A letterbox of this size does so for pictures of 4:3.
SEGMENTER = dict(recipe=IMAGENET, data=dict(size=(520, 696)), names={21: segment.VOC})
TEXT = dict(unseen=("heads", "eps", "mlp"))
ARCHS = {
    # torchvision's, timm's and Hugging Face's files
    **{f"resnet{depth}": Arch("classify", dict(name="resnet", depth=depth), recipe=IMAGENET)
       for depth in (18, 34, 50, 101, 152)},
    **{f"wide_resnet{depth}_2": Arch(
        "classify", dict(name="resnet", depth=depth, width_per_group=128), recipe=IMAGENET)
       for depth in (50, 101)},
    # akamaster's
    **{f"resnet{depth}_cifar": Arch("classify", dict(name="resnet_cifar", depth=depth),
                                    recipe=IMAGENET, size=32)
       for depth in (20, 32, 44, 56, 110)},
    "efficientnet_lite0": Arch("classify", dict(name="efficientnet_lite0"), recipe=LITE),
    # torchvision's, whose shorter side is 800, for pictures of up to 5:3
    "fcos_resnet50_fpn": Arch(
        "detect", dict(name="fcos", backbone=dict(name="resnet", depth=50), **FCOS_COCO),
        recipe=IMAGENET, data=dict(size=(800, 1344), objects=100), names={80: fcos.COCO}),
    "fcn_resnet50": Arch("segment", dict(name="fcn", backbone=DILATED), of_head, **SEGMENTER),
    "deeplabv3_resnet50": Arch("segment", dict(name="deeplab", backbone=DILATED), of_head,
                               **SEGMENTER),
    # Hugging Face's
    "vit": Arch("classify", dict(name="vit", eps=1e-12), of_vit, HALF, **VIT),
    "vit_timm": Arch("classify", dict(name="vit"), of_vit, HALF, **VIT),
    # timm's and Facebook's
    "deit": Arch("classify", dict(name="vit"), of_deit, IMAGENET, **VIT),
    # Hugging Face's and its authors'
    "vit_mae": Arch("masked_image", dict(name="mae", eps=1e-12), of_mae, IMAGENET,
                    unseen=("heads", "decoder_heads", "eps", "mlp")),
    "bert": Arch("masked_text", dict(name="masked_lm", **BERT), of_encoder, **TEXT),
    "roberta": Arch("masked_text", dict(name="masked_lm", **ROBERTA),
                    functools.partial(of_encoder, offset=ROBERTA["offset"]), **TEXT),
    "gpt2": Arch("causal_text", dict(name="causal_lm", **GPT2), of_gpt2, **TEXT),
    "marian": Arch("translate", dict(name="seq2seq", **MARIAN), of_marian,
                   unseen=("heads", "mlp", "scale_embedding")),
}
# Parts of ours that a file of the encoder alone lacks, by the task.
HEADS = {"classify": ("head/.*",), "masked_image": ("decoder.*", "mask"),
         "masked_text": ("transform/.*", "norm_transform/.*", "bias"), "causal_text": (),
         "translate": ("bias",), "detect": ("class_head/class/.*",), "segment": ("head/logits/.*",)}
# Our names of the biases that have one number a class.
CLASSES = ("head/bias", "class_head/class/bias", "head/logits/bias")
# The norms' epsilon in the code of a ViT's project, whose names a file has.
EPS = {"huggingface": 1e-12, "timm": 1e-6, "facebook": 1e-6}
# MAE's published decoder, for a file that has none.
DECODER = dict(decoder_layers=8, decoder_width=512, decoder_heads=16)


def find_arch(arch: str) -> Arch:
    """Return the architecture of a name."""
    if arch not in ARCHS:
        raise UserError(f"no published architecture {arch!r}{did_you_mean(arch, ARCHS)}")
    return ARCHS[arch]


def reads_texts(arch: str) -> bool:
    """Return whether an architecture needs a tokenizer."""
    return find_arch(arch).task in ("masked_text", "causal_text", "translate")


def bare_model(arch: str, names=()):
    """Return the model of an architecture whose sizes are not known yet.

    names   the file's: some say a field that config.json does not
    """
    form = dict(find_arch(arch).model)
    fields = MODELS[form["name"]].__dataclass_fields__
    if "pool" in fields and any(re.search(r"\bfc_norm\.weight$", name) for name in names):
        form["pool"] = "norm_of_mean"
    if "auxiliary" in fields:
        form["auxiliary"] = any("aux_classifier." in name for name in names)
    model = make_model(form, **({"classes": 1} if "classes" in fields else {}))
    project, copies = network_in(model, names)
    return model.clone(eps=EPS[project]) if copies[0].ours and project in EPS and "eps" in fields \
        else model


def absent_head(arch: str, arrays: dict) -> tuple[str, ...]:
    """Return the patterns of the head, if a file has all but that: the encoder alone.

    arrays  by our names; those without one have dots
    """
    patterns = HEADS[find_arch(arch).task] + ("head_dist/.*",) * ("dist" in arrays)
    has_head = any(first_match(patterns, name) is not None for name in arrays)
    return () if has_head or any("/" not in name and "." in name for name in arrays) else patterns


def config_for(arch: str, arrays: dict, model, told: Told, heads: dict | None = None,
               tokenizer: str = "") -> tuple:
    """Return (the config of a checkpoint of `arrays`, {what was assumed: value}).

    arrays      by our names
    model       as `bare_model` gives it
    told        the words of the files beside them
    heads       {"heads": N, "decoder_heads": N} as given, 0 if not
    tokenizer   its JSON, for texts
    """
    known = find_arch(arch)
    given = {name: number for name, number in (heads or {}).items() if number}
    for name, number in given.items():
        if told.model.get(name, number) != number:
            raise UserError(f"--{name}={number}, but config.json beside the file says "
                            f"{told.model[name]}; leave it out, or move config.json away")
    named = {name: getattr(model, name) for name in ("eps", "pool") if name in known.unseen}
    defaults = {name: model.__dataclass_fields__[name].default for name in named}
    named = {name: value for name, value in named.items()
             if value != {**defaults, **known.model}[name]}
    fields = {**known.model, **named, **told.model,
              **sizes_of(arch, known, arrays, {**told.model, **given})}
    data, spec, assumed = dict(name="", train="", batch_size=1), {}, {}
    if reads_texts(arch):
        spec = spec_of_texts(arch, fields, tokenizer)
    else:
        pixels, spec = input_of(known, arrays, fields, told)
        data |= pixels
        assumed = {name: pixels[name] for name in ("mean", "std") if name not in told.data}
        if "position" not in arrays and "size" not in told.data:
            assumed["size"] = pixels["size"] if "size" in pixels else pixels["resize"][0]
    assumed |= {name: fields.get(name, getattr(model, name)) for name in known.unseen
                if name not in told.model and name not in given}
    values = config(task=known.task, model=fields, data={**data, "described": spec}, best="",
                    optimizer=dict(name="sgd", learning_rate=0.1))
    return values, assumed


def sizes_of(arch: str, known: Arch, arrays: dict, heads: dict) -> dict:
    """Return the fields that the arrays' shapes say."""
    if known.task == "masked_image" and absent_head(arch, arrays):
        arrays_say = functools.partial(of_vit, arrays, heads)
        more = {**DECODER, **{name: heads[name] for name in ("decoder_heads",) if name in heads}}
    else:
        arrays_say = functools.partial(known.shapes, arrays, heads) if known.shapes else dict
        more = {}
    try:
        return {**more, **arrays_say()}
    except KeyError as error:
        raise UserError(f"the file has no array for our {error}, which every {arch} has; is it of "
                        f"another --arch?{likely(arch, arrays)}") from error
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"the file has arrays of other axes than every {arch} has ({error}); is it "
                        "of another --arch?") from error


def likely(arch: str, names) -> str:
    """Return words on the architectures whose names a file has, or on the names that it has."""
    names = [name for name in names if "/" not in name]
    fitting = [each for each in ARCHS if each != arch and names
               and len(network_in(bare_model(each), names)[1][0].ours) > len(names) / 2]
    if fitting:
        return f" Its names are those of {' or '.join(fitting)}"
    return f" It has {listed(sorted(names), 3)}" if names else ""


def spec_of_texts(arch: str, fields: dict, tokenizer: str) -> dict:
    """Return the description of data that is not at hand, texts."""
    if not tokenizer:
        raise UserError(f"--arch={arch} needs --tokenizer=tokenizer.json, or that file beside the "
                        "weights: tokens are meaningless without it")
    return dict(length=fields.get("context", MARIAN_LENGTH), classes=0, tokenizer=tokenizer,
                fingerprint=stored_vocabulary(tokenizer).fingerprint)


def input_of(known: Arch, arrays: dict, fields: dict, told: Told) -> tuple[dict, dict]:
    """Return (keys of config.data, the description of images that are not at hand)."""
    size = told.data.get("size", known.size)
    if "dist" in arrays and not fields.get("distilled"):
        raise UserError("the file has a token of distillation (dist_token), and with it a position "
                        "and a head more; expected --arch=deit")
    if "position" in arrays:
        patches = len(arrays["position"]) - 1 - ("dist" in arrays)
        side = math.isqrt(max(patches, 0))
        if side == 0 or side ** 2 != patches:
            raise UserError(f"the file has {len(arrays['position'])} positions, expected those of "
                            "a square of patches and of the class token; is it of another --arch?")
        size = side * fields["patch"]
    first = next((arrays[name] for name in ("patch/kernel", "stem/kernel") if name in arrays), None)
    channels = 3 if first is None else first.shape[2]
    classes = next((arrays[name].shape[0] for name in CLASSES if name in arrays), 1)
    recipe = {name: for_channels(told.data.get(name, values), channels)
              for name, values in known.recipe.items()}
    shape = [*known.data.get("size", (size, size)), channels]
    spec = dict(classes=classes, shape=shape)
    if classes in known.names:
        spec["names"] = list(known.names[classes])
    if told.names:
        if len(told.names) == classes:
            spec["names"] = told.names
        else:
            told.unread.append(f"config.json's {len(told.names)} names of classes are not read, as "
                               f"the head has {classes}")
    return dict(**known.data or dict(resize=[size, size]), **recipe), spec


def for_channels(values: list[float], channels: int) -> list[float]:
    """Return a value for each channel, or one for all: the mean, if there are others than given."""
    if len(values) in (1, channels):
        return list(values)
    return [sum(values) / len(values)]


def count_blocks(arrays: dict, name: str) -> int:
    """Return the number of blocks of that name, as of block0/..., block1/..."""
    numbers = {key.split("/")[0].removeprefix(name) for key in arrays if key.startswith(name)}
    numbers = {number for number in numbers if number.isdecimal()}
    missing = {str(i) for i in range(len(numbers))} - numbers
    if missing:
        raise UserError(f"the file has {len(numbers)} of {name}0, {name}1, ..., but lacks {name}"
                        f"{min(missing)}; is it cut, or of another --arch?")
    return len(numbers)
