"""Pictures of every kind: prepared, trained on and predicted they are the same bytes."""
import contextlib
import io
import shutil
import struct
import sys
import types
import zlib

from guarantees.harness import mesh_of
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds
from test_prepare import read_back

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets import folders, pictures
from karpjax.datasets.formats import prepare
from karpjax.sources.images import check_features, fit_image

COLOURS = np.array([[[250, 10, 90], [3, 200, 77]], [[40, 40, 40], [255, 0, 1]]], np.uint8)
GREYS = np.array([[0, 128], [200, 255]], np.uint8)


def png16(values: np.ndarray, colour: int) -> bytes:
    """Return a PNG of 16 bits a channel: colour 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    H, W = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png(image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def opaque(channels: int, values: np.ndarray) -> np.ndarray:
    """Return values of 16 bits (H, W, C) whose upper bytes are `values`, with half an alpha."""
    upper = values.reshape(2, 2, -1).astype(np.uint16)
    values = upper * 256 + 99
    alpha = np.full((2, 2, 1), 30000, np.uint16)
    return np.concatenate([values, alpha], -1) if channels > values.shape[-1] else values


GREY_RGB = np.repeat(GREYS[..., None], 3, -1)
# A picture's file, and the RGB that every one reads.
KINDS = {
    "8-bit RGB": (png(Image.fromarray(COLOURS)), COLOURS),
    "16-bit grey": (png16(opaque(1, GREYS), 0), GREY_RGB),
    "16-bit RGB": (png16(opaque(3, COLOURS), 2), COLOURS),
    "16-bit grey and alpha": (png16(opaque(2, GREYS), 4), GREY_RGB),
    "16-bit RGBA": (png16(opaque(4, COLOURS), 6), COLOURS),
    "RGB with a transparent colour": (
        png(Image.fromarray(COLOURS), transparency=(250, 10, 90)), COLOURS),
    "palette with a transparent colour": (
        png(Image.fromarray(COLOURS).quantize(4), transparency=bytes([0, 128, 255])), COLOURS),
    "grey with a transparent value": (png(Image.fromarray(GREYS), transparency=128), GREY_RGB),
    "RGBA": (png(Image.fromarray(np.dstack([COLOURS, GREYS]))), COLOURS),
    "grey and alpha": (png(Image.fromarray(np.dstack([GREYS, GREYS]))), GREY_RGB),
    "1-bit": (png(Image.fromarray(GREYS > 100)), np.uint8(GREY_RGB > 100) * 255),
    "turned by EXIF": (png(Image.fromarray(COLOURS), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"
                           b"\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"), COLOURS),
}


@pytest.fixture(params=["Pillow alone", "OpenCV there"])
def opencv(request, monkeypatch):
    """Let TFDS find an OpenCV, which must not decode: it keeps lower bytes and transparency."""
    if request.param == "OpenCV there":
        from tensorflow_datasets.core.features import image_feature

        def imdecode(data, how):
            raise AssertionError("OpenCV decodes this picture")
        fake = types.SimpleNamespace(imdecode=imdecode, IMREAD_UNCHANGED=-1)
        monkeypatch.setattr(image_feature, "cv2", fake)
        monkeypatch.setitem(sys.modules, "cv2", fake)


def folder_of(folder, files: dict) -> None:
    """Write {"train/ants/0.png": bytes}."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.usefixtures("opencv")
def test_every_kind_is_the_same_bytes_at_both_ends(tmp_path):
    """Rows of the set, and files that `predict` encodes, are the RGB that the kind holds."""
    files = {f"train/{name}/{i}.png": data for name in "ab"
             for i, (data, _) in enumerate(KINDS.values())}
    folder_of(tmp_path / "raw", files)
    prepare("imagefolder", tmp_path / "raw", "kinds", str(tmp_path / "tfds"))
    images, _, source = read_back("kinds", tmp_path / "tfds", on_device="yes")
    order = np.random.default_rng(0).permutation(len(files))
    expected = [list(KINDS.values())[int(list(sorted(files))[i].split("/")[2][:-4])][1]
                for i in order]
    np.testing.assert_array_equal(images, expected)
    names = [str(tmp_path / "raw" / sorted(files)[i]) for i in order]
    np.testing.assert_array_equal(source.encode(names), images)
    np.testing.assert_array_equal(source.encode([Image.open(name) for name in names]), images)


