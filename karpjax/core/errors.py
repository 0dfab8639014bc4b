"""What a command says in one line instead of a traceback, and the code it exits with (see cli.py)."""
import contextlib
import errno
import importlib
import os
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)  # a file's own fault


class UserError(Exception):
    """Bad input. The message is one line: what was expected, what was found, and the fix."""
    code = 2


class NotFinite(Exception):
    """Too many steps in a row were skipped because something was not finite."""
    code = 3


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C); its state is saved."""
    code = 75


class Outage(UserError):
    """The storage or the machine failed for a moment; nothing was changed, start the same command again."""
    code = 75


def outage(error) -> str:
    """Names the failure of the storage or the machine behind an error; "" where a file itself is at fault.

    TensorStore's errors carry the system's number, or a status as of gRPC, in their text; Orbax wraps them.
    """
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        text = str(error)
        number = re.search(r"os_error_code='?(\d+)", text)
        number = getattr(error, "errno", None) or int(number[1] if number else 0)
        system = isinstance(error, OSError) and not isinstance(
            error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
        if number and number not in (*FULL, *MISSING):
            return os.strerror(number)
        if system and not number or isinstance(error, MemoryError):
            return f"{type(error).__name__}: {' '.join(text.split())[:200]}"
        if status := re.match("UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED", text):
            return status[0]
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def storage(where):
    """Inside, a failure of the storage or the machine is an Outage: it says nothing about what is stored."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if said := outage(error):
            raise Outage(f"{where}: the storage or the machine failed ({said}); nothing was moved or "
                         "emptied: start the same command again") from error
        raise


def did_you_mean(name: str, known) -> str:
    """`"; did you mean 'steps'?"` when a known name is close to `name`, else the list of known names."""
    import difflib
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(map(str, known)))}"


def check_choice(value, known, where: str) -> None:
    if value not in known:
        raise UserError(f"{where}: expected one of {', '.join(map(repr, known))}, found {value!r}")


def check_keys(given, known, where: str, required=()) -> None:
    """Every key of a dict of options is known, and the required ones are there."""
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: no such key{did_you_mean(key, known)}")
    for key in required:
        if key not in given:
            raise UserError(f"{where}.{key} is missing; expected {', '.join(required)}, found "
                            f"{', '.join(given) or 'nothing'}")


def extra(module: str, name: str = ""):
    """The module, or a line that says which extra brings it; by default that of its name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = name or module.split(".")[0]
        raise UserError(f"config.env: {name} is not here ({error}); pip install \"karpjax[{name}]\"") from error
