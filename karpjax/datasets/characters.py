"""Characters as tokens: ids are the sorted characters of a text, as in nanoGPT.

They need no tokenizer that is trained. A character that the text does not have is an error.
"""
from collections.abc import Iterable
import dataclasses
import functools
import json

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.pieces import read_pieces
from karpjax.datasets.tokenizer import SPECIAL, Vocabulary, check_unicode, vocabulary_of


@dataclasses.dataclass(frozen=True)
class Characters(Vocabulary):
    """A vocabulary of characters, whose json is {"characters": "\\n !...", "special": bool}.

    characters   in the order of their ids, from 0. Special tokens, if any, come after them
    """
    unit = "characters"
    characters: str = ""

    def ids(self, texts, masks=False):
        check_unicode(texts)
        return [self._ids_of(text, f"text {i}", masks) for i, text in enumerate(texts)]

    def _ids_of(self, text: str, where: str, masks: bool) -> list[int]:
        if masks and self.mask >= 0:
            parts = [self._ids_of(part, where, False) for part in text.split("[MASK]")]
            return [token for part in parts for token in (self.mask, *part)][1:]
        numbers = self._numbers
        try:
            return [numbers[letter] for letter in text]
        except KeyError as error:
            at = text.index(error.args[0])
            raise UserError(f"{where}: the character {error.args[0]!r} at {at} is none of the "
                            f"{len(self.characters)} of the vocabulary; leave it out, or prepare "
                            "texts that have it") from error

    def decode(self, tokens):
        names = [*self.characters, *SPECIAL]
        return "".join(names[int(token)] for token in tokens)

    @property
    def byte_lengths(self):
        lengths = [len(letter.encode()) for letter in self.characters]
        return np.asarray(lengths + [0] * (self.size - len(lengths)), np.int32)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {letter: i for i, letter in enumerate(self.characters)}


def characters_of(texts: Iterable[str], special: bool) -> Characters:
    """Return the vocabulary of the characters of texts.

    special   whether it has special tokens, which rows of documents need
    """
    found = sorted(set().union(*texts))
    return read_characters(json.dumps({"characters": "".join(found), "special": special}))


def read_characters(text: str) -> Characters:
    """Return the vocabulary of a JSON."""
    values = json.loads(text)
    characters, special = values["characters"], values["special"]
    n = len(characters)
    ids = dict(zip(("pad", "mask", "cls", "sep"), range(n, n + 4), strict=True)) if special else \
        {"mask": -1}
    return Characters(size=n + len(SPECIAL) * special, ordinary=(0, n), json=text,
                      characters=characters, **ids)


def stored_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary of a stored JSON: of characters, of Marian's pieces, or of a tokenizer.
    """
    try:
        values = json.loads(text)
    except ValueError:
        values = None  # `vocabulary_of` says so
    if isinstance(values, dict) and set(values) == {"characters", "special"}:
        return read_characters(text)
    if isinstance(values, dict) and set(values) == {"source", "target", "numbers"}:
        return read_pieces(text)
    return vocabulary_of(text)
