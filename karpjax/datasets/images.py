"""What people have on disk: ImageFolder, IDX (MNIST's format), CIFAR's binary files, NumPy archives.

Each importer reads and checks all of it and returns a `Found`, whose rows `karpjax.prepare` writes; a file that cannot be
read, or a label that cannot be, is found before anything is written.
"""
from collections.abc import Iterable
import concurrent.futures
import dataclasses
import gzip
import hashlib
import io
import pathlib
import struct
import zlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.tfds import VERSION, default_data_dir, write


@dataclasses.dataclass
class Found:
    """classes   names, by label
    shape     of an image: (H, W, C), or (None, None, 3) for encoded pictures of many sizes
    splits    {"train": rows}, a row {"image", "label"}, with len(); image an array, or a file TFDS reads as it is
    """
    classes: list[str]
    shape: tuple
    splits: dict[str, Iterable]

    def features(self) -> dict:
        import tensorflow_datasets as tfds
        image = tfds.features.Image(shape=self.shape) if None in self.shape else \
            tfds.features.Tensor(shape=self.shape, dtype=np.uint8)
        return {"image": image, "label": tfds.features.ClassLabel(names=self.classes)}

    def metadata(self) -> dict:
        return {}

    def summary(self) -> dict:
        return {"classes": len(self.classes), "shape": list(self.shape)}


@dataclasses.dataclass
class Rows:
    """Pairs of images and labels, in their order."""
    images: np.ndarray | list
    labels: np.ndarray | list

    def __len__(self):
        return len(self.labels)

    def __iter__(self):
        return ({"image": image, "label": int(label)} for image, label in zip(self.images, self.labels))


# ------------------------------------------------------------------------------------------------------ ImageFolder

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def imagefolder(folder: pathlib.Path, classes: list[str] = ()) -> Found:
    """DIR/train/CLASS/*.jpg, and any other split beside train (val, validation, test). Pictures are kept as their files are;
    those not RGB (grey, palette, CMYK, transparent) become RGB PNGs. A rotation that EXIF asks for is not applied, as usual.
    """
    if classes:
        raise UserError("--classes: an ImageFolder's classes are its folders' names; leave it out")
    from tqdm import tqdm  # here: an import of karpjax does not need it
    splits = {split.name: subfolders(split) for split in subfolders(folder)}
    if not splits.get("train"):
        raise UserError(f"--from={folder}: expected {folder}/train/CLASS/*.jpg, found "
                        f"{', '.join(sorted(p.name for p in folder.iterdir())[:10]) or 'nothing'} in it")
    classes = [each.name for each in splits["train"]]
    found, ignored = {}, 0
    for split, folders in splits.items():
        names = [each.name for each in folders]
        if names != classes:
            raise UserError(f"{folder}: {split} and train have other classes: only in train: "
                            f"{', '.join(sorted({*classes} - {*names})) or 'none'}; only in {split}: "
                            f"{', '.join(sorted({*names} - {*classes})) or 'none'}")
        files = [(file, label) for label, each in enumerate(folders) for file in sorted(each.iterdir()) if file.is_file()]
        kept = [(file, label) for file, label in files if file.suffix.lower() in PICTURES]
        ignored += len(files) - len(kept)
        empty = [name for label, name in enumerate(classes) if label not in {label for _, label in kept}]
        if empty:
            raise UserError(f"{folder}/{split}: no picture ({', '.join(PICTURES)}) of class {', '.join(empty)}; add some, or "
                            "remove the class from every split")
        # All classes in every part of a split, as in train[:90%].
        order = np.random.default_rng(0).permutation(len(kept))
        with concurrent.futures.ThreadPoolExecutor() as threads:
            pictures = list(tqdm(threads.map(as_rgb, [kept[i][0] for i in order]), total=len(kept), desc=split, leave=False))
        found[split] = Rows(pictures, [kept[i][1] for i in order])
    if ignored:
        print(f"{ignored} files that are no pictures ({', '.join(PICTURES)}) were left out")
    return Found(classes, (None, None, 3), found)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


class Picture(io.BytesIO):
    """An encoded picture that TFDS copies as it is."""


def as_rgb(file: pathlib.Path):
    """The file's path if all of it decodes to RGB, else it again as an RGB PNG."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError('an ImageFolder needs Pillow; pip install "karpjax[images]"') from error
    try:
        with Image.open(file) as picture:
            picture.load()
            if picture.mode == "RGB" and picture.format in ("JPEG", "PNG"):
                return str(file)
            png = Picture()
            picture.convert("RGB").save(png, "png")
    except Exception as error:  # Pillow raises all kinds
        raise UserError(f"{file}: this picture cannot be read ({type(error).__name__}: {error}); replace or remove it") \
            from error
    png.seek(0)
    return png


# -------------------------------------------------------------------------------------------------------------- IDX

def idx(folder: pathlib.Path, classes: list[str] = ()) -> Found:
    """MNIST's four files, packed with gzip or not: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..."""
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (read_idx(only_file(folder, f"{prefix}-{kind}?idx{axes}-ubyte*"), axes)
                          for kind, axes in (("images", 3), ("labels", 1)))
        splits[split] = check_labels(images[..., None], labels, f"{folder}, {split}")
    return Found(classes or names_for(splits), splits["train"].images.shape[1:], splits)


