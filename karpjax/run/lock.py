"""The lock of a workdir, or of a data set that is being prepared: one run at a time writes there.

    with Lock(folder / "lock", f"--to={folder}") as lock:   # or UserError: it is in use
        ...
        lock.check()                                        # before each write that matters

The file names its holder, which counts a beat in it every few seconds. On this boot of this machine
the holder's process number says whether it lives: a dead one is followed at once. Elsewhere neither
numbers nor clocks mean anything, so the file is watched for a change. If there is none within STALE
seconds, the holder is dead. A holder that finds another's token in the file has lost it, and stops.
"""
import contextlib
import fcntl
import json
import os
import pathlib
import platform
import sys
import threading
import time
import uuid

from etils import epath
import jax

from karpjax.core import files
from karpjax.core.errors import Outage, UserError, storage
from karpjax.run import distributed
from karpjax.run.durable import writable

BEAT = 10.0     # seconds between two beats
STALE = 60.0    # seconds without a beat after which a holder on another machine is dead
ENDING = 10.0   # seconds in which a living process of this machine may end: it was killed just now
SETTLE = 2.0    # seconds before the token is read back, if two writers cannot be kept apart
HIDDEN = "?"    # the start of another user's process, on a system that hides it


class Lock:
    """A lock held inside a `with` block, by the token in its file.

    file   where it is, also on gs://; its folder is made, and removed again if it stays empty
    what   is in use, in words, for errors
    """

    def __init__(self, file, what: str):
        self.file, self.what = epath.Path(file), what
        self.token = uuid.uuid4().hex
        self.beats, self.seen = 0, 0.0  # when the file was last seen to be ours
        self.lost = ""                  # the holder that followed us
        self.made = []                  # folders
        self.thread, self.closing = None, threading.Event()

    def __enter__(self):
        with writable(self.what):
            if "://" not in str(self.file):  # object stores have no folders
                folders = (self.file.parent, *self.file.parent.parents)
                self.made = [folder for folder in folders if not folder.exists()]
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._acquire()
            except BaseException:
                self._release()
                raise
        self.thread = threading.Thread(target=self._run, name="lock", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.thread.join()
        self._release()

    def check(self, now: bool = False) -> None:
        """Raise UserError if another process has followed this one.

        now   look into the file even if that was done a moment ago
        """
        if not self.thread:
            return  # another process of this run holds it
        stood_still = time.monotonic() - self.seen > STALE / 2
        if not self.lost and (now or stood_still):
            with storage(self.file):
                self._look()
        if self.lost:
            raise UserError(f"{self.what} was taken over by {self.lost} while this process stood "
                            "still; this one ends here, so that nothing is mixed")

    # ------------------------------------------------------------------------------------ acquiring

    def _acquire(self) -> None:
        dead = None
        while True:
            with alone_in(self.file.parent) as alone:
                text = self._text()
                if free := text in ("", dead) or has_ended(holder_in(text)):
                    self._write()
            if free and not alone:
                time.sleep(SETTLE)
            if free and holder_in(self._text()).get("token") == self.token:
                self.seen = time.monotonic()
                return
            if not free and self._watch(text):
                dead = text

    def _watch(self, text: str) -> bool:
        """Wait for the holder to end, and return whether it stood still until it was given up.

        Raises UserError if it lives.
        """
        holder = holder_in(text)
        near = is_near(holder)
        patience = (0 if holder["pid"] == os.getpid() else ENDING) if near else STALE
        if patience:
            print(f"karpjax: {self.what} is in use by {described(holder)}; looking for up to "
                  f"{patience:g} s whether it lives", file=sys.stderr, flush=True)
        started = time.monotonic()
        while time.monotonic() - started < patience:
            time.sleep(0.1 if near else min(1.0, STALE / 10))
            now = self._text()
            if holder_in(now).get("token") != holder.get("token") or has_ended(holder):
                return False
            if now != text and not near:
                break
        else:
            if not near:
                return True
        stop = f"stop it (kill {holder['pid']})" if near else "stop it there"
        raise UserError(f"{self.what} is in use by {described(holder)}, which lives; wait until it "
                        f"ends, {stop}, or choose another place")

    # ------------------------------------------------------------------------------------- the file

    def _run(self) -> None:
        while not self.closing.wait(BEAT):
            with contextlib.suppress(OSError, UserError):  # the storage is away: next time
                self._beat()

    def _beat(self) -> None:
        """Count a beat, unless the file names another holder."""
        with alone_in(self.file.parent):
            if self._look():
                self._write()

    def _look(self) -> bool:
        """Return whether the lock is still ours, or nobody's."""
        holder = holder_in(self._text())
        if holder.get("token") in (None, self.token):
            self.seen = time.monotonic()
        else:
            self.lost = described(holder)
        return not self.lost

    def _write(self) -> None:
        self.beats += 1
        holder = {"token": self.token, **this_process(), "beat": self.beats}
        try:
            files.write_whole(self.file, json.dumps(holder) + "\n")
        except FileNotFoundError:
            # Another machine wrote at the same moment: the token that is read back decides.
            if not self.file.parent.exists():
                raise

    def _text(self) -> str:
        try:
            return self.file.read_text()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            return "damaged"

    def _release(self) -> None:
        with contextlib.suppress(OSError), alone_in(self.file.parent):
            if holder_in(self._text()).get("token") == self.token:
                self.file.unlink()
        with contextlib.suppress(OSError):  # up to the first folder that is not empty
            for folder in self.made:
                os.rmdir(folder)


@contextlib.contextmanager
def held(workdir, check=lambda: None):
    """Hold WORKDIR/lock on process 0 of a run, for all. All must see it there, or none goes on.

    check  called by process 0 once it holds the lock; its UserError ends all
    """
    lock = Lock(workdir / "lock", f"--workdir={workdir}")
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock)
                check()
            except UserError as error:
                refusal = error
        token, line, code = distributed.gather(
            [lock.token, str(refusal or ""), getattr(refusal, "code", 0)])[0]
        if line:
            raise refusal or (Outage if code == Outage.code else UserError)(line)
        distributed.check_shared(lock.file, token)
        yield lock


