"""Noise in the shape of the data sets that are downloaded, so that every config can be run where they are not."""
import json
import pathlib
import tempfile

from karpjax import corpora
from karpjax.importers import Found, Rows
from karpjax.prepare import write
from karpjax.sources.text import EMBEDDED
import numpy as np

SHAPES = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}


def prepare_stand_ins(data_dir) -> None:
    for name, shape in SHAPES.items():
        rng = np.random.default_rng(0)
        noise = lambda n: Rows(rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n))
        write(name, Found([str(i) for i in range(10)], shape, {"train": noise(512), "test": noise(100)}), data_dir)
    with tempfile.TemporaryDirectory() as folder:
        paragraphs = [each for each in EMBEDDED.read_text().split("\n\n") if each.strip()]
        for split, part in (("train", paragraphs[:400]), ("unsup", paragraphs[400:600]), ("test", paragraphs[600:700])):
            rows = [json.dumps({"text": text, "label": -1 if split == "unsup" else i % 2}) for i, text in enumerate(part)]
            pathlib.Path(folder, f"{split}.jsonl").write_text("\n".join(rows))
        for name, pack in (("imdb_packed", True), ("imdb", False)):
            write(name, corpora.text(pathlib.Path(folder), length=32, vocabulary=300, pack=pack), data_dir)
