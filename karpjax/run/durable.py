"""A workdir that can be written and read: its names, what each of them is, what a power cut leaves.
"""
import contextlib
import errno
import os
import re

from etils import epath

from karpjax.core import files
from karpjax.core.errors import Outage, UserError, outage

FILES = ("config.json", "metrics.jsonl", "summary.json", "model_card.md", "curves.png", "lock")
FOLDERS = ("checkpoints", "tensorboard", "damaged", "beats", "profile")


def check_path(path) -> None:
    """Check that Orbax can read a checkpoint below this path."""
    # It takes the path for a pattern: with a backslash the arrays are written elsewhere, with a
    # star other runs' files are read as this one's, and with [...] nothing is ever found again.
    if bad := sorted(set(re.findall(r"[*?\[\]\\]", str(path)))):
        raise UserError(f"{path}: {' '.join(bad)} in a path is a pattern to Orbax, and no "
                        "checkpoint there could be read; choose another name, or rename the folder")


def check_layout(workdir, more=()) -> None:
    """Check that what a workdir holds by the names of a run are files and folders as expected.

    more   names of other files
    """
    folder = epath.Path(workdir)
    names = {"": True, **dict.fromkeys([*FILES, *more], False), **dict.fromkeys(FOLDERS, True)}
    for name, is_folder in names.items():
        path = folder / name
        if path.exists() and path.is_dir() != is_folder:
            expected, found = ("folder", "file") if is_folder else ("file", "folder")
            raise UserError(f"{path}: expected a {expected}, found a {found}; move it away, or use "
                            "a new --workdir")


def flush_folder(folder) -> None:
    """Let the disk hold a local folder and all below it before anything relies on it."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            files.flush(os.path.join(parent, name))
        files.flush(parent)


@contextlib.contextmanager
def writable(what: str):
    """Turn the system's refusal to write into one line."""
    try:
        yield
    except OSError as error:
        if outage(error) and error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Outage(f"{what}: the storage failed ({error}); "
                         "start the same command again") from error
        raise UserError(f"{what} cannot be written ({error.strerror or error}); "
                        "choose another folder") from error
