"""Images from any TFDS data set, or from a folder of folders.

    config.data = dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test",
                       batch_size=128, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
    config.data = dict(dir="ants_and_bees", train="train", test="val", batch_size=32,
                       resize=(256, 256), crop=224)
"""
from collections.abc import Callable
from numbers import Integral

from ml_collections import ConfigDict
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.content import content_of
from karpjax.datasets.folders import prepared_folder, same_pictures
from karpjax.datasets.pictures import as_array, load_pillow, pixels_of
from karpjax.datasets.tfds import open_splits, prepared_builder
from karpjax.sources.records import source_of
from karpjax.sources.source import Source, SpecOnly

KEYS = ("name", "dir", "data_dir", "train", "validation", "test", "batch_size", "mean", "std",
        "resize", "crop", "channels", "on_device", "described")


def images(data, augment=None, mix=None) -> Source:
    """Return a source of {"image": (B, H, W, C) float32, "label": (B,) int32}.

    data is config.data, a dict:

    name, data_dir      the TFDS set and where it is prepared ("": TFDS's default, or
                        $TFDS_DATA_DIR)
    dir                 in place of name: DIR/train/CLASS/*.jpg, DIR/test/CLASS/*.jpg; made a TFDS
                        set on first use, and again after a file has changed. It has one channel
                        if all pictures are grey, else three
    train, validation, test   splits in TFDS's syntax, "" for none
    batch_size          global
    mean, std           per channel, in the units of the stored pixels:
                        image = (stored - mean) / std
    resize              [H, W]: the largest part in the middle of that shape, scaled (bilinear,
                        antialiased), on the host
    crop                in evaluation and prediction: the size of a square in the middle (of what
                        `resize` leaves)
    channels            3: grey images repeated to three channels; 1: colours made grey
    on_device           "auto", "yes" or "no" (streamed from the host)
    described           set for a run that is restored or goes on: classes and shape, used if the
                        data set is missing
    """
    data = ConfigDict(dict(data))
    check_keys(data, KEYS, "config.data", required=("train", "batch_size"))
    mean, std = numbers_of(data, "mean", 0.0), numbers_of(data, "std", 1.0)
    crop, channels = whole_number(data, "crop"), whole_number(data, "channels")

    normalise, pixels = scaling(mean, std)

    def view(batch):
        return {**batch, "image": center_crop(batch["image"], crop)} if crop else batch

    try:
        builder = open_builder(data)
        check_features(builder.info.features, builder.name)
    except UserError as error:
        if not data.get("described"):
            raise
        return spec_only(data.described.to_dict(), lambda batch: view(normalise(batch)), error)
    data.name = builder.name
    wanted, records = open_splits(builder, data)
    features = builder.info.features
    check_channels_of(data, channels or features["image"].shape[-1])
    resize = check_resize(data.get("resize", ()))
    decode = record_decoder(data.name, features["label"].num_classes, resize, channels)
    row_bytes = bytes_of_row(features["image"], resize, channels)
    source = source_of(data, wanted, records, decode, row_bytes, features["label"].num_classes,
                       preprocess=normalise, view=view, augment=augment, mix=mix)
    stored = decode(records["train"][0])["image"]
    source.classes = features["label"].num_classes
    source.spec = {"classes": source.classes, "shape": list(stored.shape),
                   "names": features["label"].names, "content": content_of(builder.data_dir)}
    if data.get("dir", ""):
        source.spec["set"] = builder.name
    if stored.dtype == np.uint8:
        source.encode = picture_encoder(source.spec["shape"])
    else:
        source.spec["dtype"] = str(stored.dtype)
    source.pixels = pixels
    return source


def scaling(mean, std) -> tuple[Callable, Callable]:
    """Return (batch -> batch with images of that mean and deviation, images -> 0 to 1 to look at).
    """
    def normalise(batch):
        image = (batch["image"].astype(np.float32) - mean) / std                    # (B, H, W, C)
        return {**batch, "image": image}

    def pixels(images):
        """Return (B, H, W, C) in 0 to 1, to look at."""
        return np.clip((np.asarray(images) * std + mean) / 255, 0, 1)
    return normalise, pixels


def spec_only(spec: dict, preprocess, error: UserError) -> SpecOnly:
    """Return the source of a checkpoint's spec, for a data set that is missing."""
    dtype = spec.get("dtype", "uint8")
    source = SpecOnly({"image": np.zeros((1, *spec["shape"]), dtype)}, preprocess, error)
    source.classes, source.spec = spec["classes"], spec
    if dtype == "uint8":  # files of pictures are bytes, whose scale is not that of other arrays
        source.encode = picture_encoder(spec["shape"])
    return source


def open_builder(data):
    """Return the TFDS builder that config.data names."""
    if data.get("dir", ""):
        if data.get("name", ""):
            raise UserError(f"config.data: name = {data.name!r} and dir = {data.dir!r}; expected "
                            "one of them")
        was = (data.get("described") or {}).get("set")
        if was and not same_pictures(was, data.dir, data.get("data_dir", "")):
            raise UserError(f"config.data.dir = {data.dir!r}: its pictures have changed since this "
                            "run began; put them back, or use a new --workdir")
        name = prepared_folder(data.dir, data.get("data_dir", ""), was or "")
        return prepared_builder(name, data.get("data_dir", ""))
    if not data.get("name", ""):
        raise UserError("config.data: expected the name of a data set, or the dir of an "
                        "ImageFolder (--config.data.dir=DIR); found neither")
    return prepared_builder(data.name, data.get("data_dir", ""))