def read_idx(file: pathlib.Path, axes: int) -> np.ndarray:
    """Bytes in `axes` axes: a magic number 0, 0, 8, axes; the axes' lengths, big-endian; the bytes."""
    try:
        data = (gzip.open if file.suffix == ".gz" else open)(file, "rb").read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file}: cannot be unpacked ({error}); fetch it again") from error
    if data[:4] != bytes([0, 0, 8, axes]):
        raise UserError(f"{file}: expected IDX bytes in {axes} axes, magic number {2048 + axes}, found "
                        f"{int.from_bytes(data[:4], 'big')}; is it another file, or another format?")
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:start]) if len(data) >= start else ()
    if len(data) - start != np.prod(shape):
        raise UserError(f"{file}: expected {int(np.prod(shape))} bytes after its head, {shape}, found "
                        f"{max(len(data) - start, 0)}; it is cut short: fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


# ------------------------------------------------------------------------------------------------------------ CIFAR

def cifar(folder: pathlib.Path, classes: list[str] = ()) -> Found:
    """The binary version of CIFAR-10 (data_batch_1.bin to 5, test_batch.bin) or -100 (train.bin, test.bin; fine labels)."""
    if (folder / "train.bin").exists():
        names, skip, parts = "fine_label_names.txt", 1, {"train": ["train.bin"], "test": ["test.bin"]}
    else:
        names, skip = "batches.meta.txt", 0
        parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    if not classes:
        classes = only_file(folder, names).read_text().split()
    splits = {}
    for split, files in parts.items():
        rows = np.concatenate([read_cifar(only_file(folder, file), skip) for file in files])
        images = rows[:, 1 + skip:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)           # (N, 32, 32, 3)
        splits[split] = check_labels(images, rows[:, skip], f"{folder}, {split}", len(classes))
    return Found(classes, (32, 32, 3), splits)


def read_cifar(file: pathlib.Path, skip: int) -> np.ndarray:
    width, size = 1 + skip + 3072, file.stat().st_size
    if size == 0 or size % width:
        raise UserError(f"{file}: expected rows of {width} bytes, found {size / width:.2f} rows; fetch it again")
    return np.fromfile(file, np.uint8).reshape(-1, width)


# ------------------------------------------------------------------------------------------------------------ NumPy

def npz(file: pathlib.Path, classes: list[str] = ()) -> Found:
    """An archive of x_train, y_train and, if you like, x_test, y_test or any other pair x_SPLIT, y_SPLIT (Keras' names); images
    (N, H, W) or (N, H, W, C) of bytes."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except Exception as error:  # NumPy and zipfile raise all kinds
        raise UserError(f"{file}: cannot be read as a NumPy archive of plain arrays ({type(error).__name__}: {error}); "
                        "write it with numpy.savez_compressed") from error
    names = sorted((name[2:] for name in columns if name.startswith("x_")), key=lambda name: name != "train")
    lacking = [f"y_{name}" for name in names if f"y_{name}" not in columns] + ["x_train"] * ("train" not in names)
    if lacking:
        raise UserError(f"{file}: expected x_train, y_train and pairs like them, found "
                        f"{', '.join(sorted(columns)) or 'nothing'}; missing: {', '.join(lacking)}")
    splits = {}
    for split in names:
        images, labels = columns[f"x_{split}"], columns[f"y_{split}"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(f"{file}: x_{split}: expected bytes (uint8) of shape (N, H, W) or (N, H, W, C), found "
                            f"{images.dtype} of {images.shape}; scale to 0 to 255 and round")
        if not np.issubdtype(labels.dtype, np.integer) or labels.squeeze().ndim > 1:
            raise UserError(f"{file}: y_{split}: expected integers of shape (N,), found {labels.dtype} of {labels.shape}")
        images = images[..., None] if images.ndim == 3 else images
        splits[split] = check_labels(images, labels.reshape(-1), f"{file}, {split}", len(classes) or None)
    shapes = {split: rows.images.shape[1:] for split, rows in splits.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{file}: expected images of one shape, found {shapes}")
    return Found(classes or names_for(splits), shapes["train"], splits)


# ------------------------------------------------------------------------------------------------------ small parts

def only_file(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    files = sorted(folder.glob(pattern))
    if not files:
        raise UserError(f"--from={folder}: expected a file {pattern.replace('?', '-').replace('*', '[.gz]')}, found "
                        f"{', '.join(sorted(p.name for p in folder.iterdir())[:10]) or 'nothing'}")
    return files[0]


def check_labels(images, labels, where: str, classes: int | None = None) -> Rows:
    """Rows, if there are as many labels as images and every label is one."""
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{where}: expected as many labels as images, found {len(labels)} labels and {len(images)} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        allowed = f"0 to {classes - 1}" if classes else "0 and more"
        raise UserError(f"{where}: expected labels of {allowed}, found {low} to {high}; correct them, or the classes' names")
    return Rows(images, labels)


def names_for(splits: dict[str, Rows]) -> list[str]:
    """Names of classes that have none: their numbers."""
    return [str(i) for i in range(1 + max(int(rows.labels.max()) for rows in splits.values()))]


def prepared_folder(folder, data_dir="") -> str:
    """The name of the data set of an ImageFolder as it is now: written on first use, and anew when a picture has changed."""
    name, data_dir = name_of_folder(folder), pathlib.Path(default_data_dir(str(data_dir)))
    if not (data_dir / name / VERSION).exists():
        print(f"{folder}: preparing its pictures as data set {name} in {data_dir}", flush=True)
        write(name, imagefolder(pathlib.Path(folder).expanduser()), data_dir)
    return name


def name_of_folder(folder) -> str:
    """folder_HASH of SPLIT/CLASS/PICTURE: names, sizes and times; links are followed."""
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"config.data.dir = {str(folder)!r}: no such folder; expected one with train/CLASS/*.jpg in it")
    files = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(root.glob("*/*/*"))
             if path.suffix.lower() in PICTURES and path.is_file()]
    return f"folder_{hashlib.sha256(repr(files).encode()).hexdigest()[:12]}"
