"""Processes that act alike: an error that one of them meets is raised on all of them.

Left alone, one process would wait in a barrier, or end, while the others go on to a collective and
wait there for ever.
"""
import contextlib

import jax
import numpy as np

from karpjax.core.errors import Damaged, Outage, UserError
from karpjax.core.trees import first_line

KINDS = (None, Damaged, Outage, UserError)  # by gravity
LENGTH = 1000                               # bytes of a message that is sent


@contextlib.contextmanager
def together():
    """Raise on every process if the block raises on any: the gravest error.

    A process that met none, or a lesser one, raises its kind, with the message of the process that
    did. No collective may stand in the block: a process that has raised would miss it.
    """
    error = None
    try:
        yield
    except Exception as caught:
        if jax.process_count() == 1:
            raise
        error = caught
    if jax.process_count() > 1:
        agree(error)


def agree(error: Exception | None) -> None:
    """Raise the gravest of the processes' errors, if there is one."""
    text = "" if error is None else f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, UserError):
        text = str(error)
    verdicts = gathered(bytes([gravity(error)]) + text.encode()[:LENGTH])
    worst = max(range(len(verdicts)), key=lambda process: verdicts[process][0])
    kind = KINDS[verdicts[worst][0]]
    if error is not None and verdicts[worst][0] == gravity(error):
        raise error
    if kind:
        raise kind(f"process {worst}: {verdicts[worst][1:].decode(errors='ignore')}")


def gravity(error: Exception | None) -> int:
    """Return the place of an error in KINDS: what is neither refused nor an outage is damage."""
    if error is None:
        return 0
    if is_refusal(error):
        return 3
    return 2 if isinstance(error, Outage) else 1


def is_refusal(error: Exception) -> bool:
    """Return whether an error says that the user's input or device is at fault, no stored file."""
    refused = isinstance(error, UserError) and not isinstance(error, (Damaged, Outage))
    return refused or "RESOURCE_EXHAUSTED" in str(error)


def gathered(message: bytes) -> list[bytes]:
    """Return the messages of all processes, of at most LENGTH + 1 bytes."""
    from jax.experimental import multihost_utils
    padded = np.frombuffer(message.ljust(LENGTH + 1, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(padded)                  # (processes, LENGTH + 1)
    return [bytes(row)[:1] + bytes(row)[1:].rstrip(b"\0") for row in rows]
