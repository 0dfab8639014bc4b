"""An error of the file system, or the end of the process, at the n-th call of a kind.

    inject(folder, "rename", 3, "EIO")      # in a process of its own, before the command's work

Only Python's calls count, on paths in `folder`. What TensorStore and array_record write in C++ is
left alone: a limit on the size of files stands for a full disk there.
"""
import builtins
import collections
import errno
import io
import json
import os
import pathlib
import signal

KINDS = ("open", "create", "write", "rename", "fsync", "mkdir", "unlink", "list")
ERRORS = ("EIO", "ENOSPC", "EACCES", "ESTALE")
KILL = "kill"
LASTING = "+"   # "EIO+": the call, and every later one of its kind


class Injector:
    """Counts the calls on paths in a folder, and strikes at the n-th of a kind.

    counts   {kind: calls so far}
    """

    def __init__(self, folder, kind: str = "", n: int = 0, fault: str = ""):
        self.folder, self.kind, self.n, self.fault = os.path.realpath(folder), kind, n, fault
        self.counts = collections.Counter()

    def call(self, kind: str, path, half=lambda: None) -> None:
        """Count a call, and raise or die if it is the one. half: do half of it, before death."""
        path = self.resolved(path)
        if not path.startswith(self.folder):
            return
        self.counts[kind] += 1
        now, lasting = self.counts[kind], self.fault.endswith(LASTING)
        if kind != self.kind or now < self.n or (now > self.n and not lasting):
            return
        if self.fault == KILL:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self.fault.removesuffix(LASTING))
        raise OSError(code, os.strerror(code), path)

    @staticmethod
    def resolved(path) -> str:
        """Return the path of a file descriptor, or a path as it is."""
        if isinstance(path, int):
            try:
                return os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return ""
        return os.path.abspath(os.fsdecode(path))

    def patched(self, kind: str, function, which: int = 0):
        """Return an os function that counts. which: the argument whose path counts."""
        def counted(*args, dir_fd=None, **options):
            path = args[which] if len(args) > which else "."
            if dir_fd is not None:
                path = os.path.join(self.resolved(dir_fd), path)
                options["dir_fd"] = dir_fd
            self.call(kind, path)
            return function(*args, **options)
        return counted

    def start(self) -> None:
        """Patch this process, for good."""
        # shutil asks what these can do before it uses them on folders that are open
        able = {"supports_dir_fd": set(), "supports_fd": set()}
        for kind, names, which in (("rename", ("rename", "replace"), 1), ("mkdir", ("mkdir",), 0),
                                   ("unlink", ("unlink", "remove", "rmdir"), 0),
                                   ("list", ("listdir", "scandir"), 0), ("fsync", ("fsync",), 0)):
            for name in names:
                function = getattr(os, name)
                new = self.patched(kind, function, which)
                for support, found in able.items():
                    found |= {new} if function in getattr(os, support) else set()
                setattr(os, name, new)
        for support, found in able.items():
            getattr(os, support).update(found)
        builtins.open = io.open = self.opened
        os_open, os_write = os.open, os.write

        def low_open(path, flags, *args, dir_fd=None, **options):
            if dir_fd is None:
                self.call("create" if flags & (os.O_CREAT | os.O_WRONLY) else "open", path)
                return os_open(path, flags, *args, **options)
            return os_open(path, flags, *args, dir_fd=dir_fd, **options)

        def low_write(number, data):
            self.call("write", number, lambda: os_write(number, data[:len(data) // 2]))
            return os_write(number, data)
        os.open, os.write = low_open, low_write

    def opened(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
               closefd=True, opener=None):
        """Do what open does, with calls and writes that count."""
        writes = bool(set(mode) & set("wax+"))
        if isinstance(file, int) or not writes:
            if not isinstance(file, int):
                self.call("open", file)
            return OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        self.call("create", file)
        raw = counting_file(self)(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text


OPEN = io.open


def counting_file(injector):
    """Return the class of files whose writes the injector counts."""
    class File(io.FileIO):
        def write(self, data):
            half = memoryview(data)[:len(data) // 2]
            injector.call("write", self.name if isinstance(self.name, int) else self.fileno(),
                          lambda: super(File, self).write(half))
            return super().write(data)
    return File


def inject(folder, kind: str, n: int, fault: str) -> None:
    """Let the n-th call of a kind on paths in a folder fail with an error, or end this process."""
    Injector(folder, kind, n, fault).start()


def count(folder, to) -> None:
    """Count the calls of this process, and write {kind: calls} to a file at its end."""
    import atexit
    injector = Injector(folder)
    injector.start()
    to = pathlib.Path(to)

    def write() -> None:
        with OPEN(to, "w") as file:
            json.dump(injector.counts, file)
    atexit.register(write)
