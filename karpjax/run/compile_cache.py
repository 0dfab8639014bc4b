"""The cache of compiled programs: a second start of a run compiles nothing.

jax finds a program by its text, the flags, the folder's path, and the version and kind of what
runs it. For a CPU it looks at the instruction set that it compiles for, not at the model that it
tunes for. In a home shared by machines each kind therefore has a folder of its own, named by a
hash of everything that a compiled program depends on. A loaded program is bitwise the one that
was compiled (tests/test_start.py). Whoever can write to the folder can run code in the run, so it
is the user's own.
"""
import contextlib
import hashlib
import math
import os
import pathlib
import platform
import sys
import zlib

import jax
import jaxlib

LIMIT = 2 << 30  # bytes; beyond it, the least recently used programs go at the next start
# The folders of key(), and jax's files: nothing else is touched.
ENTRY = f"*-{'[0-9a-f]' * 16}/*-{'[0-9a-f]' * 64}-cache"
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer",
       "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features", "isa", "uarch",
       "cpu")


def start(choice: str) -> None:
    """Have jax keep compiled programs in the folder of config.compile_cache.

    choice    "auto": the user's cache folder; "off" or "": nowhere; else a folder, which may be an
              object store's

    A folder that cannot be written is read. One that cannot be made is done without, and that is
    reported. A folder that jax was given before stays: it opens one a process.
    """
    given_before = jax.config.jax_compilation_cache_dir  # by its variable, or the caller
    if choice in ("", "off") or given_before:
        return
    base = user_folder() if choice == "auto" else os.path.expanduser(choice)
    folder = f"{base}/{key()}"
    writable = True
    if "://" not in base:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            sweep(pathlib.Path(base), LIMIT)
        except OSError as error:
            if not os.path.isdir(folder):
                if jax.process_index() == 0:
                    print(f"note: compiled programs are not kept: {folder} cannot be made "
                          f"({error.strerror}); give config.compile_cache a folder that can be "
                          "written, or 'off'", file=sys.stderr)
                return
        writable = os.access(folder, os.W_OK)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if writable else math.inf)


def user_folder() -> str:
    """Return $XDG_CACHE_HOME/karpjax/compiled, or the same in ~/.cache."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # unset, or relative: ignored, by the XDG specification
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    # A user without a home gets a folder that cannot be made.
    return os.path.join(caches if os.path.isabs(caches) else os.devnull, "karpjax", "compiled")


def key() -> str:
    """Return a hash of all that a compiled program depends on beside its text."""
    device = jax.local_devices()[0]
    parts = [jax.__version__, jaxlib.__version__, device.platform, device.client.platform_version,
             device.device_kind, *(os.environ.get(name, "") for name in FLAGS),
             platform.system(), platform.machine(), cpu()]
    return f"{device.platform}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def cpu(path="/proc/cpuinfo") -> str:
    """Return the model and features of the first CPU, without what changes as it runs."""
    try:
        first = pathlib.Path(path).read_text().partition("\n\n")[0]
    except OSError:  # not Linux
        return platform.processor()
    lines = (line.partition(":") for line in first.splitlines())
    return repr([(name.strip(), value.strip()) for name, _, value in lines
                 if name.strip() in CPU])


def sweep(base: pathlib.Path, limit: int) -> None:
    """Remove torn programs, and beyond the limit (in bytes) the least recently used ones.

    A kill leaves torn ones, and jax would warn of them at every start. Other processes may be at
    work here: one that finds a program gone compiles it.
    """
    mark = base / ".swept"
    since = mark.stat().st_mtime_ns if mark.exists() else 0  # an entry is read through once
    mark.touch()
    entries = []
    for path in base.glob(ENTRY):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime_ns >= since and not whole(path):
                path.unlink()
            else:
                entries.append((max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > limit:
            path.unlink(missing_ok=True)


def whole(path: pathlib.Path) -> bool:
    """Return whether an entry has its end."""
    data = path.read_bytes()
    if data[:4] == b"\x28\xb5\x2f\xfd":  # packed by zstandard, if that is installed: not checked
        return True
    try:
        zlib.decompress(data)
        return True
    except zlib.error:
        return False
