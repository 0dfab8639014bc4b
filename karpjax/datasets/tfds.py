"""Any TFDS data set by name, without TensorFlow: opened, read and written.

TFDS reads and writes array_record files without TensorFlow. A set that was prepared as tfrecord
must be prepared again with `file_format="array_record"`. karpjax's own sets (digits) are prepared
from the package on first use, offline.
"""
from collections.abc import Iterator
import importlib
import os
import pathlib

from etils import epath
import numpy as np

from karpjax.core.errors import Outage, UserError, full_disk, outage
from karpjax.core.trees import first_line
from karpjax.datasets.content import MANIFEST, check_whole, is_whole
from karpjax.datasets.pictures import decoders_of
from karpjax.datasets.write import (
    VERSION,
    default_data_dir,
    local_data_dir,
    prepare_once,
    recover_killed,
)

EMBEDDED = {"digits": ("karpjax.datasets.digits", "Digits")}  # made from the package's own files
READ_AT_ONCE = 1000                                           # records


def open_splits(builder, data) -> tuple[dict, dict]:
    """Open the splits that config.data names.

    Returns ({"train": its expression, ...}, {"train": records by index, ...}).
    """
    names = ("train", "validation", "test")
    wanted = {split: data.get(split, "") for split in names if data.get(split, "")}
    if "train" not in wanted:
        raise UserError("config.data.train: expected a split, as in 'train[:90%]', found none")
    return wanted, {split: open_split(builder, expression) for split, expression in wanted.items()}


def prepared_builder(name: str, data_dir: str = ""):
    """Return the TFDS builder of a prepared set.

    The embedded sets are prepared on first use.
    """
    data_dir = default_data_dir(data_dir)
    if not name:
        raise UserError("config.data.name: expected the name of a data set, found none")
    recover_killed(data_dir, name)
    if name in EMBEDDED:
        return embedded_builder(name, data_dir)
    check_whole(epath.Path(data_dir) / name / VERSION, name)
    try:
        builder = find_builder(name, data_dir)
        prepared = builder.is_prepared()
    except Exception as error:  # TFDS believes the files of a set, and raises all kinds
        raise unreadable(f"data set {name!r} in {data_dir}", error, "prepare it again") from error
    if not prepared:
        raise UserError(f"data set {name!r} is not prepared in {data_dir}; prepare your files with "
                        "python -m karpjax.prepare, or let TFDS download them: python -c \"import "
                        f"tensorflow_datasets as t; t.builder({name!r}, file_format='array_record',"
                        f" data_dir={data_dir!r}).download_and_prepare()\"")
    return builder


def find_builder(name: str, data_dir: str):
    """Return TFDS's builder of a set on disk, or of a name that TFDS knows."""
    import tensorflow_datasets as tfds
    # As it is on disk, with the features that it was written with: TFDS's own class of that name
    # may have others, or configs, as its "coco" has, beside which it would not see ours.
    ours = epath.Path(data_dir) / name / VERSION
    if (ours / MANIFEST).exists():
        return tfds.core.read_only_builder.builder_from_directory(ours)
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, ImportError) as error:
        folders = pathlib.Path(data_dir).glob("[!.]*") if os.path.isdir(data_dir) else []
        prepared = [path.name for path in folders if path.is_dir()]
        raise UserError(f"data set {name!r}: TFDS does not know it and it is not prepared in "
                        f"{data_dir} (there: {', '.join(sorted({*EMBEDDED, *prepared}))}); check "
                        "the name, or prepare it: python -m karpjax.prepare --help") from error


def unreadable(what: str, error: Exception, fix: str) -> UserError:
    """Return the error of a data set that cannot be read: an Outage, or damage."""
    if isinstance(error, UserError):
        return error
    # Pillow's error for a damaged picture is an OSError too, without the system's number.
    of_pillow = isinstance(error, OSError) and error.errno is None
    if not of_pillow and (failure := outage(error) or full_disk(error)):
        return Outage(f"{what}: the storage failed ({failure}); start the same command again")
    text = " ".join(str(error).split())[:200]
    return UserError(f"{what} cannot be read ({type(error).__name__}: {text}); "
                     f"the file is damaged: {fix}")


