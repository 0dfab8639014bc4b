"""Any TFDS data set by name, without TensorFlow: opened, read and written.

TFDS reads and writes array_record files without TensorFlow. A set that was prepared as tfrecord
must be prepared again with `file_format="array_record"`. karpjax's own sets (digits) are prepared
from the package on first use, offline.
"""
from collections.abc import Iterator
import importlib
import os
import pathlib
import shutil
import tempfile

import numpy as np

from karpjax.core.errors import UserError

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
    import tensorflow_datasets as tfds
    data_dir = default_data_dir(data_dir)
    if not name:
        raise UserError("config.data.name: expected the name of a data set, found none")
    if name in EMBEDDED:
        return embedded_builder(name, data_dir)
    # As it is on disk, with the features that it was written with: TFDS's own class of that name
    # may have others.
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, ImportError) as error:
        folders = pathlib.Path(data_dir).glob("*") if os.path.isdir(data_dir) else []
        prepared = [path.name for path in folders if path.is_dir()]
        raise UserError(f"data set {name!r}: TFDS does not know it and it is not prepared in "
                        f"{data_dir} (there: {', '.join(sorted({*EMBEDDED, *prepared}))}); check "
                        "the name, or prepare it: python -m karpjax.prepare --help") from error
    if not builder.is_prepared():
        raise UserError(f"data set {name!r} is not prepared in {data_dir}; prepare your files with "
                        "python -m karpjax.prepare, or let TFDS download them: python -c \"import "
                        f"tensorflow_datasets as t; t.builder({name!r}, file_format='array_record',"
                        f" data_dir={data_dir!r}).download_and_prepare()\"")
    return builder


def embedded_builder(name: str, data_dir: str):
    """Return the builder of one of karpjax's own sets, which is prepared first if need be."""
    module, class_name = EMBEDDED[name]
    builder_class = getattr(importlib.import_module(module), class_name)
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
        prepare_once(builder_class, pathlib.Path(data_dir), pathlib.Path(builder.data_dir))
        builder = builder_class(data_dir=data_dir, file_format="array_record")
    return builder


def open_split(builder, expression: str):
    """Return random access to a split expression such as "train[:90%]"."""
    try:
        return builder.as_data_source(expression)
    except NotImplementedError as error:
        raise UserError(f"data set {builder.name!r} is prepared as {builder.info.file_format}, "
                        "which is not random-access; prepare it again with "
                        "file_format='array_record'") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"data set {builder.name!r} has no split {expression!r}; it has "
                        f"{sorted(builder.info.splits)}, and parts of them as in 'train[:90%]'"
                        ) from error


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
        raise UserError(f"data set {name}: record {i} cannot be read ({type(error).__name__}: "
                        f"{str(error)[:200]}); the file is damaged: prepare the set again, or "
                        "leave the record out by its split") from error


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


def default_data_dir(data_dir: str = "") -> str:
    """Return the folder of data sets: `data_dir`, else $TFDS_DATA_DIR, else TFDS's default."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR")
                              or "~/tensorflow_datasets")


def prepare_once(builder_class, data_dir: pathlib.Path, target: pathlib.Path,
                 replace: bool = False) -> None:
    """Prepare a set in a scratch folder, then rename it to `target`.

    replace    remove a set that is there already, in any version; else it stays as it is
    """
    # The rename: two processes may start together, and neither must see a half-written set.
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing_") as scratch:
            import tensorflow_datasets as tfds
            tfds.disable_progress_bar()  # a second of work
            builder = builder_class(data_dir=scratch, file_format="array_record")
            builder.download_and_prepare()
            if replace and target.parent.exists():
                shutil.rmtree(target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(builder.data_dir, target)
            except OSError:
                if not target.exists():  # another process was first: fine
                    shutil.copytree(builder.data_dir, target)
    except PermissionError as error:
        raise UserError(f"cannot write the data set to {data_dir} ({error}); set TFDS_DATA_DIR or "
                        "config.data.data_dir to a folder that can be written") from error


VERSION = "1.0.0"


def write_dataset(name: str, dataset, data_dir="", replace: bool = False) -> None:
    """Write an ImageSet or a TextSet as data set `name`, whole or not at all."""
    data_dir = pathlib.Path(default_data_dir(str(data_dir)))
    target = data_dir / name / VERSION
    prepare_once(make_builder_class(name, dataset), data_dir, target, replace)


def make_builder_class(name: str, dataset) -> type:
    """Return a TFDS builder class that writes the rows of `dataset` in their order."""
    import tensorflow_datasets as tfds
    features = tfds.features.FeaturesDict(dataset.features())
    metadata = tfds.core.MetadataDict(dataset.metadata())

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, metadata=metadata,
                                         disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in dataset.splits.items()}

        def _generate_examples(self, rows):
            return enumerate(rows)
    Prepared.name = name
    return Prepared
