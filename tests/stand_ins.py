"""Noise in the shape of downloaded data sets, and of pictures and weights that a user brings.

So every config can run where these are missing.
"""
import json
import pathlib
import tempfile

from data.goldens.make_vision import weights as drawn_weights
import jax
import numpy as np
from PIL import Image

from karpjax.core import files
from karpjax import models, weights
from karpjax.datasets import coco, masks, pairs
from karpjax.datasets import text as corpora
from karpjax.datasets.images import ImageRows, ImageSet
from karpjax.datasets.write import write_dataset
from karpjax.run.published import published
from karpjax.sources.text import EMBEDDED

SHAPES = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}


def noise(rng, n: int, shape: tuple) -> ImageRows:
    """Return n images of noise with labels 0 to 9."""
    return ImageRows(rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n))


def prepare_stand_ins(data_dir) -> None:
    """Write every stand-in into data_dir."""
    for name, shape in SHAPES.items():
        rng = np.random.default_rng(0)
        splits = {"train": noise(rng, 512, shape), "test": noise(rng, 100, shape)}
        write_dataset(name, ImageSet([str(i) for i in range(10)], shape, splits), data_dir)
    with tempfile.TemporaryDirectory() as folder:
        paragraphs = [each for each in EMBEDDED.read_text().split("\n\n") if each.strip()]
        for split, part in (("train", paragraphs[:400]), ("unsup", paragraphs[400:600]),
                            ("test", paragraphs[600:700])):
            rows = [json.dumps({"text": text, "label": -1 if split == "unsup" else i % 2})
                    for i, text in enumerate(part)]
            pathlib.Path(folder, f"{split}.jsonl").write_text("\n".join(rows))
        for name, pack in (("imdb_packed", True), ("imdb", False)):
            texts = corpora.import_texts(pathlib.Path(folder), length=32, vocabulary=300, pack=pack)
            write_dataset(name, texts, data_dir)
    sentence_pairs(data_dir)
    boxes_and_masks(data_dir)
    pictures(pathlib.Path(data_dir) / "pictures")
    recorded_games(pathlib.Path(data_dir) / "games.npz")
    pretrained(pathlib.Path(data_dir))


def sentence_pairs(data_dir) -> None:
    """Write pairs of 1 to 3 short words of the embedded novel, and the same in reverse."""
    rng = np.random.default_rng(0)
    words = [word for word in EMBEDDED.read_text().split() if word.isascii() and len(word) < 8]
    with tempfile.TemporaryDirectory() as folder:
        for split, n in (("train", 256), ("val", 45), ("test_2016_flickr", 45)):
            starts, lengths = rng.integers(len(words) - 3, size=n), rng.integers(1, 4, size=n)
            texts = [words[start:start + length]
                     for start, length in zip(starts, lengths, strict=True)]
            for suffix, step in (("en", 1), ("de", -1)):
                lines = [" ".join(text[::step]) for text in texts]
                pathlib.Path(folder, f"{split}.{suffix}").write_text("\n".join(lines) + "\n")
        both = pairs.import_pairs(pathlib.Path(folder), length=32, vocabulary=300, pack=True,
                                  languages=["en", "de"])
        write_dataset("multi30k_en_de", both, data_dir)


def boxes_and_masks(data_dir) -> None:
    """Write pictures of noise with a box in each, and with a class at each pixel."""
    rng, (H, W) = np.random.default_rng(0), (24, 32)
    for name, splits in (("bccd", ("train", "val", "test")), ("coco", ("train", "val"))):
        with tempfile.TemporaryDirectory() as folder:
            for split in splits:
                noise_files(rng, pathlib.Path(folder, split), 8, (H, W, 3))
                images = [{"id": i, "file_name": f"{i}.png"} for i in range(8)]
                objects = [{"image_id": i, "category_id": 1 + i % 3, "bbox": [i, 2, 12, 16]}
                           for i in range(8)]
                categories = [{"id": 1 + i, "name": each} for i, each in enumerate("abc")]
                pathlib.Path(folder, f"instances_{split}.json").write_text(json.dumps(
                    {"images": images, "annotations": objects, "categories": categories}))
            write_dataset(name, coco.import_coco(pathlib.Path(folder)), data_dir)
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val", "test"):
            noise_files(rng, pathlib.Path(folder, split), 8, (H, W, 3))
            noise_files(rng, pathlib.Path(folder, f"{split}_masks"), 8, (H, W), 11)
        streets = masks.import_masks(pathlib.Path(folder), [str(i) for i in range(11)])
        write_dataset("camvid", streets, data_dir)


def noise_files(rng, folder: pathlib.Path, n: int, shape: tuple, values: int = 256) -> None:
    """Write n pictures of noise, 0.png, 1.png, ..."""
    folder.mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, values, shape, np.uint8)).save(folder / f"{i}.png")


def pictures(folder: pathlib.Path) -> None:
    """Write an ImageFolder of noise, two classes that differ in brightness."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 8)):
        for label, name in enumerate(("ants", "bees")):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(60 * label, 196 + 60 * label, (14 + i % 5, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def recorded_games(file: pathlib.Path) -> None:
    """Write noise in the columns of recorded games of connect four (karpjax/games/record.py)."""
    rng, n = np.random.default_rng(0), 256
    np.savez(file, obs=rng.integers(0, 2, (n, 6, 7, 2), np.uint8), legal=np.ones((n, 7), bool),
             game=np.arange(n) // 8, action=rng.integers(0, 7, n, np.int32),
             result=rng.integers(-1, 2, n).astype(np.float32))


def pretrained(folder: pathlib.Path) -> None:
    """Write resnet8.npz, a file of another project, and vit, a checkpoint made of such a file."""
    vit = dict(name="vit", patch=4, layers=2, width=16, heads=2)
    for name, options, names in (("resnet8", dict(name="resnet_cifar", depth=8), ""),
                                 ("vit", vit, "timm")):
        model = models.make_model(options, classes=10)
        like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
        zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
        arrays = weights.to_pytorch(model, zeros, names)
        shapes = {name: array.shape for name, array in arrays.items()}
        files.write_arrays(folder / f"{name}.npz", drawn_weights(shapes))
    published(folder / "vit.npz", "vit_timm", folder / "vit", heads=2)
