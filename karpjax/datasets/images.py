"""Images as people have them on disk, imported as data sets.

The formats are IDX (MNIST's), CIFAR's binary files, NumPy archives, and folders of pictures
(imagefolder.py). Each importer reads and checks all of it and returns an `ImageSet`, whose rows
`karpjax.prepare` writes. So a file that cannot be read, or an impossible label, is reported before
anything is written.
"""
from collections.abc import Iterable
import dataclasses
import gzip
import pathlib
import struct
import zlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.files import read_npz
from karpjax.datasets.account import Account
from karpjax.datasets.columns import check_channels, check_labels, row_keys, shared_with_train
from karpjax.datasets.write import class_names

MOST_CLASSES = 100_000  # without names: a label of 10^9 would make as many


@dataclasses.dataclass
class ImageSet:
    """Images and labels, ready to be written.

    classes   names, by label
    shape     of an image: (H, W, C), or (None, None, C) for encoded pictures of many sizes
    splits    {"train": rows}, a row {"image", "label"}, with len(); image an array, or the path or
              the bytes of a picture that TFDS stores as it is
    account   what was chosen and left out
    """
    classes: list[str]
    shape: tuple
    splits: dict[str, Iterable]
    account: Account = dataclasses.field(default_factory=Account)

    def features(self) -> dict:
        """Return TFDS's features of a row."""
        import tensorflow_datasets as tfds
        image = tfds.features.Image(shape=self.shape) if None in self.shape else \
            tfds.features.Tensor(shape=self.shape, dtype=np.uint8)
        return {"image": image, "label": tfds.features.ClassLabel(names=self.classes)}

    def metadata(self) -> dict:
        """Return nothing: the features hold all there is to know."""
        return {}

    def summary(self) -> dict:
        """Return the facts that karpjax.prepare prints."""
        return {"classes": len(self.classes), "shape": list(self.shape)}


@dataclasses.dataclass
class ImageRows:
    """Pairs of images and labels, in their order."""
    images: np.ndarray | list
    labels: np.ndarray | list

    def __len__(self):
        return len(self.labels)

    def __iter__(self):
        pairs = zip(self.images, self.labels, strict=True)
        return ({"image": image, "label": int(label)} for image, label in pairs)


# -------------------------------------------------------------------------------------------- IDX

def import_idx(folder: pathlib.Path, classes: list[str] = ()) -> ImageSet:
    """Import MNIST's four files, packed with gzip or not.

    They are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte.
    """
    splits, read = {}, []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        files = [first_file(folder, f"{prefix}-{name}-ubyte*")
                 for name in ("images?idx3", "labels?idx1")]
        images, labels = (read_idx(file, axes) for file, axes in zip(files, (3, 1), strict=True))
        splits[split] = checked_rows(images[..., None], labels, f"{folder}, {split}",
                                     len(classes) or None)
        read += files
    dataset = of_one_shape(splits, classes, folder)
    leave_out_unread(dataset.account, folder, read)
    return dataset


