"""Byte-pair encoding (Sennrich et al. 2016) on bytes, by Hugging Face's tokenizers.

A tokenizer is trained once, then kept as its JSON. The JSON travels with the data set that was
made with it and with every checkpoint that was trained on that. Its hash tells whether two are
the same. Any text has tokens and comes back from them: nothing is unknown.
"""
import collections
from collections.abc import Iterable
import dataclasses
import functools
import hashlib
import json
import warnings

import numpy as np

from karpjax.core.errors import UserError

SPECIAL = ("[PAD]", "[MASK]", "[CLS]", "[SEP]")  # ids 0 to 3 of a tokenizer trained here
ROBERTAS = ("<pad>", "<mask>", "<s>", "</s>")    # RoBERTa's names of the same
GPT2S = "<|endoftext|>"                          # its only one, before and after a document


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The facts about tokens that a task needs.

    mask       -1 if there is none, as pad, cls and sep
    ordinary   ids [low, high): the others are special, and never masked or drawn at random
    pad        fills short rows
    cls, sep   stand before and after a document
    json       the tokenizer; "" for bytes
    """
    unit = "bytes"  # of which texts consist if there is no tokenizer
    size: int
    mask: int
    ordinary: tuple[int, int]
    pad: int = -1
    cls: int = -1
    sep: int = -1
    json: str = ""

    @property
    def fingerprint(self) -> str:
        """Return the hash of the tokenizer."""
        return hashlib.sha256(self.json.encode()).hexdigest() if self.json else "bytes"

    @property
    def can_follow(self) -> np.ndarray:
        """Return (V,): whether a token can follow another, as ordinary ones and the end do."""
        ids, (low, high) = np.arange(self.size), self.ordinary
        return (low <= ids) & (ids < high) | (ids == self.sep)

    def segments(self, tokens):
        """Return the segments of rows of one document each, (..., T): 1, and 0 for padding."""
        return (tokens != self.pad).astype("int32")

    def ids(self, texts: list[str], masks: bool) -> list[list[int]]:
        """Return the ids of each text, without special tokens: "[SEP]" in a text is text.

        masks   whether a [MASK] in a text is the mask
        """
        check_unicode(texts)
        if not self.json:
            return [list(text.encode()) for text in texts]
        reader = self._masking_reader if masks else self._reader
        return [each.ids for each in reader.encode_batch(texts, add_special_tokens=False)]

    def target_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each translation, which `decode` makes texts again."""
        return self.ids(texts, masks=False)

    def encode(self, texts: list[str], length: int, masks: bool = True) -> np.ndarray:
        """Return (B, length) int32: [CLS] text [SEP], cut at the end, with a warning, or padded.

        Without padding, as of bytes, there are no special tokens either: each text must have at
        least `length` tokens.

        masks   whether a [MASK] in a text is the mask. Other special tokens are text, as they are
                when texts are prepared
        """
        if self.pad < 0:
            rows = [ids[:length] for ids in self.ids(texts, masks)]
            short = [i for i, row in enumerate(rows) if len(row) < length]
            if short:
                raise UserError(f"text {short[0]} has {len(rows[short[0]])} {self.unit}, expected "
                                f"{length}: rows of {self.unit} have no padding")
            return np.asarray(rows, np.int32)
        encoded = self.ids(texts, masks)
        if cut := sum(len(ids) + 2 > length for ids in encoded):
            warnings.warn(f"{cut} of {len(texts)} texts are longer than a row of {length} tokens; "
                          "their ends are left out", stacklevel=2)
        return np.stack([self.framed(ids, length) for ids in encoded]).astype(np.int32)

    def framed(self, ids: list[int], length: int) -> np.ndarray:
        """Return (length,): [CLS] ids [SEP] padding, cut to fit."""
        row = [self.cls, *ids[:length - 2], self.sep]
        return np.asarray(row + [self.pad] * (length - len(row)))

    def decode(self, tokens) -> str:
        """Return the text of one row of ids, special tokens by name."""
        ids = [int(token) for token in tokens]
        if self.json:
            return self._tokenizer.decode(ids, skip_special_tokens=False)
        return "".join(self._decode_byte(token) for token in ids)

    @property
    def byte_lengths(self) -> np.ndarray:
        """Return the number of bytes of UTF-8 that each token stands for, (V,): special ones 0.

        They are those of the text as the tokenizer normalised it, which may have begun with a space
        that it added: see `adds_space`.
        """
        if not self.json:
            return np.r_[np.ones(256, np.int32), np.int32(0)]
        if "ByteLevel" not in self._pre_tokenizer:
            raise UserError("bits per byte need a tokenizer on bytes (pre_tokenizer ByteLevel), "
                            "found one on characters; train one with python -m karpjax.prepare")
        added = {i: 0 if token.special else len(token.content.encode())
                 for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        pieces = map(self._tokenizer.id_to_token, range(self.size))  # a letter stands for a byte
        return np.asarray([added.get(i, len(piece)) for i, piece in enumerate(pieces)], np.int32)

    @property
    def adds_space(self) -> bool:
        """Return whether the tokenizer puts a space before a document that begins without one."""
        return bool(self.json) and '"add_prefix_space": true' in self._pre_tokenizer

    @property
    def _pre_tokenizer(self) -> str:
        """Return the JSON of the part that splits texts into words."""
        return json.dumps(json.loads(self.json).get("pre_tokenizer"))

    def _decode_byte(self, token: int) -> str:
        if token == self.mask:
            return "[MASK]"
        return chr(token) if 32 <= token < 127 else f"\\x{token:02x}"

    @functools.cached_property
    def _tokenizer(self):
        return load_tokenizer(self.json)

    @functools.cached_property
    def _reader(self):
        """Return the tokenizer that takes the names of special tokens in a text for text."""
        reader = load_tokenizer(self.json)
        reader.encode_special_tokens = True
        return reader

    @functools.cached_property
    def _masking_reader(self):
        """Return the same, except that the mask is no special token to it, and so is found."""
        settings = json.loads(self.json)
        for token in settings["added_tokens"]:
            token["special"] = token["special"] and token["id"] != self.mask
        reader = load_tokenizer(json.dumps(settings))
        reader.encode_special_tokens = True
        return reader


BYTES = Vocabulary(size=257, mask=256, ordinary=(0, 256))


def check_unicode(texts: list[str]) -> None:
    """Raise a UserError if a text has half of a surrogate pair."""
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"text {i}: half of a surrogate pair (character {error.start}), "
                            "which is no character; leave it out") from error


