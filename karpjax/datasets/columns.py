"""Checks of the columns of a data set: shapes, labels, and splits that must be like train."""
from collections.abc import Hashable, Iterable
import dataclasses

import jax
import numpy as np

from karpjax.core.errors import UserError

CHANNELS = (1, 3, 4)
# Entries of a batch that a source sets: a column of that name would be lost.
RESERVED = ("weight", "index", "row", "epoch", "record")


def with_train(train, splits: dict | None) -> dict:
    """Return {"train": train, **splits}, which has one train."""
    if "train" in (splits or {}):
        raise UserError("splits: expected splits to evaluate, as validation and test, found "
                        "'train', which would replace the data that is learned from; give it "
                        "another name")
    return {"train": train, **(splits or {})}


def check_names(names: Iterable[str], split: str) -> None:
    """Raise a UserError if a column has a name that a source gives to something else."""
    if taken := [name for name in names if name in RESERVED]:
        raise UserError(f"split {split!r}, column {taken[0]!r}: expected other names than "
                        f"{', '.join(RESERVED)}, which a source gives to what it adds to a batch; "
                        f"rename it, as to 'my_{taken[0]}'")


def check_columns(columns: dict, split: str) -> int:
    """Return the number of rows, the same in every column."""
    check_names(columns, split)
    if odd := [f"{name!r} of {type(column).__name__}" for name, column in columns.items()
               if not getattr(column, "ndim", 0)]:
        raise UserError(f"split {split!r}: expected columns that are arrays with an axis of rows, "
                        f"found {', '.join(odd)}; give np.asarray(...) of a value a row")
    rows = {name: len(column) for name, column in columns.items()}
    if not rows or len(set(rows.values())) != 1 or 0 in rows.values():
        raise UserError(f"split {split!r}: expected columns of one length > 0, found {rows}")
    return next(iter(rows.values()))


def check_splits(splits: dict[str, dict], classes: int = 0) -> None:
    """Check that splits {"train": columns, ...} hold what one network can read.

    classes   number of classes that column "label" has, 0: those of train
    """
    train = splits["train"]
    check_train(train)
    if is_labels(train.get("label")):
        classes = classes or 1 + max(0, int(np.max(train["label"])))
    for split, columns in splits.items():
        check_like({name: row_of(column) for name, column in columns.items()},
                   {name: row_of(column) for name, column in train.items()}, f"split {split!r}")
        if is_labels(columns.get("label")):
            check_labels(columns["label"], classes, f"split {split!r}", lowest=-1)


def check_all_labelled(splits: dict[str, dict]) -> None:
    """Raise a UserError if a label is below 0: no label, to evaluation, but none to learn from."""
    for split, columns in splits.items():
        if is_labels(columns.get("label")):
            check_labels(columns["label"], 0, f"split {split!r}")


def check_train(train: dict) -> None:
    """Check that columns of train hold numbers, and pictures with the channels last."""
    for name, column in train.items():
        check_channels(column, f"split 'train', column {name!r}")
        dtype = np.asarray(column[:1]).dtype
        if dtype.kind in "OSUMm":  # objects, texts, times
            raise UserError(f"split 'train', column {name!r}: expected numbers, found {dtype}; "
                            "number the classes from 0, and stack rows of one shape")


def check_channels(column, where: str) -> None:
    """Raise a UserError if images are stored as (N, C, H, W)."""
    shape = np.shape(column)
    if channels_first(shape[1:]):
        raise UserError(f"{where}: expected images (N, H, W, C), found {shape}, which has the "
                        "channels first; give x.transpose(0, 2, 3, 1)")


def channels_first(shape: tuple) -> bool:
    """Return whether a picture's shape is plainly (C, H, W): few channels, and larger sides."""
    return len(shape) == 3 and shape[0] in CHANNELS and min(shape[1:]) > max(CHANNELS)


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


def one_row(row: dict) -> dict[str, Row]:
    """Return the kinds of the columns of one row."""
    return {name: row_of(np.asarray(value)[None]) for name, value in row.items()}


def check_like(columns: dict[str, Row], train: dict[str, Row], where: str,
               like: str = "train") -> None:
    """Raise a UserError if a split, or a row, lacks a column of train, or holds others in it."""
    if missing := [name for name in train if name not in columns]:
        raise UserError(f"{where}: expected the columns of {like} ({', '.join(train)}), "
                        f"found {', '.join(columns)}; missing: {', '.join(missing)}")
    for name, expected in train.items():
        if columns[name] != expected:
            pictures = " (config.data.resize, of stored pictures)" * (len(expected.shape) == 3)
            raise UserError(f"{where}, column {name!r}: expected rows as in {like}, {expected}, "
                            f"found {columns[name]}; make them alike{pictures}")


def check_row(row: dict, kinds: dict[str, Row], where: str) -> None:
    """Raise a UserError if a row has other columns than the first of its split, or others in them.

    kinds  those of the first row
    """
    if kinds == (kinds_of_row := one_row(row)):
        return
    check_like(kinds_of_row, kinds, where, "the first row")
    more = [name for name in row if name not in kinds]
    raise UserError(f"{where}: expected the columns of the first row ({', '.join(kinds)}), found "
                    f"{', '.join(more)} too; make them alike")


def is_labels(column) -> bool:
    """Return whether a column is one integer a row."""
    return column is not None and np.ndim(column) == 1 and \
        np.issubdtype(np.asarray(column[:1]).dtype, np.integer)


def check_labels(labels, classes: int, where: str, lowest: int = 0) -> None:
    """Raise a UserError unless labels are 0 to classes - 1, or 0 and more if classes is 0."""
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < lowest or classes and high >= classes:
        allowed = f"0 to {classes - 1}" if classes else "0 and more"
        values = f"{low} to {high}" if low < high else low
        raise UserError(f"{where}: expected labels of {allowed}, found {values}; correct them, or "
                        "the classes")


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
