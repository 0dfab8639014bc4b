"""Byte-pair encoding (Sennrich et al. 2016) on bytes, by Hugging Face's tokenizers: trained once, then kept as its JSON.

The JSON travels with the data set that was made with it and with every checkpoint that was trained on that; its hash says
whether two are the same. Any text has tokens and comes back from them; nothing is unknown.
"""
from collections.abc import Iterable
import dataclasses
import functools
import hashlib

import numpy as np

from karpjax.core.errors import UserError

SPECIAL = ("[PAD]", "[MASK]", "[CLS]", "[SEP]")  # ids 0 to 3 of a tokenizer made here
ROBERTAS = ("<pad>", "<mask>", "<s>", "</s>")    # the same


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a task must know of tokens.

    ordinary   ids [low, high): the others are special, and never masked or drawn at random
    pad        fills short rows; -1 where there are none
    cls, sep   stand before and after a document
    json       the tokenizer; "" for bytes
    """
    size: int
    mask: int
    ordinary: tuple[int, int]
    pad: int = -1
    cls: int = -1
    sep: int = -1
    json: str = ""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.json.encode()).hexdigest() if self.json else "bytes"

    def segments(self, tokens):
        """Of rows of one document each, (..., T): 1, and 0 where it is padding."""
        return (tokens != self.pad).astype("int32")

    def encode(self, texts: list[str], length: int) -> np.ndarray:
        """(B, length) int32: [CLS] text [SEP], cut at the end or padded; [MASK] in a text is the mask. Bytes: one row each."""
        if not self.json:
            rows = [list(text.encode()[:length]) for text in texts]
            short = [i for i, row in enumerate(rows) if len(row) < length]
            if short:
                raise UserError(f"text {short[0]} has {len(rows[short[0]])} bytes, expected {length}: rows of bytes have no "
                                "padding")
            return np.asarray(rows, np.int32)
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return np.stack([self.framed(each.ids, length) for each in encodings]).astype(np.int32)

    def framed(self, ids: list[int], length: int) -> np.ndarray:
        """(length,): [CLS] ids [SEP] padding, cut to fit."""
        row = [self.cls, *ids[:length - 2], self.sep]
        return np.asarray(row + [self.pad] * (length - len(row)))

    def decode(self, tokens) -> str:
        """Text of one row of ids; special tokens by name."""
        if not self.json:
            return "".join("[MASK]" if t == self.mask else chr(t) if 32 <= t < 127 else f"\\x{t:02x}" for t in map(int, tokens))
        return self._tokenizer.decode([int(t) for t in tokens], skip_special_tokens=False)

    @functools.cached_property
    def _tokenizer(self):
        return load(self.json)


BYTES = Vocabulary(size=257, mask=256, ordinary=(0, 256))


def vocabulary_of(json: str) -> Vocabulary:
    """Of a tokenizer made by `train`, or published with BERT or RoBERTa. Special tokens lie at both ends of its ids."""
    tokenizer = load(json)
    ids = {token: next((i for i in map(tokenizer.token_to_id, (token, other)) if i is not None), None)
           for token, other in zip(SPECIAL, ROBERTAS)}
    if None in ids.values():
        raise UserError(f"the tokenizer has {ids}, expected these tokens, or {', '.join(ROBERTAS)}; train one with python -m "
                        "karpjax.prepare")
    size = tokenizer.get_vocab_size()
    special = {*ids.values(), *(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)}
    low = 1 + max((i for i in special if i < size / 2), default=-1)
    high = min((i for i in special if i >= size / 2), default=size)
    return Vocabulary(size, mask=ids["[MASK]"], ordinary=(low, high), pad=ids["[PAD]"], cls=ids["[CLS]"], sep=ids["[SEP]"],
                      json=json)


def train(texts: Iterable[str], size: int, lowercase: bool = False) -> str:
    """The JSON of a tokenizer of `size` tokens, special ones included; the same texts give the same JSON."""
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    normal = [tokenizers.normalizers.NFC()] + [tokenizers.normalizers.Lowercase()] * lowercase
    tokenizer.normalizer = tokenizers.normalizers.Sequence(normal)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if size < len(SPECIAL) + len(alphabet):
        raise UserError(f"--vocabulary={size}: expected at least {len(SPECIAL) + len(alphabet)}, special tokens and bytes")
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False))
    return tokenizer.to_str()


def load(json: str):
    try:
        tokenizer = _library().Tokenizer.from_str(json)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"not a tokenizer's JSON ({str(error)[:200]}); expected what karpjax.prepare or Hugging Face's "
                        "tokenizers save") from error
    tokenizer.no_truncation()  # rows are cut and padded here
    tokenizer.no_padding()
    return tokenizer


def _library():
    try:
        import tokenizers
        import tokenizers.decoders  # noqa: E401
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers  # noqa: E401
        import tokenizers.trainers
    except ImportError as error:
        raise UserError('tokens need the package tokenizers; pip install "karpjax[text]"') from error
    return tokenizers
