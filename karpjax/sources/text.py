"""Rows of tokens, from sets that karpjax.prepare made of texts, or the bytes of one file.

    config.data = dict(name="imdb_packed", train="train[:99%]", validation="train[99%:]",
                       batch_size=64)
    config.data = dict(path="", length=64, batch_size=32)

The second is for first steps: rows of bytes of a text file. The default is the first volume of Jane
Austen's "Pride and Prejudice" (1813, public domain), 231 kB. The last tenth is the test split, the
tenth before it validation.
"""
from collections.abc import Callable
import pathlib

import jax.numpy as jnp
import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.characters import stored_vocabulary
from karpjax.datasets.content import content_of, hash_bytes
from karpjax.datasets.tfds import metadata_of, open_splits, prepared_builder
from karpjax.datasets.tokenizer import BYTES, Vocabulary
from karpjax.sources.arrays import Arrays
from karpjax.sources.records import source_of
from karpjax.sources.source import Source, SpecOnly

EMBEDDED = pathlib.Path(__file__).parent.parent / "data" / "pride_and_prejudice.txt"
PREPARED = ("name", "data_dir", "train", "validation", "test", "batch_size", "on_device",
            "described")
ENTRIES = {"text": ("tokens",), "pairs": ("source", "target")}  # rows of tokens, by format
BYTES_OF_A_FILE = ("path", "length", "batch_size", "described")


def text(data, augment=None, masks: bool = True) -> Source:
    """Return a source of {"tokens": (B, T) int32}, which also has a `vocabulary`.

    data is config.data, a dict of either:

    name, data_dir, train, validation, test, batch_size, on_device    as for images (images.py), of
        a set that was prepared with python -m karpjax.prepare --format=text. Packed sets add
        "segments" (B, T), the number of each token's document in its row from 1, 0 for padding.
        Sets with labels add "label" (B,), and `classes`
    path ("": the embedded novel), length, batch_size                 bytes

    masks   whether a [MASK] in a text that a user gives is the mask. To a classifier it is text, as
            it was when its texts were prepared
    """
    return prepared_text(data, augment, masks) if "name" in data else bytes_of_a_file(data, augment)


def prepared_text(data, augment=None, masks: bool = True,
                  preprocess_for: Callable = lambda vocabulary: as_integers,
                  format: str = "text") -> Source:
    """Return the source of a prepared set.

    preprocess_for   vocabulary -> `preprocess` of its batches
    format           that it was prepared by, of ENTRIES
    """
    entries = ENTRIES[format]
    check_keys(data, PREPARED, "config.data", required=("name", "train", "batch_size"))
    try:
        builder = prepared_builder(data.name, data.get("data_dir", ""))
    except UserError as error:
        spec = data.get("described")
        if not spec:
            raise
        example = {name: np.zeros((1, spec["length"]), np.uint16) for name in entries}
        preprocess = preprocess_for(vocabulary_of_spec(spec))
        return with_vocabulary(SpecOnly(example, preprocess, error), spec, masks)
    features, metadata = builder.info.features, metadata_of(builder)
    if not features.keys() >= {*entries} or "tokenizer" not in metadata:
        origin = f"tfds:{data.name}" if format == "text" else "DIR"
        raise UserError(f"data set {data.name!r}: expected {' and '.join(entries)} and their "
                        f"tokenizer, found the features {sorted(features)}; prepare its texts with "
                        f"python -m karpjax.prepare --format={format} --from={origin} --name=...")
    length = features[entries[0]].shape[0]
    classes = features["label"].num_classes if "label" in features else 0
    spec = {"length": length, "classes": classes, "tokenizer": metadata["tokenizer"],
            "fingerprint": metadata.get("fingerprint"), "content": content_of(builder.data_dir)}
    if classes:
        spec["names"] = features["label"].names
    vocabulary = vocabulary_of_spec(spec)
    limits = {**dict.fromkeys(entries, vocabulary.size), "segments": 1 + length, "label": classes}
    names = [name for name in limits if name in features]

    def decode(record):
        row = {name: np.asarray(record[name]) for name in names}
        for name, column in row.items():
            if not 0 <= column.min() <= column.max() < limits[name]:
                raise UserError(f"data set {data.name!r}: expected {name} of 0 to "
                                f"{limits[name] - 1}, found {column.min()} to {column.max()}; "
                                "prepare the set again")
        return row

    row_bytes = 2 * length * (len(entries) + ("segments" in features)) + 8
    source = source_of(data, *open_splits(builder, data), decode, row_bytes, classes,
                       preprocess=preprocess_for(vocabulary), augment=augment)
    return with_vocabulary(source, spec, masks)


