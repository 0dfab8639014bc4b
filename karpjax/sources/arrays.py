"""A data set that fits in device memory: gather and augment are part of the compiled program.

    source = karpjax.sources.arrays({"image": images, "label": labels}, batch_size=128,
                                    splits={"test": {...}})
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names
from karpjax.datasets.columns import (
    check_all_labelled,
    check_columns,
    check_splits,
    row_keys,
    shared_with_train,
    with_train,
)
from karpjax.sources.shuffle import shuffled
from karpjax.sources.source import Source, augmented, local_rows, ones, unchanged


class Arrays(Source):
    """Batches drawn from arrays in an order that is a pure function of (key, step).

    train       {"image": (N, ...), "label": (N,), ...}, numpy. Every epoch is a new permutation,
                and batches run across its end
    splits      {"validation": {...}, "test": {...}}, evaluated in order: rows as in train. A
                training warns of those that stand in train too
    preprocess  batch -> batch, deterministic: normalise. Also applied in evaluation and by
                `run.predict`
    view        batch -> batch, in evaluation and by `run.predict` only, after preprocess. It stands
                in for augment: a crop of the middle for random ones
    augment     (example, key) -> example, in training only, on one prepared example; keyed by the
                example's draw number
    mix         (batch, keys) -> batch, in training only, after augment: mixup and the like
    classes     number of classes of "label"; 0: those of train
    """

    @old_names.old_keywords(prepare="preprocess")
    def __init__(self, train: dict, *, batch_size: int, splits: dict | None = None,
                 preprocess: Callable | None = None, view: Callable | None = None,
                 augment: Callable | None = None, mix: Callable | None = None, classes: int = 0):
        self.num_examples = check_columns(train, "train")
        self.batch_size, self.data = batch_size, with_train(train, splits)
        self.splits = tuple(self.data)[1:]
        for name in self.splits:
            check_columns(self.data[name], name)
        check_splits(self.data, classes)
        self._preprocess, self._view = preprocess or unchanged, view or unchanged
        self._augment, self._mix = augment, mix
        # Rows are stored flat: on a TPU an array (N, H, W, 3) would be padded and laid out from
        # scratch in every program.
        self.shapes = {name: column.shape[1:] for name, column in train.items()}
        self.stored = {name: column.dtype for name, column in train.items()}
        self.arrays = {name: column.reshape(self.num_examples, -1) if column.ndim > 2 else column
                       for name, column in train.items()}
        one = {name: jnp.asarray(column[:1]) for name, column in train.items()}
        self.example = jax.tree.map(np.asarray, self.preprocess(one))

    def notes(self):
        shared = shared_with_train({name: row_keys(each) for name, each in self.data.items()})
        return [f"warning: {shared}: measured on them, a model has seen its answers"] if shared \
            else []

    def init(self, key):
        check_all_labelled(self.data)  # here, where training begins
        # The key's data rather than a typed key: plain arrays are all a checkpoint holds.
        return {"key": jax.random.key_data(key), "epoch": jnp.uint32(0),
                "position": jnp.uint32(0), "draw": jnp.uint32(0)}

    def advance(self, arrays, source_state, variables):
        # epoch and position rather than one counter: it would overflow 32 bits in a long run.
        # `draw` may wrap: it is a key.
        end = source_state["position"] + self.batch_size
        after = {**source_state, "epoch": source_state["epoch"] + end // self.num_examples,
                 "position": end % self.num_examples,
                 "draw": source_state["draw"] + self.batch_size}
        return after, source_state

    def batch(self, arrays, chunk, i):
        order_key, augment_key = jax.random.split(jax.random.wrap_key_data(chunk["key"]))
        rows = jnp.arange(self.batch_size, dtype=jnp.uint32)                              # (B,)
        position = chunk["position"] + rows
        epoch = chunk["epoch"] + position // self.num_examples                            # (B,)
        chosen = shuffled(position % self.num_examples, epoch, order_key, self.num_examples)
        batch = {name: column[chosen].reshape(self.batch_size, *self.shapes[name])
                 for name, column in arrays.items()}
        batch = {**self._preprocess(batch), "index": chunk["draw"] + rows, "row": chosen,
                 "epoch": epoch, "weight": ones(self.batch_size)}
        return augmented(batch, self._augment, self._mix, augment_key)

    def preprocess(self, batch):
        return self._view(self._preprocess(batch))

    def rows(self, split, numbers):
        return {name: column[np.asarray(numbers)] for name, column in self.data[split].items()}

    def eval_batches(self, split):
        columns = self.data[split]
        n = len(next(iter(columns.values())))
        for start in range(0, n, self.batch_size):
            index = np.arange(start, start + self.batch_size)[local_rows(self.batch_size)]
            batch = {name: column[np.minimum(index, n - 1)] for name, column in columns.items()}
            yield {**batch, "index": index.astype(np.uint32),
                   "weight": (index < n).astype(np.float32)}
