"""Errors that a command prints in one line, without a traceback, and exit codes (see cli.py)."""
import contextlib
import errno
import importlib
import os
import pathlib
import re
import sysconfig
import traceback

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)  # a file's own fault
# Python's own files, whatever is installed, and karpjax
OTHERS = ("<frozen", f"{pathlib.Path(__file__).parent.parent}/",
          *(sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib",
                                                        "platlib")))
STATUSES = "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED"  # gRPC's


class UserError(Exception):
    """Bad input. The message is one line: what was expected, what was found, and the fix."""
    code = 2


class NotFinite(Exception):
    """Too many steps in a row were skipped because something was not finite."""
    code = 3


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C), and its state is saved."""
    code = 75


class Outage(UserError):
    """The storage or the machine failed for a moment.

    Nothing was changed: start the same command again.
    """
    code = 75


class Damaged(UserError):
    """A checkpoint that cannot be read. The one before may be whole."""


def causes_of(error):
    """Yield each error behind an error with the system's number, 0 without one.

    TensorStore's errors carry the number, or a status of gRPC, in their text; Orbax wraps them.
    """
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        number = re.search(r"os_error_code='?(\d+)", str(error))
        yield error, getattr(error, "errno", None) or int(number[1] if number else 0)
        error = error.__cause__ or error.__context__


def outage(error) -> str:
    """Return the failure of storage or machine behind an error, or "" if a file is at fault."""
    for cause, number in causes_of(error):
        text = str(cause)
        system = isinstance(cause, OSError) and not isinstance(
            cause, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if number and number not in (*FULL, *MISSING):
            return os.strerror(number)
        if system and not number or isinstance(cause, MemoryError):
            return f"{type(cause).__name__}: {' '.join(text.split())[:200]}"
        if status := re.match(STATUSES, text):
            return status[0]
    return ""


def full_disk(error) -> str:
    """Return the system's word for a full disk behind an error, or ""."""
    return next((os.strerror(number) for _, number in causes_of(error) if number in FULL), "")


@contextlib.contextmanager
def storage(where):
    """Turn a failure of the storage or the machine into one line: no stored file is at fault."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if failure := outage(error):
            raise Outage(f"{where}: the storage or the machine failed ({failure}); nothing was "
                         "moved or emptied: start the same command again") from error
        if failure := full_disk(error):
            raise UserError(f"{where}: the disk is full ({failure}); nothing was moved or emptied: "
                            "make room, then start the same command again") from error
        raise


def is_own(frame: traceback.FrameSummary) -> bool:
    """Return whether a line of a traceback is a user's."""
    return not frame.filename.startswith(OTHERS)


def did_you_mean(name: str, known) -> str:
    """Return `"; did you mean 'steps'?"` if a known name is close, else the list of known names."""
    import difflib
    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def check_choice(value, known, where: str) -> None:
    """Check that a value, which `where` names in the error, is a known one."""
    if value not in known:
        raise UserError(f"{where}: expected one of {', '.join(map(repr, known))}, found {value!r}")


def check_keys(given, known, where: str, required=()) -> None:
    """Check that every key of a dict of options is known, and that the required ones are there."""
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: no such key{did_you_mean(key, known)}")
    for key in required:
        if key not in given:
            raise UserError(f"{where}.{key} is missing; expected {', '.join(required)}, found "
                            f"{', '.join(given) or 'nothing'}")


def extra(module: str, name: str = ""):
    """Import a module, or raise a line that says which extra brings it (default: its name)."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = name or module.split(".")[0]
        raise UserError(f"config.env: {name} is not installed ({error}); "
                        f"pip install \"karpjax[{name}]\"") from error
