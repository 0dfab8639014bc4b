"""Images from any TFDS data set.

    config.data = dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test", batch_size=128,
                       mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
"""
from ml_collections import ConfigDict
import numpy as np

from karpjax.errors import UserError, check_keys
from karpjax.sources.datasets import open_splits, prepared_builder, source_of
from karpjax.sources.source import Described, Source

KEYS = ("name", "data_dir", "train", "validation", "test", "batch_size", "mean", "std", "resize", "channels", "on_device",
        "described")


def images(data, augment=None, mix=None) -> Source:
    """A source of {"image": (B, H, W, C) float32, "label": (B,) int32} from config.data, a dict:

    name, data_dir      the TFDS set and where it is prepared ("": TFDS's default, or $TFDS_DATA_DIR)
    train, validation, test   splits in TFDS's syntax, "" for none
    batch_size          global
    mean, std           per channel, in the units of the stored pixels: image = (stored - mean) / std
    resize              [H, W]: the largest part in the middle of that shape, scaled (bilinear, antialiased), on the host
    channels            3: grey images repeated to three channels
    on_device           "auto", "yes" or "no" (fed from the host)
    described           set by karpjax.restore: classes and shape, for where the data set is not
    """
    data = ConfigDict(dict(data))
    check_keys(data, KEYS, "config.data", required=("name", "train", "batch_size"))
    mean, std = (np.asarray(data.get(k, default), np.float32) for k, default in (("mean", 0.0), ("std", 1.0)))

    def prepare(batch):
        return {**batch, "image": (batch["image"].astype(np.float32) - mean) / std}         # (B, H, W, C)

    try:
        builder = prepared_builder(data.name, data.get("data_dir", ""))
    except UserError as error:
        if not data.get("described"):
            raise
        source = Described({"image": np.zeros((1, *data.described["shape"]), np.uint8)}, prepare, error)
        source.classes, source.encode = data.described["classes"], encoder(data.described["shape"])
        return source
    wanted, records = open_splits(builder, data)
    features = builder.info.features
    for name in ("image", "label"):
        if name not in features:
            raise UserError(f"data set {data.name!r}: expected features image and label, found {sorted(features)}")
    if not hasattr(features["label"], "num_classes"):
        raise UserError(f"data set {data.name!r}: expected the feature label to be a ClassLabel, found "
                        f"{type(features['label']).__name__}; prepare the set again with tfds.features.ClassLabel")
    classes, resize, channels = features["label"].num_classes, tuple(data.get("resize", ())), data.get("channels", 0)

    def decode(record):
        label = int(record["label"])
        if not 0 <= label < classes:
            raise UserError(f"data set {data.name!r}: a label is {label}, expected 0 to {classes - 1}; "
                            "prepare the set again with the right num_classes")
        return {"image": fit(np.asarray(record["image"]), resize, channels), "label": np.int32(label)}

    shape = (*(resize or features["image"].shape[:2]), channels or features["image"].shape[2])
    row_bytes = None if None in shape else int(np.prod(shape)) * np.dtype(features["image"].np_dtype).itemsize
    source = source_of(data, wanted, records, decode, row_bytes, prepare=prepare, augment=augment, mix=mix)
    source.classes, source.described = classes, {"classes": classes, "shape": list(source.example["image"].shape[1:])}
    source.encode = encoder(source.described["shape"])
    source.pixels = lambda images: np.clip((np.asarray(images) * std + mean) / 255, 0, 1)   # (B, H, W, C) in 0 to 1, to look at
    return source


def encoder(shape):
    """[file or PIL image] -> (B, H, W, C) uint8, as the data set stores them."""
    H, W, C = shape

    def encode(pictures) -> np.ndarray:
        Image = pillow("pictures")
        rows = []
        for picture in pictures:
            try:
                picture = picture if hasattr(picture, "convert") else Image.open(picture)
                pixels = np.asarray(picture.convert("L" if C == 1 else "RGB")).reshape(*picture.size[::-1], C)     # (h, w, C)
                rows.append(fit(pixels, (H, W), C))
            except OSError as error:
                raise UserError(f"{picture}: not a picture that can be read ({error}); expected files or PIL images") from error
        return np.stack(rows)

    return encode


def pillow(what: str):
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(f'{what} needs Pillow; pip install "karpjax[images]"') from error
    return Image


def fit(image, resize: tuple, channels: int):
    """An image (h, w, c) as (H, W, C): see `resize` and `channels` in `images`."""
    if channels and image.shape[-1] != channels:
        if image.shape[-1] != 1:
            raise UserError(f"config.data.channels = {channels}: expected images of 1 or {channels} channels, found "
                            f"{image.shape[-1]}")
        image = np.repeat(image, channels, axis=-1)
    if not resize or image.shape[:2] == resize:
        return image
    Image = pillow("config.data.resize")
    (h, w, c), (H, W) = image.shape, resize
    scale = min(h / H, w / W)                                             # of the part: scale H x scale W, in the middle
    top, left = (h - scale * H) / 2, (w - scale * W) / 2
    picture = Image.fromarray(image if c > 1 else image[..., 0])
    resized = picture.resize((W, H), Image.Resampling.BILINEAR, box=(left, top, left + scale * W, top + scale * H))
    return np.asarray(resized).reshape(H, W, c)
