"""Errors in a user's own code, as one sentence that ends with the user's lines.

A loss is traced through a hundred frames of JAX and Flax. Only a few of them are the user's.
"""
import contextlib
import pathlib
import re
import traceback

import jax

from karpjax.core.errors import Preempted, UserError, is_own
from karpjax.core.trees import first_line

SHOWN = 3  # of the user's lines, the innermost last
RUN = str(pathlib.Path(__file__).parent) + "/"
# Whatever is installed, Python's own, and karpjax.
# The errors that say themselves what is wrong and where, or are no fault of the code.
CLEAR = (UserError, Preempted, OSError, MemoryError, jax.errors.JaxRuntimeError)


@contextlib.contextmanager
def own_code(what: str, kind=UserError, hint=lambda error: ""):
    """Turn an error in a user's own lines into a line that shows them last.

    what  names the code in the error: "the loss of a training batch"
    hint  (error) -> a clause that says more, or ""

    An error without a line of the user's in its traceback is a bug of karpjax: it stays.
    """
    try:
        yield
    except CLEAR:
        raise
    except Exception as error:
        lines = " -> ".join(own_lines(error))
        if isinstance(error, FloatingPointError):  # config.debug_nans
            lines = lines or "the loss: it is in the gradient of one of its operations"
        if not lines:
            raise
        text = collective(error) or " ".join(first_line(error).split())
        raise kind(f"{what} raised {type(error).__name__}: {text}{hint(error)}; "
                   f"mend {lines}") from error


def own_lines(error: BaseException) -> list[str]:
    """Return the last lines of a traceback that are the user's: FILE:LINE, in FUNCTION: CODE."""
    frames = traceback.extract_tb(error.__traceback__)
    if not any(map(is_own, frames)) and error.__cause__:
        # A gradient's operation: JAX hands on the whole stack of the line that it belongs to.
        frames = traceback.extract_tb(error.__cause__.__traceback__)
        start = max((i for i, frame in enumerate(frames) if frame.filename.startswith(RUN)),
                    default=-1)
        frames = frames[start + 1:]
    own = list(filter(is_own, frames))
    return [f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
            for frame in own[-SHOWN:]]


def collective(error: BaseException) -> str:
    """Return why no function of a task names an axis of devices, if that is the error, else ""."""
    axis = re.search(r"unbound axis name: ([^\s.]+)", str(error))
    if not isinstance(error, NameError) or not axis:
        return ""
    return (f"there is no axis {axis[1]!r}; leave the collective (lax.psum, lax.pmean, axis_name) "
            "out: a batch is global, and the step adds each (total, count) over the devices")
