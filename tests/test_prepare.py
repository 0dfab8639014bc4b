"""python -m karpjax.prepare: rows read back are the rows on disk, and every fault is one line."""
import gzip
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

from command import command, done, refused
import numpy as np
from PIL import Image
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets.formats import prepare
from karpjax.prepare import main

ROOT = pathlib.Path(__file__).parent.parent
SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_shared = pytest.mark.skipif(not (SHARED / "unpack.py").exists(),
                                  reason="KARPJAX_TEST_DATA: no shared data here")
rng = np.random.default_rng(0)


def image_set(n, shape=(6, 5, 3)):
    return rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 3, n).astype(np.uint8)


def read_back(name, data_dir, split="train", **data):
    source = kj.sources.images({"name": name, "data_dir": str(data_dir), "train": split,
                                "batch_size": 4, **data})
    return source.data["train"]["image"], source.data["train"]["label"], source


# ----------------------------------------------------------------------------- files of each format

def write_idx(folder, train, test):
    folder.mkdir(exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape[:3])
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes()))


def write_cifar(folder, images, labels, names="red green blue"):
    """Write 6 rows: 5 files and a test file of one row each."""
    folder.mkdir(exist_ok=True)
    rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)],
                          1)
    for i, file in enumerate([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]):
        rows[i:i + 1].tofile(folder / file)
    (folder / "batches.meta.txt").write_text("\n".join(names.split()) + "\n")


def write_folder(folder, splits=("train", "val"), classes=("ants", "bees"), n=3):
    for split in splits:
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.full((8 + i, 9, 3), 100 * label + 10 * i + 5, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


# -------------------------------------------------------------------------------- what is read back

def test_idx_keeps_every_row_in_its_place(tmp_path):
    train, test = image_set(11, (6, 5)), image_set(4, (6, 5))
    write_idx(tmp_path / "raw", train, test)
    report = prepare("idx", tmp_path / "raw", "letters", str(tmp_path / "tfds"),
                     classes=["a", "b", "c"])
    assert report["examples"] == {"train": 11, "test": 4} and report["shape"] == [6, 5, 1]
    images, labels, source = read_back("letters", tmp_path / "tfds")
    assert (images[..., 0] == train[0]).all() and (labels == train[1]).all() and source.classes == 3
    images, labels, _ = read_back("letters", tmp_path / "tfds", "train[3:7]")
    assert (images[..., 0] == train[0][3:7]).all() and (labels == train[1][3:7]).all()


def test_cifar_and_a_name_that_tfds_knows(tmp_path):
    images, labels = image_set(6, (32, 32, 3))
    write_cifar(tmp_path / "raw", images, labels)
    prepare("cifar", tmp_path / "raw", "cifar10", str(tmp_path / "tfds"))
    read, read_labels, source = read_back("cifar10", tmp_path / "tfds", "train+test")
    assert (read == images).all() and (read_labels == labels).all() and source.classes == 3


def test_npz(tmp_path):
    (images, labels), (more, more_labels) = image_set(7), image_set(2)
    labels[:3] = range(3)
    np.savez_compressed(tmp_path / "set.npz", x_train=images, y_train=labels[:, None], x_test=more,
                        y_test=more_labels)
    prepare("npz", tmp_path / "set.npz", "noise", str(tmp_path / "tfds"))
    read, read_labels, _ = read_back("noise", tmp_path / "tfds")
    assert (read == images).all() and (read_labels == labels).all()
    assert (read_back("noise", tmp_path / "tfds", "test")[0] == more).all()


def test_imagefolder(tmp_path):
    """Pictures of several sizes are read, one grey and one with a palette.

    A file that is no picture is left out.
    """
    write_folder(tmp_path / "raw", classes=("ants", "bees"))
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "raw/train/bees/grey.png")
    Image.fromarray(np.full((8, 8, 3), 33, np.uint8)).quantize(2).save(
        tmp_path / "raw/train/ants/palette.gif")
    (tmp_path / "raw/train/ants/.DS_Store").write_text("x")
    report = prepare("imagefolder", tmp_path / "raw", "insects", str(tmp_path / "tfds"))
    assert report["examples"] == {"train": 8, "val": 6} and report["classes"] == 2
    images, labels, _ = read_back("insects", tmp_path / "tfds", resize=(8, 8))
    assert images.shape == (8, 8, 8, 3) and (images == images[:, :1, :1, :1]).all()
    pairs = zip(labels.tolist(), images[:, 0, 0, 0].tolist(), strict=True)
    assert sorted(pairs) == [(0, 5), (0, 15), (0, 25), (0, 33),
                             (1, 77), (1, 105), (1, 115), (1, 125)]
    assert labels.tolist() != sorted(labels.tolist())  # not class by class