@contextlib.contextmanager
def alone_in(folder):
    """Keep other processes of this machine out of a block, and yield whether that can be done."""
    with contextlib.ExitStack() as stack:
        try:
            number = os.open(str(folder), os.O_RDONLY)
            stack.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX)
            alone = True
        except OSError:  # object stores and some network file systems cannot
            alone = False
        yield alone


# -------------------------------------------------------------------------------------- the holders

def this_process() -> dict:
    """Return what names this process: its machine, the boot of it, its number and its start."""
    return {"host": platform.node(), "boot": boot(), "pid": os.getpid(),
            "started": started(os.getpid())}


def holder_in(text: str) -> dict:
    """Return the holder that a lock's text names, {} for a text that names none."""
    try:
        holder = json.loads(text)
        whole = isinstance(holder["pid"], int) and 0 < holder["pid"] < 2**31 and all(
            isinstance(holder[name], str) for name in ("token", "host", "boot", "started"))
        return holder if whole else {}
    except (ValueError, KeyError, TypeError):
        return {}


def described(holder: dict) -> str:
    """Return a holder in words."""
    return f"process {holder['pid']} of {holder['host']}" if holder else "an unknown process"


def is_near(holder: dict) -> bool:
    """Return whether a holder's process number means something here."""
    return bool(holder) and (holder["host"], holder["boot"]) == (platform.node(), boot()) and \
        holder["boot"] != ""


def has_ended(holder: dict) -> bool:
    """Return whether a holder has ended for sure."""
    return is_near(holder) and started(holder["pid"]) not in (holder["started"], HIDDEN)


def boot() -> str:
    """Return what names this boot and this space of process numbers, "" on a system without.

    Containers of one machine share the boot, and each counts its processes from 1.
    """
    try:
        numbers = os.readlink("/proc/self/ns/pid")
        return f"{pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {numbers}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """Return when a process of this boot started, in the kernel's ticks, "" if it has ended.

    The number alone may be a later process's.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return HIDDEN if exists(pid) else ""
    state, *numbers = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return "" if state in "ZX" else numbers[18]


def exists(pid: int) -> bool:
    """Return whether there is a process of that number, perhaps another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
