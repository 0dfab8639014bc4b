"""Any TFDS data set by name, without TensorFlow: on the device where it fits, through grain where it does not.

    config.data = dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test", batch_size=128,
                       mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])

TFDS reads and writes array_record files without TensorFlow; a set that was prepared as tfrecord must be prepared again with
`file_format="array_record"`. karpjax's own sets (digits) are prepared from the package on first use, offline.
"""
import importlib
import os
import pathlib
import shutil
import tempfile

from ml_collections import ConfigDict
import numpy as np

from karpjax.errors import UserError, check_choice, check_keys
from karpjax.sources.arrays import Arrays
from karpjax.sources.host import Host
from karpjax.sources.source import Described, Source

EMBEDDED = {"digits": ("karpjax.sources.digits", "Digits")}  # made from the package's own files
ON_DEVICE_BYTES = 2 << 30                                    # larger sets are fed from the host
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
        source.classes = data.described["classes"]
        return source
    wanted = {split: data.get(split, "") for split in ("train", "validation", "test") if data.get(split, "")}
    records = {split: open_split(builder, expression) for split, expression in wanted.items()}
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

    where = data.get("on_device", "auto")
    check_choice(where, ("auto", "yes", "no"), "config.data.on_device")
    shape = (*(resize or features["image"].shape[:2]), channels or features["image"].shape[2])
    fixed = None not in shape
    size = len(records["train"]) * int(np.prod([s for s in shape if s])) * np.dtype(features["image"].np_dtype).itemsize
    options = dict(batch_size=data.batch_size, prepare=prepare, augment=augment, mix=mix)
    if where == "yes" or (where == "auto" and fixed and size <= ON_DEVICE_BYTES):
        columns = {split: read_all(rows, decode, f"{data.name}/{wanted[split]}") for split, rows in records.items()}
        source = Arrays(columns.pop("train"), splits=columns, **options)
    else:
        named = {split: Named(rows, f"{data.name}/{wanted[split]}") for split, rows in records.items()}
        source = Host(named.pop("train"), splits=named, decode=decode, **options)
    source.classes, source.described = classes, {"classes": classes, "shape": list(source.example["image"].shape[1:])}
    return source


def prepared_builder(name: str, data_dir: str = ""):
    """The TFDS builder of a prepared set; the embedded sets are prepared here, once, if they are not there yet."""
    import tensorflow_datasets as tfds
    data_dir = default_data_dir(data_dir)
    if name in EMBEDDED:
        module, cls = EMBEDDED[name]
        builder_class = getattr(importlib.import_module(module), cls)
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            prepare_once(builder_class, pathlib.Path(data_dir), pathlib.Path(builder.data_dir))
            builder = builder_class(data_dir=data_dir, file_format="array_record")
        return builder
    try:  # as it is on disk, with the features it was written with: TFDS's own class of that name may say otherwise
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, ImportError) as error:
        prepared = sorted(p.name for p in pathlib.Path(data_dir).glob("*") if p.is_dir()) if os.path.isdir(data_dir) else []
        raise UserError(f"data set {name!r}: TFDS does not know it and it is not prepared in {data_dir} (there: "
                        f"{', '.join(sorted({*EMBEDDED, *prepared}))}); check the name, or prepare it: python -m "
                        "karpjax.prepare --help") from error
    if not builder.is_prepared():
        raise UserError(f"data set {name!r} is not prepared in {data_dir}; prepare your files with python -m karpjax.prepare, "
                        f"or let TFDS download them: python -c \"import tensorflow_datasets as t; t.builder({name!r}, "
                        f"file_format='array_record', data_dir={data_dir!r}).download_and_prepare()\"")
    return builder


def open_split(builder, expression: str):
    """Random access to a split expression such as "train[:90%]"."""
    try:
        return builder.as_data_source(expression)
    except NotImplementedError as error:
        raise UserError(f"data set {builder.name!r} is prepared as {builder.info.file_format}, which is not random-access; "
                        "prepare it again with file_format='array_record'") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"data set {builder.name!r} has no split {expression!r}; it has {sorted(builder.info.splits)}, and "
                        f"parts of them as in 'train[:90%]'") from error


class Named:
    """Records that say which one could not be read."""

    def __init__(self, rows, name):
        self.rows, self.name = rows, name

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return read_record(self.rows, i, self.name)


def read_record(rows, i: int, name: str):
    try:
        return rows[i]
    except UserError:
        raise
    except ImportError as error:  # TFDS decodes images with Pillow or OpenCV
        raise UserError(f'data set {name}: reading images needs Pillow ({error}); pip install "karpjax[images]"') from error
    except Exception as error:  # whatever the decoder raises: Pillow, OpenCV and array_record all differ
        raise UserError(f"data set {name}: record {i} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
                        "the file is damaged: prepare the set again, or leave the record out by its split") from error


def fit(image, resize: tuple, channels: int):
    """An image (h, w, c) as (H, W, C): see `resize` and `channels` in `images`."""
    if channels and image.shape[-1] != channels:
        if image.shape[-1] != 1:
            raise UserError(f"config.data.channels = {channels}: expected images of 1 or {channels} channels, found "
                            f"{image.shape[-1]}")
        image = np.repeat(image, channels, axis=-1)
    if not resize or image.shape[:2] == resize:
        return image
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError('config.data.resize needs Pillow; pip install "karpjax[images]"') from error
    (h, w, c), (H, W) = image.shape, resize
    scale = min(h / H, w / W)                                             # of the part: scale H x scale W, in the middle
    top, left = (h - scale * H) / 2, (w - scale * W) / 2
    picture = Image.fromarray(image if c > 1 else image[..., 0])
    resized = picture.resize((W, H), Image.Resampling.BILINEAR, box=(left, top, left + scale * W, top + scale * H))
    return np.asarray(resized).reshape(H, W, c)


def read_all(rows, decode, name: str) -> dict:
    """A whole split as columns in host memory: {"image": (N, H, W, C), "label": (N,)}."""
    decoded = [decode(read_record(rows, i, name)) for i in range(len(rows))]
    shapes = {row["image"].shape for row in decoded}
    if len(shapes) != 1:
        raise UserError(f"data set {name}: images of {len(shapes)} shapes, expected one to hold them in one array; resize them "
                        "when preparing the set")
    return {key: np.stack([row[key] for row in decoded]) for key in decoded[0]}


def default_data_dir(data_dir: str = "") -> str:
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def prepare_once(builder_class, data_dir: pathlib.Path, target: pathlib.Path, replace: bool = False) -> None:
    """Prepare beside the target and rename: two processes may start together, and neither must see a half-written set.

    replace    a set that is there already, in any version; else it stays as it is
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing_") as scratch:
            import tensorflow_datasets as tfds
            tfds.disable_progress_bar()  # a second of work
            builder = builder_class(data_dir=scratch, file_format="array_record")
            builder.download_and_prepare()
            if replace and target.parent.exists():
                shutil.rmtree(target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(builder.data_dir, target)
            except OSError:
                if not target.exists():  # another process was first: fine
                    shutil.copytree(builder.data_dir, target)
    except PermissionError as error:
        raise UserError(f"cannot write the data set to {data_dir} ({error}); set TFDS_DATA_DIR or config.data.data_dir "
                        "to a folder that can be written") from error
