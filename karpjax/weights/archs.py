"""Published architectures by name: the model, and the input that it was trained on.

    python -m karpjax.convert --from=resnet50.pth --arch=resnet50 --to=runs/resnet50

Width, layers, patch, classes and positions are read from the shapes in a file. The number of heads
is not in them: it is that of the published size of this width, or must be given. Input, for pixels
0 to 255: (x - mean) / std.
"""
from collections.abc import Callable
import dataclasses
import functools
import math

from karpjax.core.errors import UserError, did_you_mean
from karpjax.core.settings import config
from karpjax.datasets.tokenizer import vocabulary_of
from karpjax.models import MODELS, make_model
from karpjax.models.encoder import BERT, ROBERTA
from karpjax.weights import translated

# torchvision, timm's ResNets, DeiT, MAE
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
HALF = dict(mean=[127.5], std=[127.5])                      # Google's ViTs
LITE = dict(mean=[127.0], std=[128.0])

# {width: heads} of the sizes that their papers name.
VIT_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 16}
TEXT_HEADS = {128: 2, 256: 4, 512: 8, 768: 12, 1024: 16}


@dataclasses.dataclass(frozen=True)
class Arch:
    """A published architecture.

    task     of the checkpoint
    model    fields of config.model that all of this name share
    shapes   (arrays by our names, heads, decoder_heads) -> the other fields; heads of 0 are looked
             up
    recipe   of the input: mean and std
    size     of the square images, if the arrays do not say
    """
    task: str
    model: dict
    shapes: Callable | None = None
    recipe: dict = dataclasses.field(default_factory=dict)
    size: int = 224


def of_vit(arrays: dict, heads: int, _=0) -> dict:
    """Return a ViT's fields by its arrays' shapes."""
    patch, *_, width = arrays["patch/kernel"].shape
    return dict(patch=patch, layers=count_blocks(arrays, "block"), width=width,
                heads=heads or published_heads(VIT_HEADS, width))


def of_deit(arrays: dict, heads: int, _=0) -> dict:
    """Return a DeiT's fields by its arrays' shapes."""
    return {**of_vit(arrays, heads), "distilled": "dist" in arrays}


def of_mae(arrays: dict, heads: int, decoder_heads: int) -> dict:
    """Return an MAE's fields by its arrays' shapes."""
    width = arrays["decoder_embed/kernel"].shape[1]
    decoder_heads = decoder_heads or published_heads(DECODER_HEADS, width, "--decoder_heads")
    return {**of_vit(arrays, heads), "decoder_layers": count_blocks(arrays, "decoder_block"),
            "decoder_width": width, "decoder_heads": decoder_heads}


def of_encoder(arrays: dict, heads: int, _=0, offset: int = 0) -> dict:
    """Return a text encoder's fields by its arrays' shapes."""
    width = arrays["embed/embedding"].shape[1]
    return dict(layers=count_blocks(arrays, "block"), width=width,
                heads=heads or published_heads(TEXT_HEADS, width),
                context=len(arrays["position/embedding"]) - offset)


def published_heads(known: dict, width: int, flag: str = "--heads") -> int:
    """Return the heads of the published size of this width, or ask for the flag."""
    if width not in known:
        raise UserError(f"the file is of width {width}, of which no published size is known here, "
                        f"and arrays do not say their number of heads; give {flag}=N")
    return known[width]


ARCHS = {
    # torchvision's, timm's and Hugging Face's files
    **{f"resnet{depth}": Arch("classify", dict(name="resnet", depth=depth), recipe=IMAGENET)
       for depth in (18, 34, 50, 101, 152)},
    # akamaster's
    **{f"resnet{depth}_cifar": Arch("classify", dict(name="resnet_cifar", depth=depth),
                                    recipe=IMAGENET, size=32)
       for depth in (20, 32, 44, 56, 110)},
    "efficientnet_lite0": Arch("classify", dict(name="efficientnet_lite0"), recipe=LITE),
    # Hugging Face's
    "vit": Arch("classify", dict(name="vit", eps=1e-12), of_vit, HALF),
    "vit_timm": Arch("classify", dict(name="vit"), of_vit, HALF),
    # timm's and Facebook's
    "deit": Arch("classify", dict(name="vit"), of_deit, IMAGENET),
    "vit_mae": Arch("masked_image", dict(name="mae", eps=1e-12), of_mae, IMAGENET),
    "bert": Arch("masked_text", dict(name="masked_lm", **BERT), of_encoder),
    "roberta": Arch("masked_text", dict(name="masked_lm", **ROBERTA),
                    functools.partial(of_encoder, offset=ROBERTA["offset"])),
}


def find_arch(arch: str) -> Arch:
    """Return the architecture of a name."""
    if arch not in ARCHS:
        raise UserError(f"no published architecture {arch!r}{did_you_mean(arch, ARCHS)}")
    return ARCHS[arch]


def by_our_names(arch: str, arrays: dict, where) -> dict:
    """Return the arrays of a file of this architecture, whose sizes are not known yet."""
    form = dict(find_arch(arch).model)
    fields = MODELS[form["name"]].__dataclass_fields__
    model = make_model(form, **({"classes": 1} if "classes" in fields else {}))
    return translated(model, arrays, where)


def config_for(arch: str, arrays: dict, heads: int = 0, decoder_heads: int = 0,
               tokenizer: str = ""):
    """Return the config of a checkpoint of `arrays` (by our names), whose data is not at hand.

    tokenizer   its JSON, for texts
    """
    known = find_arch(arch)
    try:
        sizes = known.shapes(arrays, heads, decoder_heads) if known.shapes else {}
    except KeyError as error:
        raise UserError(f"the file has no array for our {error}, which every {arch} has; is it of "
                        "another --arch?") from error
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"the file has arrays of other axes than every {arch} has ({error}); is it "
                        "of another --arch?") from error
    model = {**known.model, **sizes}
    data = dict(name="", train="", batch_size=1)
    if known.task == "masked_text":
        if not tokenizer:
            raise UserError(f"--arch={arch} needs --tokenizer=tokenizer.json, which lies beside "
                            "the weights: tokens are meaningless without it")
        spec = dict(length=model["context"], classes=0, tokenizer=tokenizer,
                    fingerprint=vocabulary_of(tokenizer).fingerprint)
    else:
        size = known.size
        if "position" in arrays:
            patches = len(arrays["position"]) - 1 - ("dist" in arrays)
            side = math.isqrt(max(patches, 0))
            if side == 0 or side ** 2 != patches:
                raise UserError(f"the file has {patches} positions of patches, expected those of a "
                                "square")
            size = side * model["patch"]
        classes = arrays["head/bias"].shape[0] if "head/bias" in arrays else 1
        data |= dict(resize=[size, size], **known.recipe)
        spec = dict(classes=classes, shape=[size, size, 3])
    return config(task=known.task, model=model, data={**data, "described": spec}, best="",
                  optimizer=dict(name="sgd", learning_rate=0.1))


def count_blocks(arrays: dict, name: str) -> int:
    """Return the number of blocks of that name, as of block0/..., block1/..."""
    numbers = {key.split("/")[0].removeprefix(name) for key in arrays if key.startswith(name)}
    numbers = {number for number in numbers if number.isdecimal()}
    missing = {str(i) for i in range(len(numbers))} - numbers
    if missing:
        raise UserError(f"the file has {len(numbers)} of {name}0, {name}1, ..., but lacks {name}"
                        f"{min(missing)}; is it cut, or of another --arch?")
    return len(numbers)