@pytest.mark.parametrize("kind", KINDS)
def test_one_channel_is_grey_of_the_same_colours(kind):
    """One decoder weighs the colours alike, however they are stored."""
    data, rgb = KINDS[kind]
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(pictures.decode(data, 1)[..., 0], expected)


def test_cmyk(tmp_path):
    """CMYK JPEGs are RGB at both ends."""
    flat = np.broadcast_to(np.uint8([20, 200, 120]), (8, 8, 3))
    for name in ("a", "b"):
        (tmp_path / "raw" / "train" / name).mkdir(parents=True)
        Image.fromarray(flat).convert("CMYK").save(tmp_path / "raw" / "train" / name / "0.jpg")
    prepare("imagefolder", tmp_path / "raw", "inks", str(tmp_path / "tfds"))
    images, _, source = read_back("inks", tmp_path / "tfds", on_device="yes")
    np.testing.assert_allclose(images[0, 0, 0], [20, 200, 120], atol=3)
    file = tmp_path / "raw" / "train" / "a" / "0.jpg"
    np.testing.assert_array_equal(source.encode([file])[0], images[0])


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_32_bits_are_refused(mode):
    """Their scale is unknown: no guess."""
    picture = Image.fromarray(GREYS).convert(mode)
    with pytest.raises(UserError, match=rf"numbers of 32 bits, mode {mode}; expected 8 or 16"):
        pictures.pixels_of(picture, 1)


def test_grey_folders_stay_grey(tmp_path):
    """A folder of grey pictures, of every kind, has one channel, in the set and in `predict`."""
    grey = {name: data for name, (data, rgb) in KINDS.items() if (rgb == rgb[..., :1]).all()}
    assert len(grey) == 5
    grey["palette of greys"] = png(Image.fromarray(GREYS).convert("P"))
    files = {f"raw/train/{label}/{i}.png": data for label in "ab"
             for i, data in enumerate(grey.values())}
    folder_of(tmp_path, files)
    data = {"dir": str(tmp_path / "raw"), "data_dir": str(tmp_path / "tfds"), "train": "train",
            "batch_size": 4, "on_device": "yes"}
    source = kj.sources.images(data)
    assert source.spec["shape"] == [2, 2, 1] and source.spec["set"].endswith("_grey")
    assert prepare("imagefolder", tmp_path / "raw", "greys", str(tmp_path / "tfds"))["shape"] == \
        [None, None, 1]
    names = [tmp_path / name for name in sorted(files)]
    order = np.random.default_rng(0).permutation(len(names))
    expected = source.encode([names[i] for i in order])
    np.testing.assert_array_equal(source.data["train"]["image"], expected)
    np.testing.assert_array_equal(source.encode([tmp_path / "raw/train/a/0.png"])[0, ..., 0],
                                  GREYS)
    wide = kj.sources.images({**data, "channels": 3})
    np.testing.assert_array_equal(wide.data["train"]["image"], np.repeat(expected, 3, -1))
    # A run of an older karpjax has learned from three channels, and goes on with them.
    old = {**source.spec, "shape": [2, 2, 3], "set": source.spec["set"].removesuffix("_grey")}
    again = kj.sources.images({**data, "described": old})
    np.testing.assert_array_equal(again.data["train"]["image"], np.repeat(expected, 3, -1))
    folder_of(tmp_path, {"raw/train/a/z.png": KINDS["8-bit RGB"][0]})
    assert kj.sources.images(data).spec["shape"] == [2, 2, 3]


