"""Rows of tokens whose targets are the next tokens: for causal language models.

    config.data = dict(corpus="shakespeare", length=128, batch_size=32)
    config.data = dict(name="imdb_packed", train="train[:99%]", validation="train[99%:]",
                       batch_size=64)
    config.data = dict(name="news", train="train", test="test", length=1024, batch_size=64)

The first reads characters, of the package's corpus or of a text file, and needs no `prepare`. The
second reads rows that karpjax.prepare made of texts (karpjax/sources/text.py). The third, with a
length, reads windows of the files that it made with --format=tokens.
"""
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.content import content_of, hash_bytes
from karpjax.datasets.corpora import read_corpus, split_corpus, tokens_of
from karpjax.datasets.token_files import open_tokens, part_of
from karpjax.datasets.tokenizer import Vocabulary
from karpjax.sources.source import Source, SpecOnly
from karpjax.sources.text import (
    PREPARED,
    as_integers,
    prepared_text,
    vocabulary_of_spec,
    with_vocabulary,
)
from karpjax.sources.windows import windows

CORPUS = ("corpus", "held_out", "length", "batch_size", "on_device", "described")
TOKENS = (*PREPARED, "length")


def causal(data) -> Source:
    """Return a source of tokens and the tokens that follow them, which also has a `vocabulary`.

    data is config.data, a dict of one of these:

    corpus ("shakespeare" or a text file), length, batch_size, on_device     characters. test is
        the last tenth, validation the part `held_out` (0.05) before it, none with 0
    name, data_dir, train, validation, test, batch_size, on_device           as of texts (text.py)
    the same and length                                                      files of tokens, in
        device memory if train fits there, else mapped to the host's

    Batches have tokens and target (B, T), weight_of_token (B, T), False where the target does not
    count, and bytes (B,), of UTF-8 in the targets that count. Where rows hold several documents or
    padding they have segments (B, T), as of texts.
    """
    if "corpus" in data:
        check_keys(data, CORPUS, "config.data", required=("corpus", "length", "batch_size"))
        return of_windows(corpus, data)
    if "length" in data:
        check_keys(data, TOKENS, "config.data", required=("name", "train", "length", "batch_size"))
        return of_windows(token_files, data)
    return prepared_text(data, preprocess_for=with_targets)


def of_windows(read: Callable, data) -> Source:
    """Return the source of windows of what `read` returns, or of its description if it is gone."""
    try:
        splits, spec = read(data)
    except UserError as error:
        spec = data.get("described")
        if not spec:
            raise
        example = {"tokens": np.zeros((1, spec["length"]), np.uint16)}
        preprocess = with_targets(vocabulary_of_spec(spec))
        return with_vocabulary(SpecOnly(example, preprocess, error), spec)
    vocabulary = vocabulary_of_spec(spec)
    return with_vocabulary(windows(splits, data, vocabulary.size, with_targets(vocabulary)), spec)


def corpus(data) -> tuple[dict, dict]:
    """Return ({"train": tokens, ...}, spec) of a corpus of characters."""
    tokens, vocabulary = tokens_of(read_corpus(data.corpus))
    return split_corpus(tokens, data.get("held_out", 0.05)), {
        "length": data.length, "classes": 0, "tokenizer": vocabulary.json,
        "content": hash_bytes(tokens)}


def token_files(data) -> tuple[dict, dict]:
    """Return ({"train": tokens, ...}, spec) of files of tokens."""
    folder, head, rows = open_tokens(data.name, data.get("data_dir", ""))
    splits = {split: part_of(rows, data[split], data.name)
              for split in ("train", "validation", "test") if data.get(split, "")}
    return splits, {"length": data.length, "classes": 0, "content": content_of(folder),
                    **{name: head[name] for name in ("tokenizer", "fingerprint")}}


def with_targets(vocabulary: Vocabulary) -> Callable:
    """Return batch -> batch, which adds what a causal model needs to raw rows of tokens."""
    lengths = vocabulary.byte_lengths                                              # (V,)

    def preprocess(batch: dict) -> dict:
        batch = as_integers(batch)
        batch = between_documents(batch, vocabulary) if "target" in batch else \
            within_rows(batch, vocabulary)
        sizes = jnp.asarray(lengths)[batch["target"]]                              # (B, T)
        if vocabulary.adds_space:  # to the first token of a document: no byte of the text
            sizes = jnp.maximum(sizes - (batch["tokens"] == vocabulary.cls), 0)
        return {**batch, "bytes": jnp.sum(sizes * batch["weight_of_token"], axis=-1)}
    return preprocess


def within_rows(batch: dict, vocabulary: Vocabulary) -> dict:
    """Return rows of documents with their targets: no token predicts another document's first."""
    tokens = batch["tokens"]                                                       # (B, T)
    if "segments" not in batch and vocabulary.pad >= 0:
        batch = {**batch, "segments": vocabulary.segments(tokens)}
    segments = batch.get("segments", jnp.ones_like(tokens))                        # (B, T)
    following = jnp.roll(segments, -1, axis=-1).at[..., -1].set(0)                 # (B, T)
    return {**batch, "target": jnp.roll(tokens, -1, axis=-1),
            "weight_of_token": (segments == following) & (segments > 0)}


def between_documents(batch: dict, vocabulary: Vocabulary) -> dict:
    """Return windows of a long row with the segments of its documents, if it marks them.

    A document begins at its [CLS], or behind another's [SEP] or padding. Its last token predicts
    nothing, except where one token ends a document and begins the next. Padding is never predicted.
    """
    if vocabulary.cls < 0:
        return batch
    tokens, target = batch["tokens"], batch["target"]                              # (B, T)
    weight = batch["weight_of_token"] & (target != vocabulary.pad)                 # (B, T)
    begins = tokens == vocabulary.cls                                              # (B, T)
    if vocabulary.sep != vocabulary.cls:
        ends = (tokens == vocabulary.sep) | (tokens == vocabulary.pad)             # (B, T)
        begins |= jnp.roll(ends, 1, axis=-1).at[..., 0].set(False)
        weight &= ~ends & (target != vocabulary.cls)
    return {**batch, "segments": 1 + jnp.cumsum(begins, axis=-1), "weight_of_token": weight}
