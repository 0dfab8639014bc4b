"""Images from any TFDS data set, or from a folder of folders.

    config.data = dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test", batch_size=128,
                       mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
    config.data = dict(dir="ants_and_bees", train="train", test="val", batch_size=32, resize=(256, 256), crop=224)
"""
from ml_collections import ConfigDict
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.images import name_of_folder, prepared_folder
from karpjax.datasets.tfds import open_splits, prepared_builder
from karpjax.sources.records import source_of
from karpjax.sources.source import SpecOnly, Source

KEYS = ("name", "dir", "data_dir", "train", "validation", "test", "batch_size", "mean", "std", "resize", "crop", "channels",
        "on_device", "described")


def images(data, augment=None, mix=None) -> Source:
    """A source of {"image": (B, H, W, C) float32, "label": (B,) int32} from config.data, a dict:

    name, data_dir      the TFDS set and where it is prepared ("": TFDS's default, or $TFDS_DATA_DIR)
    dir                 in place of name: DIR/train/CLASS/*.jpg, DIR/test/CLASS/*.jpg; made a TFDS set on first use, and again
                        when a file has changed
    train, validation, test   splits in TFDS's syntax, "" for none
    batch_size          global
    mean, std           per channel, in the units of the stored pixels: image = (stored - mean) / std
    resize              [H, W]: the largest part in the middle of that shape, scaled (bilinear, antialiased), on the host
    crop                in evaluation and prediction: the size of a square in the middle (of what `resize` leaves)
    channels            3: grey images repeated to three channels
    on_device           "auto", "yes" or "no" (fed from the host)
    spec           set by karpjax.restore: classes and shape, for where the data set is not
    """
    data = ConfigDict(dict(data))
    check_keys(data, KEYS, "config.data", required=("train", "batch_size"))
    mean, std = (np.asarray(data.get(k, default), np.float32) for k, default in (("mean", 0.0), ("std", 1.0)))

    def prepare(batch):
        return {**batch, "image": (batch["image"].astype(np.float32) - mean) / std}         # (B, H, W, C)

    def view(batch):
        return {**batch, "image": middle(batch["image"], data.crop)} if data.get("crop", 0) else batch

    try:
        builder = set_of(data)
    except UserError as error:
        if not data.get("described"):
            raise
        spec = data.described.to_dict()
        source = SpecOnly({"image": np.zeros((1, *spec["shape"]), np.uint8)}, lambda batch: view(prepare(batch)), error)
        source.classes, source.spec, source.encode = spec["classes"], spec, encoder(spec["shape"])
        return source
    data.name = builder.name
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
    source = source_of(data, wanted, records, decode, row_bytes, preprocess=prepare, view=view, augment=augment, mix=mix)
    stored = decode(records["train"][0])["image"].shape
    source.classes, source.spec = classes, {"classes": classes, "shape": list(stored), "names": features["label"].names,
                                                 **({"set": builder.name} if data.get("dir", "") else {})}
    source.encode = encoder(source.spec["shape"])
    source.pixels = lambda images: np.clip((np.asarray(images) * std + mean) / 255, 0, 1)   # (B, H, W, C) in 0 to 1, to look at
    return source


def set_of(data):
    """The TFDS builder that config.data names."""
    if data.get("dir", ""):
        if data.get("name", ""):
            raise UserError(f"config.data: name = {data.name!r} and dir = {data.dir!r}; expected one of them")
        was = (data.get("described") or {}).get("set")
        if was and was != name_of_folder(data.dir):
            raise UserError(f"config.data.dir = {data.dir!r}: its pictures have changed since they were learned from")
        return prepared_builder(prepared_folder(data.dir, data.get("data_dir", "")), data.get("data_dir", ""))
    if not data.get("name", ""):
        raise UserError("config.data: expected the name of a data set, or the dir of an ImageFolder (--config.data.dir=DIR); "
                        "found neither")
    return prepared_builder(data.name, data.get("data_dir", ""))


def middle(images, size: int):
    """(B, H, W, C) -> (B, size, size, C)."""
    H, W = images.shape[1:3]
    if min(H, W) < size:
        raise UserError(f"config.data.crop = {size}: the images are {H} x {W}; expected config.data.resize of at least that")
    top, left = (H - size) // 2, (W - size) // 2
    return images[:, top:top + size, left:left + size]


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
