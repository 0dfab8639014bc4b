"""Windows of a long row of tokens, with targets that are one token ahead.

Training draws windows that begin anywhere, every beginning once an epoch. Evaluation reads a split
whole, in windows side by side: every token but the first is a target exactly once.
"""
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.sources.loader import Loader
from karpjax.sources.records import fits_device
from karpjax.sources.shuffle import Shuffled
from karpjax.sources.source import Source


class WindowRecords:
    """Windows as records by index: {"tokens": (T,), "target": (T,), "weight_of_token": (T,) bool}.

    A window that the row's end cuts is padded with token 0, of weight 0.

    row      (N,) tokens below `size`, in memory or mapped to it
    length   T
    starts   of the windows, a range
    """

    def __init__(self, row, size: int, length: int, starts: range):
        self.row, self.size, self.length, self.starts = row, size, length, starts

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, i: int) -> dict:
        window = np.asarray(self.row[self.starts[i]:][:self.length + 1])           # (<= T + 1,)
        check_tokens(window, self.size)
        padded = np.pad(window, (0, self.length + 1 - len(window)))                # (T + 1,)
        return {"tokens": padded[:-1], "target": padded[1:],
                "weight_of_token": np.arange(self.length) < len(window) - 1}


class Windows(Shuffled):
    """Windows of tokens that are held in device memory.

    records   {"train": WindowRecords that begin at every token, "validation": ..., ...}
    """

    def __init__(self, records: dict[str, WindowRecords], *, batch_size: int, preprocess):
        super().__init__({split: len(each) for split, each in records.items()}, batch_size,
                         preprocess=preprocess)
        self.records, self.length = records, records["train"].length
        self.arrays = {"tokens": np.asarray(records["train"].row)}
        check_tokens(self.arrays["tokens"], records["train"].size)
        first = self.rows("train", [0])
        self.stored = {name: column.dtype for name, column in first.items()}
        self.example = jax.tree.map(np.asarray, self.preprocess(jax.tree.map(jnp.asarray, first)))

    def gather(self, arrays, chosen):
        def window(start):  # a slice each: a gather of single tokens is slow on a TPU
            return jax.lax.dynamic_slice(arrays["tokens"], (start,), (self.length + 1,))
        windows = jax.vmap(window)(chosen)                                         # (B, T + 1)
        return {"tokens": windows[:, :-1], "target": windows[:, 1:],
                "weight_of_token": jnp.ones((len(chosen), self.length), bool)}

    def rows(self, split, numbers):
        rows = [self.records[split][int(i)] for i in numbers]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def check_tokens(tokens: np.ndarray, size: int) -> None:
    """Raise a UserError if a token is beyond the vocabulary, as in a file that is damaged."""
    if (highest := int(tokens.max())) >= size:
        raise UserError(f"config.data: expected tokens of 0 to {size - 1}, found {highest}; the "
                        "file is damaged: prepare the set again")


def windows(splits: dict[str, np.ndarray], data, size: int, preprocess) -> Source:
    """Return the source of windows of rows of tokens, in device memory or streamed from the host.

    splits   {"train": (N,) tokens, "validation": ..., ...}
    size     of the vocabulary
    data     config.data: its length T, batch_size, and on_device as in karpjax.sources.records
    """
    records = {}
    for split, row in splits.items():
        if len(row) <= data.length:
            raise UserError(f"split {split!r}: expected more than config.data.length = "
                            f"{data.length} tokens, found {len(row)}; take a longer text or a "
                            "smaller length")
        # Of a row beyond 2^31 tokens every second one, or fewer: windows have numbers of 32 bits.
        starts = range(0, len(row) - data.length, 1 + len(row) // 2**31) if split == "train" else \
            range(0, len(row) - 1, data.length)
        records[split] = WindowRecords(row, size, data.length, starts)
    options = dict(batch_size=data.batch_size, preprocess=preprocess)
    if fits_device(data, splits["train"].nbytes):
        if records["train"].starts.step > 1:
            raise UserError(f"config.data.on_device: a row of {len(splits['train'])} tokens is too "
                            "long for a device, expected fewer than 2^31; set it to 'no'")
        return Windows(records, **options)
    return Loader(records.pop("train"), splits=records, **options)
