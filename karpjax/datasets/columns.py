"""Checks of the columns of a data set: shapes, labels, and splits that must be like train."""
from collections.abc import Hashable, Iterable
import dataclasses

import jax
import numpy as np

from karpjax.core.errors import UserError

CHANNELS = (1, 3, 4)


def check_columns(columns: dict, split: str) -> int:
    """Return the number of rows, the same in every column."""
    rows = {name: len(column) for name, column in columns.items()}
    if not rows or len(set(rows.values())) != 1 or 0 in rows.values():
        raise UserError(f"split {split!r}: expected columns of one length > 0, found {rows}")
    return next(iter(rows.values()))


def check_splits(splits: dict[str, dict], classes: int = 0) -> None:
    """Check that splits {"train": columns, ...} hold what one network can read.

    classes   number of classes that column "label" has, 0: those of train
    """
    train = splits["train"]
    for name, column in train.items():
        check_channels(column, f"split 'train', column {name!r}")
        if np.asarray(column[:1]).dtype.kind in "OSUMm":  # objects, texts, times
            raise UserError(f"split 'train', column {name!r}: expected numbers, found "
                            f"{np.asarray(column[:1]).dtype}; number the classes from 0, and stack "
                            "rows of one shape")
    if is_labels(train.get("label")):
        classes = classes or 1 + max(0, int(np.max(train["label"])))
    for split, columns in splits.items():
        check_like({name: row_of(column) for name, column in columns.items()},
                   {name: row_of(column) for name, column in train.items()}, split)
        if is_labels(columns.get("label")):
            check_labels(columns["label"], classes, f"split {split!r}", lowest=-1)


def check_all_labelled(splits: dict[str, dict]) -> None:
    """Raise a UserError if a label is below 0: no label, to evaluation, but none to learn from."""
    for split, columns in splits.items():
        if is_labels(columns.get("label")):
            check_labels(columns["label"], 0, f"split {split!r}")


def check_channels(column, where: str) -> None:
    """Raise a UserError if images are stored as (N, C, H, W)."""
    shape = np.shape(column)
    if len(shape) == 4 and shape[1] in CHANNELS and min(shape[2:]) > max(CHANNELS):
        raise UserError(f"{where}: expected images (N, H, W, C), found {shape}, which has the "
                        "channels first; give x.transpose(0, 2, 3, 1)")


@dataclasses.dataclass(frozen=True)
class Row:
    """The kind of a column's rows."""
    shape: tuple
    dtype: np.dtype

    def __str__(self):
        return f"{self.dtype} of {self.shape}" if self.shape else f"{self.dtype}"


def row_of(column) -> Row:
    """Return the kind of a column's rows, as the device holds them: int64 is int32 there."""
    return Row(np.shape(column)[1:], jax.dtypes.canonicalize_dtype(np.asarray(column[:1]).dtype))


def check_like(columns: dict[str, Row], train: dict[str, Row], split: str) -> None:
    """Raise a UserError if a split lacks a column of train, or holds other rows in it."""
    if missing := [name for name in train if name not in columns]:
        raise UserError(f"split {split!r}: expected the columns of train ({', '.join(train)}), "
                        f"found {', '.join(columns)}; missing: {', '.join(missing)}")
    for name, expected in train.items():
        if columns[name] != expected:
            raise UserError(f"split {split!r}, column {name!r}: expected rows as in train, "
                            f"{expected}, found {columns[name]}; make them alike")


def is_labels(column) -> bool:
    """Return whether a column is one integer a row."""
    return column is not None and np.ndim(column) == 1 and \
        np.issubdtype(np.asarray(column[:1]).dtype, np.integer)


def check_labels(labels, classes: int, where: str, lowest: int = 0) -> None:
    """Raise a UserError unless labels are 0 to classes - 1, or 0 and more if classes is 0."""
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < lowest or classes and high >= classes:
        allowed = f"0 to {classes - 1}" if classes else "0 and more"
        raise UserError(f"{where}: expected labels of {allowed}, found {low} to {high}; correct "
                        "them, or the classes")


def shared_with_train(keys: dict[str, Iterable[Hashable]]) -> str:
    """Return the sentence that rows of other splits stand in train too, "" if none do.

    keys   {"train": a key a row, ...}; rows of equal keys are equal
    """
    others = {split: list(each) for split, each in keys.items() if split != "train"}
    wanted = {key for each in others.values() for key in each}
    known = wanted and {key for key in keys["train"] if key in wanted}
    counts = {split: sum(key in known for key in each) for split, each in others.items()}
    parts = [f"{count} of {len(others[split])} rows of {split}"
             for split, count in counts.items() if count]
    return f"{', '.join(parts)} stand in train too" if parts else ""


def row_keys(columns: dict) -> Iterable[Hashable]:
    """Yield a key of each row: of all that it holds but its label."""
    inputs = [np.asarray(column) for name, column in sorted(columns.items()) if name != "label"]
    for i in range(len(inputs[0]) if inputs else 0):
        yield hash(tuple(column[i].tobytes() for column in inputs))
