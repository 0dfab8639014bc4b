"""Files of named arrays, safetensors and npz, and files that are written whole or not at all."""
import contextlib
import errno
import math
import os
import pathlib
import zipfile

from etils import epath
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError, storage
from karpjax.core.trees import first_line

KINDS = (".safetensors", ".npz")
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
          "I64": np.int64, "I32": np.int32}
DEFLATED = 1100  # bytes that a byte of a zip file can stand for, at most


def local(path, what: str) -> pathlib.Path:
    """Return a path on this machine, its ~ expanded. Raise UserError for one elsewhere."""
    if "://" in str(path):
        raise UserError(f"{what} = {path}: expected a path on this machine; copy it from or to "
                        "there by other means")
    return pathlib.Path(path).expanduser()


def read_arrays(path) -> dict[str, np.ndarray]:
    """Return {name: array} of a file, its kind known by its suffix."""
    path = local(path, "weights")
    if path.suffix not in KINDS or not path.is_file():
        raise UserError(f"{path}: no such file; expected one of arrays, {', '.join(KINDS)}")
    arrays = read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    strange = [name for name in arrays if not name.isprintable()]
    if strange:
        raise UserError(f"{path}: expected printable names of arrays, found {strange[0]!r}")
    return arrays


def read_npz(path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive, none of which may be pickled."""
    with in_one_line(path, ".npz", "write it with numpy.savez"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_size(archive, entry)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _check_size(archive, entry) -> None:
    """Raise ValueError if an array's head promises more bytes than its file has."""
    with archive.open(entry) as file:  # a head is believed by NumPy, which would allocate 4 TB
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
            np.lib.format.read_array_header_2_0
        shape, _, dtype = read_head(file)
    held = min(entry.file_size, DEFLATED * os.path.getsize(archive.filename))
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > held:
        raise ValueError(f"{entry.filename!r} has at most {held} bytes, too few for {shape}")


def _read_safetensors(path) -> dict[str, np.ndarray]:
    safetensors = _safetensors()
    with in_one_line(path, ".safetensors", "save it again"):
        entries = safetensors.deserialize(path.read_bytes())
        return {name: _array(name, path, **entry) for name, entry in entries}


@contextlib.contextmanager
def in_one_line(path, kind: str, fix: str):
    """Turn every error of reading a file into one line."""
    try:
        with storage(path):
            yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # NumPy, zipfile and safetensors raise all kinds
        raise UserError(f"{path}: not a whole {kind} file of plain arrays ({first_line(error)}); "
                        f"get it again, or {fix}") from error


def write_arrays(path, arrays: dict[str, np.ndarray]) -> None:
    """Write a new file, whole or not at all."""
    path = check_new(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            if path.suffix == ".npz":
                np.savez(file, **arrays)
            else:
                file.write(_safetensors().numpy.save(arrays, metadata={"format": "pt"}))
        flush(part)
        os.replace(part, path)
        flush(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written ({error.strerror or error}); "
                            "choose another place") from error
        raise


def check_new(path) -> pathlib.Path:
    """Return a path that `write_arrays` can take: of a known kind, new, in a folder that exists."""
    path = local(path, "--to")
    if path.suffix not in KINDS:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(KINDS)}, "
                        f"found {path.suffix!r}")
    if path.exists():
        raise UserError(f"{path}: there already; choose another name, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no folder {path.parent}; make it first")
    if path.suffix == ".safetensors":
        _safetensors()
    return path


def _array(name, path, dtype: str, shape, data) -> np.ndarray:
    """Return one entry of a safetensors file, whose own numpy interface does not know bfloat16."""
    if dtype not in DTYPES:
        raise UserError(f"{path}: {name} is of {dtype}, expected one of {', '.join(DTYPES)}; "
                        "store it as F32")
    return np.frombuffer(data, DTYPES[dtype]).reshape(shape)


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError("safetensors files need the package safetensors; "
                        'pip install "karpjax[convert]"') from error
    return safetensors


def write_whole(path, text: str, durable: bool = True) -> None:
    """Write a file as `whole` does."""
    with whole(path, durable) as file:
        file.write(text)


@contextlib.contextmanager
def whole(path, durable: bool = True):
    """Yield a file aside, which is renamed at the end: a kill leaves the old or the new one, whole.

    durable   so does a power cut: the disk has it all before the rename, and the rename before the
              return, which may take 10 ms
    """
    path = epath.Path(path)
    part = path.parent / (path.name + ".part")
    try:
        with part.open("w") as file:
            yield file
        if durable:
            flush(part)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        flush(path.parent)


def flush(path) -> None:
    """Let the disk hold a local file, or a folder's list of names, before anything relies on it."""
    if "://" in str(path):  # an object store keeps what it has accepted
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:  # some network file systems cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(number)


def plain(value):
    """Return a JSON value: Python's for a numpy scalar, None for a float that is not finite."""
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
