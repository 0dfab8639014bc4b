"""Pairs of rows of tokens, for models that read one text and write another, as translators do.

    config.data = dict(name="multi30k", train="train", validation="val", test="test_2016_flickr",
                       batch_size=128)

The set was prepared with python -m karpjax.prepare --format=pairs (karpjax/datasets/pairs.py).
"""
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.pairs import SIDES, end_rows
from karpjax.datasets.tokenizer import Vocabulary
from karpjax.sources.source import Source
from karpjax.sources.text import prepared_text


def pairs(data) -> Source:
    """Return a source of {"source": (B, T), "target": (B, T)} int32, which has a `vocabulary`.

    Rows are text [SEP] padding, those of packed sets text [SEP] text [SEP] padding. Each has its
    segments beside it, source_segments and target_segments (B, T): the number of a token's pair in
    its row, from 1, and 0 for padding. data is config.data: name, data_dir, train, validation,
    test, batch_size, on_device, as of texts (text.py).
    """
    source = prepared_text(data, format="pairs", preprocess_for=with_segments)
    length = source.spec["length"]
    source.encode = lambda texts: {"source": encode_sources(texts, length, source.vocabulary)}
    check_apart(source)
    return source


def check_apart(source: Source) -> None:
    """Raise a UserError if pairs share a row of an evaluated split, as in train with --pack.

    A translation is compared with one reference.
    """
    for split in source.splits:
        for batch in source.eval_batches(split):
            if ((batch["target"] == source.vocabulary.sep).sum(axis=-1) > 1).any():
                raise UserError(f"config.data.{split}: expected a pair a row, found rows that "
                                "pairs share, as train has with --pack; take another split, or "
                                "prepare the set without --pack")


def with_segments(vocabulary: Vocabulary) -> Callable:
    """Return batch -> batch, which adds the segments of the sides that are there."""
    def preprocess(batch: dict) -> dict:
        sides = {side: jnp.asarray(batch[side], jnp.int32) for side in SIDES if side in batch}
        segments = {f"{side}_segments": segments_of(rows, vocabulary)
                    for side, rows in sides.items()}
        return {**batch, **sides, **segments}
    return preprocess


def segments_of(rows: Int[Array, "B T"], vocabulary: Vocabulary) -> Int[Array, "B T"]:
    """Return the number of each token's pair in its row, from 1, and 0 for padding."""
    ends = (rows == vocabulary.sep).astype(jnp.int32)
    # An end belongs to the text before it.
    return jnp.where(rows != vocabulary.pad, 1 + jnp.cumsum(ends, axis=-1) - ends, 0)


def encode_sources(texts: list[str], length: int, vocabulary: Vocabulary) -> np.ndarray:
    """Return (B, length) int32 of a user's texts, none of which is cut."""
    rows = vocabulary.ids([text.strip() for text in texts], masks=False)
    for i, ids in enumerate(rows):
        if not 0 < len(ids) < length:
            raise UserError(f"text {i} has {len(ids)} tokens, expected 1 to {length - 1}; give a "
                            "sentence at a time")
    return end_rows(rows, length, vocabulary).astype(np.int32)
