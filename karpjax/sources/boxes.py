"""Pictures with boxes around objects, from any TFDS data set of detection.

    config.data = dict(name="bccd", train="train", validation="val", test="test", batch_size=8,
                       size=(256, 320), objects=32)

karpjax.prepare makes such sets of COCO's, YOLO's and Pascal VOC's files (datasets/objects.py).
"""
from collections.abc import Callable
from numbers import Integral

from ml_collections import ConfigDict
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.content import content_of
from karpjax.datasets.pictures import pixels_of
from karpjax.datasets.tfds import open_splits, prepared_builder
from karpjax.sources.images import numbers_of, scaling
from karpjax.sources.letterbox import fitted, letterbox
from karpjax.sources.records import source_of
from karpjax.sources.source import Source, SpecOnly

KEYS = ("name", "data_dir", "train", "validation", "test", "batch_size", "mean", "std", "size",
        "on_device", "described")


def boxes(data, augment=None) -> Source:
    """Return a source of pictures and the objects in them, at most M.

    image   (B, H, W, 3) float32, letterboxed
    boxes   (B, M, 4), x1, y1, x2, y2 in pixels of the image
    labels  (B, M) int32
    valid   (B, M), 1 for objects to find, 0 for crowds and for places that are left
    crowd   (B, M), 1 for boxes of many objects, where a detection is neither right nor wrong.
            Training takes them for background
    area    (B, M), of the objects in pixels of the original picture
    scale   (B, 2), pixels of the image a pixel of the original, along x and y
    content (B, 2), the height and width that the picture fills in the image

    data is config.data, a dict: name, data_dir, train, validation, test, batch_size, mean, std and
    on_device as for images (images.py), and

    size     (H, W) of the image
    objects  M. A picture with more is an error
    """
    data = ConfigDict(dict(data))
    check_keys(data, (*KEYS, "objects"), "config.data", required=("train", "batch_size", "size",
                                                                 "objects"))
    size, most = check_size(data), data.objects
    if not isinstance(most, Integral) or most < 1:
        raise UserError(f"config.data.objects = {most!r}: expected the most objects of a picture")
    normalise, pixels, fill = normalisation(data)
    try:
        builder = open_builder(data, ("image", "objects"), "coco")
    except UserError as error:
        if not data.get("described"):
            raise
        return spec_only(data.described.to_dict(), normalise, error, fill)
    wanted, records = open_splits(builder, data)
    label = builder.info.features["objects"].feature["label"]
    decode = object_decoder(data.name, size, most, fill)
    row_bytes = 3 * size[0] * size[1] + 36 * most + 16
    source = source_of(data, wanted, records, decode, row_bytes, preprocess=normalise,
                       augment=augment)
    return described(source, builder, label.names, size, pixels, fill)


def described(source: Source, builder, names: list[str], size, pixels: Callable, fill) -> Source:
    """Add what tasks and checkpoints read of a source of letterboxed pictures."""
    source.classes, source.pixels = len(names), pixels
    source.spec = {"classes": len(names), "names": list(names), "shape": [*size, 3],
                   "content": content_of(builder.data_dir)}
    return with_files(source, fill)


def with_files(source: Source, fill) -> Source:
    """Let a source of letterboxed pictures read a user's files."""
    def refuse(pictures):
        raise UserError("run.predict: expected an array (B, H, W, 3) as the data set stores it, "
                        "found files, which are scaled first; call run.detect or run.segment, "
                        "whose results are in the files' own pixels")
    source.letterbox, source.encode = letterboxer(source.spec, fill), refuse
    return source


def spec_only(spec: dict, preprocess: Callable, error: UserError, fill) -> SpecOnly:
    """Return the source of a checkpoint's spec, for a data set that is missing."""
    source = SpecOnly({"image": np.zeros((1, *spec["shape"]), np.uint8)}, preprocess, error)
    source.classes, source.spec = spec["classes"], spec
    return with_files(source, fill)


def letterboxer(spec: dict, fill) -> Callable:
    """Return pictures -> (images (B, H, W, 3) of bytes, scales (B, 2), [(h, w)])."""
    H, W, C = spec["shape"]

    def letterbox_all(pictures):
        read = [pixels_of(picture, C) for picture in pictures]
        images, scales = zip(*(letterbox(image, (H, W), fill) for image in read), strict=True)
        return np.stack(images), np.stack(scales), [image.shape[:2] for image in read]
    return letterbox_all


def normalisation(data) -> tuple[Callable, Callable, np.ndarray]:
    """Return (preprocess, its inverse for pictures to look at, the byte of margins) of mean, std.

    A margin is of the mean's colour, 0 to the network.
    """
    mean, std = numbers_of(data, "mean", 0.0), numbers_of(data, "std", 1.0)
    for name, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), (1,), (3,)):
            raise UserError(f"config.data.{name}: expected a number, or one a channel (3), found "
                            f"{data[name]!r}")
    return *scaling(mean, std), np.clip(np.rint(mean), 0, 255).astype(np.uint8)


def check_size(data) -> tuple[int, int]:
    """Return config.data.size as (H, W)."""
    size = data.size
    if not isinstance(size, (tuple, list)) or len(size) != 2 or \
            not all(isinstance(side, Integral) and side > 0 for side in size):
        raise UserError(f"config.data.size: expected (H, W), found {size!r}")
    return tuple(size)


def open_builder(data, features: tuple[str, ...], format: str):
    """Return the TFDS builder of config.data.name, which has these features."""
    builder = prepared_builder(data.get("name", ""), data.get("data_dir", ""))
    if missing := [name for name in features if name not in builder.info.features]:
        raise UserError(f"data set {data.name!r}: expected the features {' and '.join(features)}, "
                        f"found {', '.join(sorted(builder.info.features))}, without {missing[0]}; "
                        f"prepare its files with python -m karpjax.prepare --format={format}")
    return builder


def in_colour(image, name: str) -> np.ndarray:
    """Return a picture of a set with three channels of 8 bits."""
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise UserError(f"data set {name!r}: expected pictures of 8 bits, grey or RGB, found "
                        f"{image.dtype} with {image.shape[-1]} channels; prepare its files with "
                        "karpjax prepare")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def object_decoder(name: str, size: tuple[int, int], most: int, fill) -> Callable:
    """Return record -> row, which reports a picture with too many objects."""
    def decode(record):
        image = np.asarray(record["image"])
        image = in_colour(image, name)
        H, W = image.shape[:2]
        objects = record["objects"]
        n = len(objects["label"])
        if n > most:
            raise UserError(f"data set {name!r}: a picture has {n} objects; expected at most "
                            f"config.data.objects = {most}: make it {n} or more")
        image, scale = letterbox(image, size, fill)
        top, left, bottom, right = np.float32(objects["bbox"]).reshape(n, 4).T
        corners = np.stack([left, top, right, bottom], axis=1) * np.float32([W, H, W, H])
        crowd = np.float32(objects.get("is_crowd", objects.get("is_difficult", [0] * n)))
        sides = corners[:, 2:] - corners[:, :2]
        area = np.float32(objects.get("area", sides.prod(axis=1)))

        def slots(values, dtype=np.float32):
            """Return M places, the first n of them filled."""
            values = np.asarray(values, dtype)
            out = np.zeros((most, *values.shape[1:]), dtype)
            out[:n] = values
            return out
        return {"image": image, "content": np.float32(fitted((H, W), size)),
                "boxes": slots(corners * np.tile(scale, 2)),
                "labels": slots(objects["label"], np.int32), "valid": slots(1 - crowd),
                "crowd": slots(crowd), "area": slots(area), "scale": scale}
    return decode