@pytest.mark.full
def test_a_run_on_grey_pictures_that_were_rgb_goes_on(tmp_path):
    """Its set of three channels, which today's karpjax would not make, is made again."""
    folder_of(tmp_path, {f"raw/train/{label}/{i}.png": KINDS["16-bit grey"][0]
                         for label in "ab" for i in range(4)})
    data = dict(dir=str(tmp_path / "raw"), data_dir=str(tmp_path / "tfds"), train="train",
                batch_size=4)
    old = {"classes": 2, "shape": [2, 2, 3], "set": folders.name_of_folder(data["dir"])}
    rgb = tmp_path / "tfds" / kj.sources.images({**data, "described": old}).spec["set"]
    assert not rgb.name.endswith("_grey")

    def train(steps):
        config = kj.config(task="classify", steps=steps, best="", data=data,
                           model=dict(name="cnn", width=4), save_every=2)
        return kj.fit(config, tmp_path / "run", mesh=mesh_of(1))
    train(2)
    shutil.rmtree(rgb)
    assert train(4)["resumed"] and rgb.exists()
    assert kj.restore(tmp_path / "run").task.source.spec["shape"] == [2, 2, 3]


@pytest.mark.parametrize("dtype, says", [(np.uint16, "found uint16; prepare"),
                                         (np.float32, "found float32; prepare"), (np.uint8, "")])
def test_stored_pictures_of_other_numbers(dtype, says):
    """TFDS would decode them by itself, to another scale than files that `predict` is given."""
    features = {"label": tfds.features.ClassLabel(num_classes=2), "image": tfds.features.Image(
        shape=(2, 2, 1), dtype=dtype, encoding_format="png")}
    with pytest.raises(UserError, match=f"^data set 'scans': expected pictures of 8 bits, {says}") \
            if says else contextlib.nullcontext():
        check_features(features, "scans")


def test_numbers_that_are_no_pixels():
    """Of stored floats no file is an input: its scale is another."""
    spec = {"classes": 2, "shape": [2, 2, 1], "names": ["a", "b"], "content": "x"}
    data = {"name": "gone", "train": "train", "batch_size": 2}
    source = kj.sources.images({**data, "described": {**spec, "dtype": "float32"}})
    assert source.stored["image"] == np.float32 and source.encode is None
    assert kj.sources.images({**data, "described": spec}).encode
    with pytest.raises(UserError, match="expected pictures of uint8, found float32; leave them "):
        fit_image(np.zeros((4, 4, 1), np.float32), (2, 2), 0)
    assert fit_image(np.zeros((4, 4, 1), np.float32), (), 3).shape == (4, 4, 3)


def test_colours_made_grey(tmp_path):
    """`channels=1` gives the pixels that `predict` reads from the same files."""
    files = {f"raw/train/{label}/0.png": KINDS["8-bit RGB"][0] for label in "ab"}
    folder_of(tmp_path, files)
    source = kj.sources.images({"dir": str(tmp_path / "raw"), "data_dir": str(tmp_path / "tfds"),
                                "train": "train", "batch_size": 1, "channels": 1,
                                "on_device": "yes"})
    expected = np.asarray(Image.fromarray(COLOURS).convert("L"))
    np.testing.assert_array_equal(source.data["train"]["image"][0, ..., 0], expected)
    np.testing.assert_array_equal(source.encode([tmp_path / "raw/train/a/0.png"])[0, ..., 0],
                                  expected)


TWO = dict(save_all=True, append_images=[Image.new("RGB", (2, 2), "red")])
TURNED = Image.Exif()
TURNED[pictures.ROTATION] = 6


@pytest.mark.parametrize("mode, format, options, odd", [
    ("RGB", "png", {}, []), ("L", "jpeg", {}, []), ("P", "png", {}, []),
    ("RGBA", "png", {}, ["with transparency (dropped)"]),
    ("RGB", "png", dict(transparency=(0, 0, 0)), ["with transparency (dropped)"]),
    ("P", "png", dict(transparency=bytes([0, 128])), ["with transparency (dropped)"]),
    ("CMYK", "jpeg", {}, ["in CMYK (converted to RGB)"]),
    ("RGB", "jpeg", dict(exif=TURNED), ["with a rotation in EXIF (not applied)"]),
    ("RGB", "gif", TWO, ["of several frames (the first is taken)"])])
def test_what_is_dropped_of_a_picture_is_named(mode, format, options, odd, monkeypatch):
    """Also by a Pillow before 10.1, which lacks has_transparency_data."""
    monkeypatch.delattr(Image.Image, "has_transparency_data", raising=False)
    file = io.BytesIO()
    Image.fromarray(COLOURS).convert(mode).save(file, format, **options)
    opened = Image.open(file)
    opened.load()
    assert pictures.oddities(opened) == odd