def bytes_of_a_file(data, augment) -> Source:
    """Return the source of a file's bytes."""
    check_keys(data, BYTES_OF_A_FILE, "config.data", required=("length", "batch_size"))
    path = files.local(data.get("path", "") or EMBEDDED, "config.data.path")
    spec = {"length": data.length, "classes": 0, "tokenizer": ""}
    if not path.is_file():
        error = UserError(f"config.data.path: no text file {str(path)!r}; leave it empty for the "
                          "embedded novel")
        if not data.get("described"):
            raise error
        example = {"tokens": np.zeros((1, data.length), np.uint8)}
        return with_vocabulary(SpecOnly(example, as_integers, error), spec)
    tokens = np.frombuffer(path.read_bytes(), np.uint8)
    spec["content"] = hash_bytes(tokens)
    rows = len(tokens) // data.length
    if rows < 10:
        raise UserError(f"{path}: {len(tokens)} bytes make {rows} rows of {data.length}, expected "
                        "at least 10; use a longer text or a smaller config.data.length")
    tokens = tokens[:rows * data.length].reshape(rows, data.length)
    tenth = rows // 10
    splits = {"validation": {"tokens": tokens[-2 * tenth:-tenth]},
              "test": {"tokens": tokens[-tenth:]}}
    source = Arrays({"tokens": tokens[:-2 * tenth]}, batch_size=data.batch_size,
                    preprocess=as_integers, augment=augment, splits=splits)
    return with_vocabulary(source, spec)


def as_integers(batch: dict) -> dict:
    """Convert a batch stored as uint8 or uint16 to int32."""
    integers = {name: jnp.asarray(batch[name], jnp.int32)
                for name in ("tokens", "target", "segments", "label") if name in batch}
    return {**batch, **integers}


def with_vocabulary(source: Source, spec: dict, masks: bool = True) -> Source:
    """Add the facts about the texts that a checkpoint keeps: row length, classes, tokenizer."""
    tokenizer, length = spec["tokenizer"], spec["length"]
    source.vocabulary = vocabulary_of_spec(spec)
    source.classes = spec["classes"]
    source.encode = lambda texts: source.vocabulary.encode(texts, length, masks)
    source.spec = {**spec, "fingerprint": source.vocabulary.fingerprint}
    source.files = {"tokenizer.json": tokenizer} if tokenizer else {}
    return source


def vocabulary_of_spec(spec: dict) -> Vocabulary:
    """Return the vocabulary of a spec's tokenizer, if it is the one that was stored."""
    vocabulary = stored_vocabulary(spec["tokenizer"]) if spec["tokenizer"] else BYTES
    was = spec.get("fingerprint")  # None: by a karpjax that kept none
    if was and was != vocabulary.fingerprint:
        raise UserError(f"the tokenizer is damaged: its fingerprint is "
                        f"{vocabulary.fingerprint[:12]}, expected {was[:12]}; prepare the set "
                        "again, or take another checkpoint")
    return vocabulary


def unigram_entropy(tokens: np.ndarray) -> float:
    """Return the entropy of the token frequencies, in nats.

    It is the loss of the best predictor that ignores context.
    """
    p = np.bincount(tokens.reshape(-1)) / tokens.size
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])))