def check_features(features, name: str) -> None:
    """Raise a UserError unless a TFDS set has images and labels."""
    for key in ("image", "label"):
        if key not in features:
            raise UserError(f"data set {name!r}: expected features image and label, found "
                            f"{sorted(features)}")
    if not hasattr(features["label"], "num_classes"):
        raise UserError(f"data set {name!r}: expected the feature label to be a ClassLabel, found "
                        f"{type(features['label']).__name__}; prepare the set again with "
                        "tfds.features.ClassLabel")
    image = features["image"]
    if hasattr(image, "encoding_format") and image.np_dtype != np.uint8:
        raise UserError(f"data set {name!r}: expected pictures of 8 bits, found "
                        f"{np.dtype(image.np_dtype)}; prepare their files with python -m "
                        "karpjax.prepare, which keeps the upper 8 of 16, or store the numbers as "
                        "they are, as tfds.features.Tensor")


def check_resize(resize) -> tuple:
    """Return config.data.resize as (H, W), or () for none."""
    if not isinstance(resize, (tuple, list)) or len(resize) not in (0, 2) or \
            not all(isinstance(side, Integral) and side > 0 for side in resize):
        raise UserError(f"config.data.resize: expected (H, W), or () for none, found {resize!r}")
    return tuple(resize)


def whole_number(data, key: str) -> int:
    """Return a key of config.data that is a whole number, 0 for none."""
    if not isinstance(number := data.get(key, 0), Integral) or number < 0:
        raise UserError(f"config.data.{key}: expected a whole number, or 0 for none, found "
                        f"{number!r}")
    return number


def numbers_of(data, key: str, default: float) -> np.ndarray:
    """Return config.data.mean or std as an array."""
    try:
        return np.asarray(data.get(key, default), np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.data.{key}: expected a number, or one a channel, found "
                        f"{data[key]!r}") from error


def check_channels_of(data, channels: int) -> None:
    """Raise a UserError unless mean and std have a number, or one a channel.

    Those of three channels repeat grey images.
    """
    for key in ("mean", "std"):
        size = np.shape(data.get(key, 0.0)) or (1,)
        if size not in {(1,), (3 if channels == 1 else channels,)}:
            raise UserError(f"config.data.{key}: expected a number, or one a channel ({channels}), "
                            f"found {data[key]!r}")


def record_decoder(name: str, classes: int, resize: tuple, channels: int):
    """Return record -> {"image": (H, W, C), "label": ()}, which reports an impossible label."""
    def decode(record):
        label = int(record["label"])
        if not 0 <= label < classes:
            raise UserError(f"data set {name!r}: a label is {label}, expected 0 to {classes - 1}; "
                            "prepare the set again with the right num_classes")
        image = fit_image(np.asarray(record["image"]), resize, channels)
        return {"image": image, "label": np.int32(label)}
    return decode


def bytes_of_row(feature, resize: tuple, channels: int) -> int | None:
    """Return the bytes of a decoded image, or None if images are of many sizes."""
    shape = (*(resize or feature.shape[:2]), channels or feature.shape[2])
    return None if None in shape else int(np.prod(shape)) * np.dtype(feature.np_dtype).itemsize


def center_crop(images, size: int):
    """Return the square in the middle: (B, H, W, C) -> (B, size, size, C)."""
    H, W = images.shape[1:3]
    if min(H, W) < size:
        raise UserError(f"config.data.crop = {size}: the images are {H} x {W}; expected "
                        "config.data.resize of at least that")
    top, left = (H - size) // 2, (W - size) // 2
    return images[:, top:top + size, left:left + size]


def picture_encoder(shape):
    """Return [file or PIL image] -> (B, H, W, C) uint8, as the data set stores them."""
    H, W, C = shape

    def encode(pictures) -> np.ndarray:
        return np.stack([fit_image(pixels_of(picture, C), (H, W), C) for picture in pictures])

    return encode


def fit_image(image, resize: tuple, channels: int):
    """Return an image (h, w, c) as (H, W, C): see `resize` and `channels` in `images`."""
    if image.dtype != np.uint8 and (resize or channels == 1 < image.shape[-1]):
        raise UserError("config.data.resize and channels = 1: expected pictures of uint8, found "
                        f"{image.dtype}; leave them out, or prepare the set again with uint8")
    if channels == 1 and image.shape[-1] == 3:
        image = as_array(load_pillow("config.data.channels").fromarray(image), 1)
    elif channels and image.shape[-1] != channels:
        if image.shape[-1] != 1:
            raise UserError(f"config.data.channels = {channels}: expected images of 1 or "
                            f"{channels} channels, found {image.shape[-1]}")
        image = np.repeat(image, channels, axis=-1)
    if not resize or image.shape[:2] == resize:
        return image
    Image = load_pillow("config.data.resize")
    (h, w, c), (H, W) = image.shape, resize
    scale = min(h / H, w / W)                    # of the part: scale H x scale W, in the middle
    top, left = (h - scale * H) / 2, (w - scale * W) / 2
    picture = Image.fromarray(image if c > 1 else image[..., 0])
    box = (left, top, left + scale * W, top + scale * H)
    resized = picture.resize((W, H), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).reshape(H, W, c)
