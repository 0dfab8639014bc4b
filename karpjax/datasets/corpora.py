"""Corpora of characters that need no `karpjax prepare`: one of the package, or a text file.

"shakespeare" is tinyshakespeare (Karpathy 2015; public domain): 1,115,394 letters, 65 of them
different. Its test split is nanoGPT's validation part, so that results compare.
"""
import codecs
import lzma
import pathlib

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.datasets.characters import Characters, characters_of

DATA = pathlib.Path(__file__).parent.parent / "data"
CORPORA = {"shakespeare": DATA / "tinyshakespeare.txt.xz"}


def read_corpus(name: str) -> str:
    """Read the text of a corpus: a name of CORPORA, or the path of a text file."""
    if name in CORPORA:
        return lzma.decompress(CORPORA[name].read_bytes()).decode()
    path = files.local(name, "config.data.corpus")
    if not path.is_file():
        raise UserError(f"config.data.corpus = {name!r}: expected {', '.join(CORPORA)} or a text "
                        "file, found no such file")
    try:
        # a byte-order mark, as editors on Windows write it, is no text
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.object[error.start]:#x} at "
                        f"{error.start}); store the file as UTF-8") from error


def tokens_of(text: str) -> tuple[np.ndarray, Characters]:
    """Return the ids (N,) of a text's characters, in the fewest bits, and their vocabulary."""
    vocabulary = characters_of([text], special=False)
    ids = np.asarray(vocabulary.ids([text])[0], np.int32)
    return ids.astype(np.min_scalar_type(vocabulary.size)), vocabulary


def split_corpus(tokens: np.ndarray, held_out: float = 0.05) -> dict[str, np.ndarray]:
    """Return the parts of a corpus, in its order.

    test is the last 10 %, which is nanoGPT's validation part: read once, at the end. validation is
    the part `held_out` of the rest, its end: choices are made there. With 0 all the rest trains.
    """
    if isinstance(held_out, bool) or not 0 <= held_out < 1:
        raise UserError("config.data.held_out: expected the part of the training text that is "
                        f"kept for validation, at least 0 and below 1, found {held_out}")
    test = int(0.9 * len(tokens))
    train = int((1 - held_out) * test)
    splits = {"train": tokens[:train], "validation": tokens[train:test], "test": tokens[test:]}
    return splits if train < test else {name: splits[name] for name in ("train", "test")}