def test_resize_cuts_the_middle_out(tmp_path):
    """A picture of two halves, 8 high and 16 wide, becomes 4 x 4: the middle square, half of each.
    """
    images = np.zeros((1, 8, 16, 1), np.uint8)
    images[:, :, 8:] = 200
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.zeros(1, np.int64))
    prepare("npz", tmp_path / "set.npz", "halves", str(tmp_path))
    resized = read_back("halves", tmp_path, resize=(4, 4), channels=3)[0]
    assert resized.shape == (1, 4, 4, 3) and (resized[0, :, 0] == 0).all()
    assert (resized[0, :, 3] == 200).all()


@pytest.mark.parametrize("resize", [4, (4,)])
def test_resize_is_two_numbers(resize, tmp_path):
    with pytest.raises(UserError, match=r"config.data.resize: expected \(H, W\)"):
        kj.sources.images(dict(name="digits", data_dir=str(tmp_path), train="train", batch_size=4,
                               resize=resize))


# ---------------------------------------------------------------------------------------- bad input


def empty_class(raw):
    write_folder(raw)
    (raw / "train" / "wasps").mkdir()
    (raw / "val" / "wasps").mkdir()


def other_classes(raw):
    write_folder(raw, splits=("train",))
    write_folder(raw, splits=("val",), classes=("ants", "wasps"))


def truncated_picture(raw):
    write_folder(raw)
    file = raw / "val" / "bees" / "1.png"
    file.write_bytes(file.read_bytes()[:40])


def no_picture(raw):
    write_folder(raw)
    (raw / "train" / "ants" / "2.png").write_text("not a picture")


def no_train(raw):
    write_folder(raw, splits=("val",))


def idx_with(change):
    def write(raw):
        write_idx(raw, image_set(5, (6, 5)), image_set(2, (6, 5)))
        change(raw)
    return write


def images_as_labels(raw):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    shutil.copy(raw / "train-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte")


def cut(name, size):
    return lambda raw: (raw / name).write_bytes((raw / name).read_bytes()[:size])


def cifar_with(change=lambda raw: None, labels=(0, 1, 2, 0, 1, 2), **options):
    def write(raw):
        write_cifar(raw, image_set(6, (32, 32, 3))[0], np.array(labels, np.uint8), **options)
        change(raw)
    return write


def npz_of(**arrays):
    return lambda file: np.savez(open(file, "wb"),
                                 **{"x_train": image_set(4)[0], "y_train": np.arange(4), **arrays})