def embedded_builder(name: str, data_dir: str):
    """Return the builder of one of karpjax's own sets.

    The set is prepared if it is not there, and again if it is damaged or of an older karpjax.
    """
    module, class_name = EMBEDDED[name]
    builder_class = getattr(importlib.import_module(module), class_name)
    folder = epath.Path(data_dir) / name / str(builder_class.VERSION)
    if not is_whole(folder):
        try:
            local = local_data_dir(data_dir)
            prepare_once(builder_class, local, local / name / folder.name,
                         rows=lambda: f"{name} {folder.name}")
        except UserError:  # a folder that cannot be written may have it from an older karpjax
            if not folder.exists() or (folder / MANIFEST).exists():
                raise
    return builder_class(data_dir=data_dir, file_format="array_record")


def metadata_of(builder) -> dict:
    """Return the values that a set was prepared with, {} if there are none."""
    try:
        return dict(builder.info.metadata or {})  # read only now
    except Exception as error:
        raise unreadable(f"data set {builder.name!r}: its metadata", error,
                         "prepare it again") from error


def open_split(builder, expression: str):
    """Return random access to a split expression such as "train[:90%]"."""
    try:
        if fault := split_fault(builder.info.splits, expression):
            raise UserError(f"data set {builder.name!r} {fault}")
        return builder.as_data_source(expression, decoders=decoders_of(builder.info.features))
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(f"data set {builder.name!r} is prepared as {builder.info.file_format}, "
                        "which is not random-access; prepare it again with "
                        "file_format='array_record'") from error
    except Exception as error:  # array_record's own
        what = f"data set {builder.name!r}, split {expression!r}"
        raise unreadable(what, error, "prepare the set again") from error


def split_fault(splits, expression: str) -> str:
    """Return the fault of a split expression, "" for none: no such split, no such part, or empty.

    Every part of a sum is looked at.
    """
    for part in map(str.strip, expression.split("+")):
        name = part.partition("[")[0]
        if name not in splits and name != "all":
            return (f"has no split {name!r}; it has {sorted(splits)}, and parts of them as in "
                    "'train[:90%]'")
        sizes = ", ".join(f"{each} {splits[each].num_examples}" for each in sorted(splits))
        try:
            rows = splits[part].num_examples
        except (ValueError, KeyError) as error:
            return (f"has no part {part!r} ({first_line(error)}); its rows: {sizes}; expected a "
                    "part as in 'train[:90%]'")
        if rows < 1:
            return f"has no rows in {part!r}; its rows: {sizes}; take a larger part, or '' for none"
    return ""


def read_record(rows, i: int, name: str):
    """Return record i, or raise a UserError that names the data set and the record."""
    try:
        return rows[i]
    except UserError:
        raise
    except ImportError as error:  # TFDS decodes images with Pillow or OpenCV
        raise UserError(f"data set {name}: reading images needs Pillow ({error}); "
                        'pip install "karpjax[images]"') from error
    except Exception as error:  # Pillow, OpenCV and array_record each raise their own kinds
        fix = "prepare the set again, or leave the record out by its split"
        raise unreadable(f"data set {name}: record {i}", error, fix) from error


def read_records(rows, part: range, name: str) -> list:
    """Return the records of `part`, read together."""
    try:
        return rows.__getitems__(part)  # takes array_record a fifth of the time of one by one
    except Exception:
        return [read_record(rows, i, name) for i in part]  # to name the damaged one


def iterate_records(rows, name: str) -> Iterator:
    """Yield every record, in order."""
    for start in range(0, len(rows), READ_AT_ONCE):
        part = range(start, min(start + READ_AT_ONCE, len(rows)))
        yield from read_records(rows, part, name)


def read_columns(rows, decode, name: str) -> dict:
    """Return a whole split in host memory: {"image": (N, H, W, C), "label": (N,)}."""
    decoded = [decode(record) for record in iterate_records(rows, name)]
    shapes = {tuple(column.shape for column in row.values()) for row in decoded}
    if len(shapes) != 1:
        raise UserError(f"data set {name}: rows of {len(shapes)} shapes, expected one to hold "
                        "them in one array; give images one shape with config.data.resize")
    return {key: np.stack([row[key] for row in decoded]) for key in decoded[0]}
