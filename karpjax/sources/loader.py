"""A data set too large for device memory, read, decoded and batched on the host by grain.

Row r of the run's stream is the r-th element of a seeded, endless shuffle. So the batch of a step
is a pure function of (seed, step). A resume, on another number of hosts too, needs nothing but the
step. Each process reads its own rows.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.datasets.columns import (
    check_labels, check_like, check_names, check_row, check_train, one_row, with_train)
from karpjax.sources.source import Source, augmented, ones, unchanged


class Loader(Source):
    """Batches read by grain from random-access data.

    train     records by index, with len(): a TFDS data source, a list, anything with __getitem__
    splits    {"test": records}
    decode    record -> {"image": ..., "label": ...} of numpy arrays of fixed shape
    preprocess, view, augment, mix    as in karpjax.sources.Arrays, on the device
    prefetch  batches that may wait in host memory, beside the one in use
    threads   number that read and decode them
    classes   number of classes of "label"; 0: unknown

    Each row is held to the first of its split as it is read, and its label to the classes.
    """
    streamed = True

    @old_names.old_keywords(prepare="preprocess", ahead="prefetch")
    def __init__(self, train, *, batch_size: int, splits: dict | None = None,
                 decode: Callable = unchanged, preprocess: Callable | None = None,
                 view: Callable | None = None, augment: Callable | None = None,
                 mix: Callable | None = None, prefetch: int = 2, threads: int = 16,
                 classes: int = 0):
        self.records = with_train(train, splits)
        self.batch_size, self.decode = batch_size, decode
        self.splits, self.num_examples = tuple(self.records)[1:], len(train)
        self._preprocess, self._view = preprocess or unchanged, view or unchanged
        self._augment, self._mix = augment, mix
        self.prefetch, self.threads, self._classes = prefetch, threads, classes
        first = self._check_splits()["train"]
        raw = {name: jnp.asarray(value)[None] for name, value in first.items()}
        self.stored = {name: value.dtype for name, value in raw.items()}
        self.example = jax.tree.map(np.asarray, self.preprocess(raw))
        self.arrays = {name: jax.ShapeDtypeStruct((batch_size, *np.shape(value)),
                                                  jnp.asarray(value).dtype)
                       for name, value in {**first, **row_numbers(0, 0, 1)}.items()}
        self.expected, self.iterator = None, None  # (step, seed) that the iterator gives next

    def _check_splits(self) -> dict[str, dict]:
        """Return the first row of every split, each like that of train."""
        if empty := [split for split, records in self.records.items() if not len(records)]:
            raise UserError(f"split {empty[0]!r}: expected records, found none; leave it out")
        first = {split: self.decode(records[0]) for split, records in self.records.items()}
        check_train({name: np.asarray(value)[None] for name, value in first["train"].items()})
        self._kinds = {split: one_row(row) for split, row in first.items()}
        for split, kinds in self._kinds.items():
            check_names(kinds, split)
            check_like(kinds, self._kinds["train"], f"split {split!r}")
        return first

    def init(self, key):
        return {"key": jax.random.key_data(key)}

    def advance(self, arrays, source_state, variables):
        return source_state, source_state

    def batch(self, arrays, chunk, i):
        batch = {**self._preprocess(arrays), "weight": ones(self.batch_size)}
        key = jax.random.wrap_key_data(chunk["key"])
        return augmented(batch, self._augment, self._mix, key)

    def preprocess(self, batch):
        return self._view(self._preprocess(batch))

    def next_batch(self, step, seed):
        if (step, seed) != self.expected:  # the first step of a run, or of a resumed one
            import grain  # here and below: a third of a second, and no other source needs it
            order = grain.MapDataset.range(len(self.records["train"])).seed(seed).shuffle().repeat()
            self.iterator = self._batches("train", order, step)
        self.expected = (step + 1, seed)
        return next(self.iterator)

    def rows(self, split, numbers):
        rows = [self._row(split, int(i)) for i in numbers]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def eval_batches(self, split):
        import grain
        n = len(self.records[split])
        padded_length = -(-n // self.batch_size) * self.batch_size
        order = grain.MapDataset.range(padded_length).map(lambda i: min(i, n - 1))
        for batch in self._batches(split, order, 0):
            yield {**batch, "weight": (batch["index"] < n).astype(np.float32)}

    def eval_shapes(self, split):
        # Those of training: nothing is read for them.
        return {**self.arrays, "weight": jax.ShapeDtypeStruct((self.batch_size,), jnp.float32)}

    def _row(self, split: str, number: int) -> dict:
        """Return a decoded row, like the first of its split."""
        row = self.decode(self.records[split][number])
        check_row(row, self._kinds[split], f"split {split!r}, row {number}")
        return row

    def _batches(self, split, order, start):
        """Return an iterator over this process's batches from step `start` on.

        order    a dataset of row numbers, in the order in which they are drawn
        """
        import grain
        processes, process = jax.process_count(), jax.process_index()
        rows = self.batch_size // processes
        label = self._kinds[split].get("label")
        labelled = label and label.shape == () and np.issubdtype(label.dtype, np.integer)

        def read(k):
            # This process's k-th row is the row of the global batch that local_rows gives it:
            # dropout is drawn by row.
            draw = k // rows * self.batch_size + process * rows + k % rows
            row = int(order[draw])
            numbers = row_numbers(draw, row, len(self.records[split]))
            decoded = self._row(split, row)
            if labelled:
                check_labels(decoded["label"], self._classes, f"split {split!r}, row {row}")
            return {**decoded, **numbers}

        mine = grain.MapDataset.range(start * rows, len(order) // processes).map(read)
        options = grain.ReadOptions(num_threads=self.threads,
                                    prefetch_buffer_size=self.prefetch * rows)
        return iter(mine.to_iter_dataset(options).batch(rows))


def row_numbers(draw: int, row: int, n: int) -> dict:
    """Return the numbers that a row carries beside its data, see karpjax.sources.source."""
    return {"index": np.uint32(draw % 2**32), "row": np.uint32(row),
            "epoch": np.uint32(draw // n % 2**32)}