def read_idx(file: pathlib.Path, axes: int) -> np.ndarray:
    """Read bytes in `axes` axes.

    The file holds a magic number 0, 0, 8, axes, then the axes' lengths, big-endian, then the bytes.
    """
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file}: cannot be unpacked ({error}); fetch it again") from error
    if data[:4] != bytes([0, 0, 8, axes]):
        raise UserError(f"{file}: expected IDX bytes in {axes} axes, magic number {2048 + axes}, "
                        f"found {int.from_bytes(data[:4], 'big')}; is it another file, or another "
                        "format?")
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", data[4:start]) if len(data) >= start else ()
    if len(data) - start != np.prod(shape):
        raise UserError(f"{file}: expected {int(np.prod(shape))} bytes after its head, {shape}, "
                        f"found {max(len(data) - start, 0)}; it is cut short: fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


# ------------------------------------------------------------------------------------------ CIFAR

def import_cifar(folder: pathlib.Path, classes: list[str] = ()) -> ImageSet:
    """Import the binary version of CIFAR-10 or CIFAR-100.

    CIFAR-10 is data_batch_1.bin to data_batch_5.bin and test_batch.bin. CIFAR-100 is train.bin and
    test.bin, from which the fine labels are taken.
    """
    if (folder / "train.bin").exists():
        names, skip = "fine_label_names.txt", 1
        parts = {"train": ["train.bin"], "test": ["test.bin"]}
    else:
        names, skip = "batches.meta.txt", 0
        parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    read = [folder / names]
    if not classes:
        classes = read_names(first_file(folder, names))
    splits = {}
    for split, wanted in parts.items():
        files = [first_file(folder, name) for name in wanted]
        read += files
        rows = np.concatenate([read_cifar(file, skip) for file in files])
        pixels = rows[:, 1 + skip:].reshape(-1, 3, 32, 32)                          # (N, 3, 32, 32)
        images = pixels.transpose(0, 2, 3, 1)                                       # (N, 32, 32, 3)
        splits[split] = checked_rows(images, rows[:, skip], f"{folder}, {split}", len(classes))
    account = account_of(splits)
    leave_out_unread(account, folder, read)
    if skip:
        account.choices.append("the 100 fine labels, not the 20 coarse ones")
    return ImageSet(classes, (32, 32, 3), splits, account)


def read_names(file: pathlib.Path) -> list[str]:
    """Read the names of classes, a line each."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error}); expected a name a line") from error
    return class_names([line.strip() for line in lines if line.strip()], file)


def read_cifar(file: pathlib.Path, skip: int) -> np.ndarray:
    """Read rows (N, skip + 1 + 3072) of bytes: `skip` coarse labels, the label, the pixels."""
    width, size = 1 + skip + 3072, file.stat().st_size
    if size == 0 or size % width:
        raise UserError(f"{file}: expected rows of {width} bytes, found {size / width:.2f} rows; "
                        "fetch it again")
    return np.fromfile(file, np.uint8).reshape(-1, width)


# ------------------------------------------------------------------------------------------ NumPy

def import_npz(file: pathlib.Path, classes: list[str] = ()) -> ImageSet:
    """Import an archive of x_train, y_train and other pairs x_SPLIT, y_SPLIT (Keras' names).

    Images are bytes, (N, H, W) or (N, H, W, C). Only the train pair is required.
    """
    columns = read_npz(file)
    splits = {}
    for split in pairs_of(columns, file):
        images, labels = columns[f"x_{split}"], columns[f"y_{split}"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(f"{file}: x_{split}: expected bytes (uint8) of shape (N, H, W) or "
                            f"(N, H, W, C), found {images.dtype} of {images.shape}; scale to 0 to "
                            "255 and round")
        if not np.issubdtype(labels.dtype, np.integer) or labels.squeeze().ndim > 1:
            raise UserError(f"{file}: y_{split}: expected integers of shape (N,), found "
                            f"{labels.dtype} of {labels.shape}")
        images = images[..., None] if images.ndim == 3 else images
        splits[split] = checked_rows(images, labels.reshape(-1), f"{file}, {split}",
                                     len(classes) or None)
    dataset = of_one_shape(splits, classes, file)
    read = {f"{kind}_{split}" for split in splits for kind in "xy"}
    dataset.account.leave_out("other arrays are left out", *sorted(set(columns) - read))
    return dataset


def pairs_of(columns: dict, file: pathlib.Path) -> list[str]:
    """Return the splits of an archive, train first, or raise if a column is missing."""
    names = [name[2:] for name in columns if name.startswith("x_")]
    names = sorted(names, key=lambda name: name != "train")
    lacking = [f"y_{name}" for name in names if f"y_{name}" not in columns]
    lacking += ["x_train"] * ("train" not in names)
    if lacking:
        raise UserError(f"{file}: expected x_train, y_train and pairs like them, found "
                        f"{', '.join(sorted(columns)) or 'nothing'}; missing: "
                        f"{', '.join(lacking)}")
    return names


# ------------------------------------------------------------------------------------ small parts

def first_names(folder: pathlib.Path) -> str:
    """Return the first ten names in a folder, for an error message."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"


def first_file(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    """Return the first file of a pattern, or raise a UserError that lists the files."""
    files = sorted(folder.glob(pattern))
    if not files:
        expected = pattern.replace("?", "-").replace("*", "[.gz]")
        raise UserError(f"--from={folder}: expected a file {expected}, found "
                        f"{first_names(folder)}")
    return files[0]


def leave_out_unread(account: Account, folder: pathlib.Path, read: list[pathlib.Path]) -> None:
    """Account for the files and folders of a folder that were not read."""
    others = sorted(path.name for path in folder.iterdir() if path not in read)
    account.leave_out("other files are left out", *others)


def checked_rows(images, labels, where: str, classes: int | None = None) -> ImageRows:
    """Return the rows if there are as many labels as images and every label is a class."""
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{where}: expected as many labels as images, found {len(labels)} labels "
                        f"and {len(images)} images")
    check_labels(labels, classes or 0, where)
    return ImageRows(images, labels)


def of_one_shape(splits: dict[str, ImageRows], classes: list[str], where) -> ImageSet:
    """Return the set of these splits, or raise if they have several shapes or too many classes.

    Classes without names are named by their numbers.
    """
    shapes = {split: rows.images.shape[1:] for split, rows in splits.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{where}: expected images of one shape, found {shapes}")
    check_channels(splits["train"].images, str(where))
    highest = int(splits["train"].labels.max())
    for split, rows in splits.items():
        check_labels(rows.labels, len(classes) or 1 + highest, f"{where}, {split}")
    if not classes and highest >= MOST_CLASSES:
        raise UserError(f"{where}: expected labels below {MOST_CLASSES}, found {highest}, which "
                        "would make as many classes; number the classes from 0")
    account = account_of(splits)
    if not classes:
        classes = [str(i) for i in range(1 + highest)]
        account.choices.append(f"{len(classes)} classes, named by their numbers (--classes=a,b,c "
                               "names them)")
    return ImageSet(class_names(classes, where), shapes["train"], splits, account)


def account_of(splits: dict[str, ImageRows]) -> Account:
    """Return an account that counts the images of other splits that stand in train too."""
    shared = shared_with_train({split: row_keys({"image": rows.images})
                                for split, rows in splits.items()})
    return Account([shared] if shared else [])
