"""Write a data set on disk, whole or not at all, whatever is killed and whoever else writes.

A set is prepared in a hidden folder beside the others, and renamed when it is complete and synced.
A set that it replaces is first renamed aside. Whoever looks for a set that only stands aside puts
it back.
"""
import collections
from collections.abc import Iterator
import contextlib
import fcntl
import io
import os
import pathlib
import re
import shutil
import tempfile
import unicodedata

from karpjax.core.errors import Outage, UserError, outage
from karpjax.core.files import flush
from karpjax.core.trees import first_line
from karpjax.datasets.content import RowHash, hash_of, is_whole, write_manifest

VERSION = "1.0.0"
NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, line ends


def default_data_dir(data_dir: str = "") -> str:
    """Return the folder of data sets: `data_dir`, else $TFDS_DATA_DIR, else TFDS's default."""
    folder = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR")
                                or "~/tensorflow_datasets")
    if set(folder) & set("[*?"):  # TFDS would find no set there, or another's
        raise UserError(f"data_dir = {folder!r}: expected a path without [, * and ?, which "
                        "TensorFlow Datasets takes for a pattern; give another --data_dir, "
                        "config.data.data_dir or TFDS_DATA_DIR")
    return folder


def local_data_dir(data_dir="") -> pathlib.Path:
    """Return the folder of data sets, in which sets can be written."""
    folder = default_data_dir(str(data_dir))
    if "://" in folder:
        raise UserError(f"data_dir = {folder!r}: data sets are prepared in a local folder; copy "
                        "them there when they are complete")
    return pathlib.Path(folder)


def prepare_once(builder_class, data_dir: pathlib.Path, target: pathlib.Path,
                 replace: bool = False, rows=lambda: "") -> bool:
    """Prepare a set in a scratch folder, rename it to `target`, and return whether it was written.

    replace    remove a set of that name, in any version; else one that is whole stays as it is
    rows       () -> the hash of the rows, called after they were written
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with scratch_folder(data_dir) as scratch:
            import tensorflow_datasets as tfds
            tfds.disable_progress_bar()  # a second of work
            builder = builder_class(data_dir=str(scratch), file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # it praises the scratch folder
                builder.download_and_prepare()
            write_manifest(builder.data_dir, rows())
            for path in scratch.rglob("*"):
                flush(path)
            with locked(data_dir):
                return publish(pathlib.Path(builder.data_dir), target, replace)
    except OSError as error:
        if outage(error) and not isinstance(error, PermissionError):
            raise Outage(f"{data_dir}: the storage failed while {target.parent.name} was prepared "
                         f"({error}); nothing was changed: start the same command again") from error
        raise UserError(f"cannot write the data set to {data_dir} ({error}); set TFDS_DATA_DIR or "
                        "config.data.data_dir to a folder that can be written") from error
    except RuntimeError as error:  # array_record's, of a full disk
        raise UserError(f"cannot write the data set to {data_dir} ({first_line(error)}); make "
                        "room, then start the same command again: nothing was changed") from error


def publish(made: pathlib.Path, target: pathlib.Path, replace: bool) -> bool:
    """Rename a set to its place, and return whether it did: under the lock of the data sets."""
    name = target.parent
    recover(name)
    if not replace and is_whole(target):
        return False  # another process was first
    if replace or target.exists():
        if name.exists():
            name.rename(aside(name))
        made, target = made.parent, name
    else:
        name.mkdir(exist_ok=True)
    try:
        made.rename(target)
        flush(target.parent)
    finally:
        recover(name)
    return True


def aside(name: pathlib.Path) -> pathlib.Path:
    """Return the place of a set while another takes its name."""
    return name.with_name(f".replaced_{name.name}")


def recover(name: pathlib.Path) -> None:
    """Put a set back that was renamed aside, or remove it if its successor is in place."""
    if not aside(name).exists():
        return
    if name.exists():
        shutil.rmtree(aside(name))
    else:
        aside(name).rename(name)


def recover_killed(data_dir: str, name: str) -> None:
    """Put a set back that a killed `prepare --overwrite` left aside."""
    folder = pathlib.Path(data_dir)
    with contextlib.suppress(OSError):  # it may be another's; then the set is not found
        if aside(folder / name).exists():
            with locked(folder):
                recover(folder / name)


@contextlib.contextmanager
def scratch_folder(data_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Make a folder to prepare in, and remove it, and those that killed processes left."""
    with contextlib.ExitStack() as held:
        with locked(data_dir):
            for left in data_dir.glob(".preparing_*"):
                with contextlib.suppress(FileNotFoundError), locked(left, wait=False) as free:
                    if free:
                        shutil.rmtree(left, ignore_errors=True)
            scratch = tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing_")
            scratch = held.enter_context(scratch)
            held.enter_context(locked(scratch))
        yield pathlib.Path(scratch)


@contextlib.contextmanager
def locked(folder, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, which also ends with the process, and yield whether it is held.

    A file system may know no locks: then it is not held.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def write_dataset(name: str, dataset, data_dir="", replace: bool = False) -> bool:
    """Write an ImageSet or a TextSet as data set `name`, and return whether it was written."""
    check_split_names(dataset.splits)
    data_dir, hashes = local_data_dir(data_dir), {}

    def rows() -> str:
        return hash_of([dataset.classes, dataset.metadata(), hashes])
    return prepare_once(make_builder_class(name, dataset, hashes), data_dir,
                        data_dir / name / VERSION, replace, rows)


def make_builder_class(name: str, dataset, hashes: dict | None = None) -> type:
    """Return a TFDS builder class that writes the rows of `dataset` in their order.

    hashes   gets {split: the hash of its rows} when they are written
    """
    import tensorflow_datasets as tfds
    features = tfds.features.FeaturesDict(dataset.features())
    metadata = tfds.core.MetadataDict(dataset.metadata())
    hashes = {} if hashes is None else hashes

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, metadata=metadata,
                                         disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, rows)
                    for split, rows in dataset.splits.items()}

        def _generate_examples(self, split, rows):
            row_hash = RowHash()
            for i, row in enumerate(rows):
                row_hash.add(row)
                yield i, row
            hashes[split] = row_hash.hexdigest()
    Prepared.name = name
    return Prepared


def check_split_names(names) -> None:
    """Raise a UserError if TFDS could not open a split by its name."""
    for name in names:
        if name == "all" or not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"split {name!r}: expected a name of letters, digits, _ and -, and not "
                            "all; rename its file or folder, or move it away")


def class_names(names: list[str], where) -> list[str]:
    """Return the names of classes, or raise a UserError if a set could not keep them apart.

    TFDS stores a name a line, and strips it.
    """
    for name in names:
        breaks = any(unicodedata.category(letter) in NOT_IN_NAMES for letter in name)
        if not name or name != name.strip() or breaks:
            raise UserError(f"{where}: a class has the name {name!r}; expected text of one line "
                            "without space at its ends; rename it")
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise UserError(f"{where}: {count} classes have the name {name!r}; rename them")
    return names
