"""Standard streams and terminals that go away: a line that nobody can see must not end a run."""
import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading

# EIO: a closed terminal.
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)


class Lasting(io.FileIO):
    """A descriptor that takes all that is written, also if its reader is gone or its disk full.

    failures  {error in words}, except that the reader is gone: `command | head` means it
    """

    def __init__(self, number: int, failures: set):
        super().__init__(number, "wb", closefd=False)
        self.failures = failures

    def write(self, data) -> int:
        try:
            while (written := super().write(data)) is None:  # ssh may leave a pipe non-blocking
                select.select([], [self], [], 1.0)
            return written
        except OSError as error:
            if error.errno in GONE:
                open_null(self.fileno())  # for libraries in C++ too
            else:
                self.failures.add(error.strerror or str(error))
            return len(data)


@contextlib.contextmanager
def lasting():
    """Let standard output and error outlive their readers, and the process a hangup, in a block.

    Yields a set that names what could not be written although there was a reader.
    """
    failures = set()
    for number in range(3):  # a closed one's number would be the next file's: a checkpoint's
        with contextlib.suppress(OSError):
            if not is_open(number):
                open_null(number)
    before, hangup = (sys.stdout, sys.stderr), None
    if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
        hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout, sys.stderr = (lasting_stream(stream, number, failures)
                              for stream, number in zip(before, (1, 2), strict=True))
    try:
        yield failures
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        if hangup is not None:
            signal.signal(signal.SIGHUP, hangup)


def lasting_stream(stream, number: int, failures: set):
    """Return a text stream that lasts in place of a standard one, which is None if it was closed.

    One that is no file, as in a notebook, stays.
    """
    try:
        number = stream.fileno() if stream else number
    except (OSError, ValueError):
        return stream
    if stream:
        stream.flush()
    raw = io.BufferedWriter(Lasting(number, failures))
    return io.TextIOWrapper(raw, encoding=stream.encoding if stream else "utf-8",
                            errors="backslashreplace",  # a name that an old terminal cannot show
                            line_buffering=True)  # `| tee`, or a kill, would lose the last page


def is_open(number: int) -> bool:
    """Return whether a descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def open_null(number: int) -> None:
    """Let a descriptor lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