def vocabulary_of(json: str) -> Vocabulary:
    """Return the vocabulary of a tokenizer trained here, or published with BERT, RoBERTa or GPT-2.

    Special tokens must lie at the ends of its ids.
    """
    tokenizer = load_tokenizer(json)
    ids = {}
    for token, other in zip(SPECIAL, ROBERTAS, strict=True):
        known = [i for i in map(tokenizer.token_to_id, (token, other)) if i is not None]
        ids[token] = known[0] if known else None
    end = tokenizer.token_to_id(GPT2S)
    if end is not None and set(ids.values()) == {None}:
        ids = {"[PAD]": -1, "[MASK]": -1, "[CLS]": end, "[SEP]": end}
    if None in ids.values():
        raise UserError(f"the tokenizer has {ids}, expected these tokens, or "
                        f"{', '.join(ROBERTAS)}; train one with python -m karpjax.prepare")
    size = check_ids(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    special = {*ids.values(), *(i for i, token in added.items() if token.special)}
    low = 1 + max((i for i in special if i < size / 2), default=-1)
    high = min((i for i in special if i >= size / 2), default=size)
    return Vocabulary(size, mask=ids["[MASK]"], ordinary=(low, high), pad=ids["[PAD]"],
                      cls=ids["[CLS]"], sep=ids["[SEP]"], json=json)


def check_ids(tokenizer) -> int:
    """Return the number of tokens, whose ids must be 0 to one less, each once."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    size = len(vocabulary)
    for wrong, count in collections.Counter(vocabulary.values()).items():
        if count > 1 or wrong >= size:
            names = [repr(token) for token, i in vocabulary.items() if i == wrong]
            raise UserError(f"the tokenizer has {size} tokens, expected their ids to be 0 to "
                            f"{size - 1}, each once; found {wrong} for {' and '.join(names)}; "
                            "take the file as it was published")
    return size


def train_tokenizer(texts: Iterable[str], size: int, lowercase: bool = False) -> str:
    """Return the JSON of a tokenizer of `size` tokens, special ones included.

    The same texts give the same JSON.
    """
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    normal = [tokenizers.normalizers.NFC()] + [tokenizers.normalizers.Lowercase()] * lowercase
    tokenizer.normalizer = tokenizers.normalizers.Sequence(normal)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    fewest = len(SPECIAL) + len(alphabet)
    if size < fewest:
        raise UserError(f"--vocabulary={size}: expected at least {fewest}, special tokens and "
                        "bytes")
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet),
        show_progress=False))
    return tokenizer.to_str()


def load_tokenizer(json: str):
    """Return Hugging Face's tokenizer of a JSON, which neither cuts nor pads."""
    try:
        tokenizer = _library().Tokenizer.from_str(json)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"not a tokenizer's JSON ({str(error)[:200]}); expected what "
                        "karpjax.prepare or Hugging Face's tokenizers save") from error
    tokenizer.no_truncation()  # rows are cut and padded here
    tokenizer.no_padding()
    return tokenizer


def _library():
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise UserError('tokens need the package tokenizers; '
                        'pip install "karpjax[text]"') from error
    return tokenizers
