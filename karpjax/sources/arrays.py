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
from karpjax.sources.shuffle import Shuffled


class Arrays(Shuffled):
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
        self.data = with_train(train, splits)
        counts = {split: check_columns(columns, split) for split, columns in self.data.items()}
        check_splits(self.data, classes)
        super().__init__(counts, batch_size, preprocess=preprocess, view=view, augment=augment,
                         mix=mix)
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
        return super().init(key)

    def gather(self, arrays, chosen):
        return {name: column[chosen].reshape(len(chosen), *self.shapes[name])
                for name, column in arrays.items()}

    def rows(self, split, numbers):
        return {name: column[np.asarray(numbers)] for name, column in self.data[split].items()}