BAD = {
    "a class without pictures": ("imagefolder", empty_class, r"no picture .* of class wasps"),
    "other classes in val": ("imagefolder", other_classes,
                             r"only in train: bees; only in val: wasps"),
    "a truncated picture": ("imagefolder", truncated_picture,
                            r"1\.png: this picture cannot be read"),
    "text named png": ("imagefolder", no_picture, r"2\.png: this picture cannot be read"),
    "no train folder": ("imagefolder", no_train, r"expected .*train/CLASS"),
    "wrong magic number": ("idx", idx_with(images_as_labels), r"magic number 2049, found 2051"),
    "idx cut short": ("idx", idx_with(cut("train-images-idx3-ubyte", 100)),
                      r"expected 150 bytes .* found 84"),
    "gzip cut short": ("idx", idx_with(cut("train-labels-idx1-ubyte.gz", 20)),
                       r"cannot be unpacked"),
    "fewer labels than images": ("idx",
                                 idx_with(lambda raw: (raw / "t10k-images-idx3-ubyte").write_bytes(
        struct.pack(">4B3I", 0, 0, 8, 3, 1, 6, 5) + bytes(30))), r"found 2 labels and 1 images"),
    "idx images of two shapes": ("idx", idx_with(lambda raw: write_idx(
        raw, image_set(5, (6, 5)), image_set(2, (4, 4)))), r"expected images of one shape, found"),
    "no such idx file": ("idx", idx_with(lambda raw: (raw / "t10k-images-idx3-ubyte").unlink()),
                         r"expected a file t10k"),
    "cifar cut short": ("cifar", cifar_with(cut("data_batch_3.bin", 3000)),
                        r"data_batch_3\.bin: expected rows of 3073 bytes"),
    "a cifar label too high": ("cifar", cifar_with(labels=(0, 1, 7, 0, 1, 2)),
                               r"expected labels of 0 to 2, found 0 to 7"),
    "images of floats": ("npz", npz_of(x_train=np.zeros((4, 6, 5, 3), np.float32)),
                         r"expected bytes \(uint8\)"),
    "a negative label": ("npz", npz_of(y_train=np.array([0, 1, -1, 0])),
                         r"expected labels of 0 and more, found -1"),
    "labels of floats": ("npz", npz_of(y_train=np.zeros(4)), r"expected integers"),
    "no labels for a split": ("npz", npz_of(x_test=image_set(4)[0]), r"missing: y_test"),
    "no archive": ("npz", lambda file: file.write_text("x"), r"not a whole .npz file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path):
    """Every fault gives one line and leaves nothing behind."""
    format, write, message = BAD[case]
    write(tmp_path / "raw")
    with pytest.raises(UserError, match=message) as error:
        prepare(format, tmp_path / "raw", "mine", str(tmp_path / "tfds"))
    assert "\n" not in str(error.value) and not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("format, write", [
    ("idx", idx_with(lambda raw: None)), ("cifar", cifar_with()), ("npz", npz_of())])
def test_labels_beyond_the_names(format, write, tmp_path):
    write(tmp_path / "raw")
    with pytest.raises(UserError, match="expected labels of 0 to 0, found 0 to"):
        prepare(format, tmp_path / "raw", "mine", str(tmp_path / "tfds"), classes=["only"])
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("options, message", [
    (dict(format="imagefolders"), "did you mean 'imagefolder'"),
    (dict(name="My Set"), "lower-case"),
    (dict(source="nowhere"), "found nothing"), (dict(format="npz"), "expected a file"),
    (dict(classes=["a"]), "leave it out")])
def test_bad_options(options, message, tmp_path):
    write_folder(tmp_path / "raw")
    right = {"format": "imagefolder", "source": tmp_path / "raw", "name": "mine",
             "data_dir": str(tmp_path / "tfds")}
    with pytest.raises(UserError, match=message):
        prepare(**{**right, **options})


def test_a_format_of_the_command_that_there_is_none(tmp_path):
    """Its name is the fault, and not the flags of the format that was meant."""
    flags = ["--format=tetx", "--length=3", f"--from={tmp_path}", "--name=mine"]
    with pytest.raises(UserError, match="--format=tetx; did you mean 'text'"):
        main(flags)
    with pytest.raises(UserError, match="--length means nothing for --format=idx"):
        main(["--format=idx", *flags[1:]])


def test_the_command(tmp_path):
    """The command prints what it wrote, refuses to write it twice, and replaces it on request."""
    np.savez(tmp_path / "set.npz", x_train=image_set(4)[0], y_train=np.arange(4))
    flags = ["--format=npz", f"--from={tmp_path}/set.npz", "--name=mine",
             f"--data_dir={tmp_path}/tfds"]
    assert json.loads(done(command("prepare", *flags)).splitlines()[-1])["examples"] == {"train": 4}
    refused(command("prepare", *flags), "already in", "--overwrite")
    np.savez(tmp_path / "set.npz", x_train=image_set(9)[0], y_train=np.zeros(9, np.int32))
    done(command("prepare", *flags, "--overwrite"))
    assert len(read_back("mine", tmp_path / "tfds")[1]) == 9
    assert [path.name for path in (tmp_path / "tfds").iterdir()] == ["mine"]


# ---------------------------------------------------------------------------------------- real data

@needs_shared
def test_real_cifar10(tmp_path):
    """The first rows are those of the binary file. A training run reads the set by its name."""
    subprocess.run([sys.executable, SHARED / "unpack.py", "cifar10", "--to", tmp_path], check=True,
                   capture_output=True)
    for file in (tmp_path / "cifar10").glob("*_batch*.bin"):
        file.write_bytes(file.read_bytes()[:100 * 3073])
    prepare("cifar", tmp_path / "cifar10", "cifar10", str(tmp_path / "tfds"))
    rows = np.fromfile(tmp_path / "cifar10" / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
    images, labels, source = read_back("cifar10", tmp_path / "tfds")
    assert len(labels) == 500 and source.classes == 10 and (labels[:100] == rows[:, 0]).all()
    assert (images[:100].transpose(0, 3, 1, 2).reshape(100, -1) == rows[:, 1:]).all()


@needs_shared
def test_real_imagefolder(tmp_path):
    report = prepare("imagefolder", SHARED / "hymenoptera", "hymenoptera", str(tmp_path))
    assert report["examples"] == {split: len([*(SHARED / "hymenoptera" / split).glob("*/*.jpg")])
                                  for split in ("train", "val")}
    source = kj.sources.images({"name": "hymenoptera", "data_dir": str(tmp_path), "train": "train",
                                "batch_size": 4,
                                "resize": (64, 64), "on_device": "no"})
    rows = source.first(4)
    assert rows["image"].shape == (4, 64, 64, 3) and rows["image"].std() > 10
