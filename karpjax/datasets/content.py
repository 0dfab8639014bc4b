"""The identity of a data set is its content: a manifest, written once beside its files.

The manifest holds the hash of the rows, and the size and hash of every file. It tells whether a
set is whole, and whether two sets are the same, wherever they lie and whatever their times are.
"""
import hashlib
import json

from etils import epath
import numpy as np

from karpjax.core.errors import UserError, storage

MANIFEST = "manifest.json"
# Of larger sets no records are read at a start: their sizes are compared, and each chunk of an
# array_record file has a checksum of its own, which is looked at when it is read. Files of tokens
# (.bin) have none.
READ_AT_START = 64 << 20  # bytes
RECORDS = (".array_record", ".tfrecord", ".bin")


def seal(values: dict) -> str:
    """Return values as JSON that holds its own checksum."""
    return json.dumps({**values, "sha256": hash_of(values)}, indent=1) + "\n"


def unseal(data: bytes) -> dict:
    """Return the values that `seal` wrote, or raise ValueError if they have changed."""
    try:
        values = json.loads(data)
        checksum = values.pop("sha256")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError("not the JSON that karpjax wrote") from error
    if checksum != hash_of(values):
        raise ValueError("its checksum differs")
    return values


def hash_of(values) -> str:
    """Return the hash of a JSON value."""
    return hash_bytes(json.dumps(values, sort_keys=True).encode())


def hash_bytes(data: bytes) -> str:
    """Return the hash of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path) -> str:
    """Return the hash of a local file, read in parts."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RowHash:
    """The hash of the rows of a split, in their order."""

    def __init__(self):
        self.sha256 = hashlib.sha256()

    def add(self, row: dict) -> None:
        """Add a row: numbers, arrays, bytes, or the path of a file, whose content counts."""
        for name in sorted(row):
            value = row[name]
            if isinstance(value, str):
                value = epath.Path(value).read_bytes()
            if not isinstance(value, bytes):
                array = np.asarray(value)
                name, value = f"{name} {array.dtype} {array.shape}", array.tobytes()
            self.sha256.update(f"{name} {len(value)}\n".encode())
            self.sha256.update(value)

    def hexdigest(self) -> str:
        """Return the hash of the rows so far."""
        return self.sha256.hexdigest()


def write_manifest(folder, rows: str = "") -> None:
    """Write the manifest of a new set.

    rows   the hash of its rows; "": that of its files stands for it
    """
    folder = epath.Path(folder)
    files = {path.name: [path.stat().length, hash_file(path)]
             for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(seal({"content": rows or hash_of(files), "files": files}))


def read_manifest(folder) -> dict | None:
    """Return a set's manifest, or None if it has none.

    ValueError reports a damaged one.
    """
    file = epath.Path(folder) / MANIFEST
    return unseal(file.read_bytes()) if file.exists() else None


def read_at_start(sizes: dict) -> list[str]:
    """Return the names of the files that are read at each start, of {name: bytes}."""
    small = sum(sizes.values()) <= READ_AT_START
    return sorted(name for name in sizes if small or not any(kind in name for kind in RECORDS))


def damage(folder) -> str:
    """Return the first difference of a set from its manifest in words, "" if it is whole.

    A set without a manifest, of TFDS itself or of an older karpjax, passes.
    """
    folder = epath.Path(folder)
    try:
        files = (read_manifest(folder) or {"files": {}})["files"]
    except ValueError as error:
        return f"{MANIFEST}: {error}"
    for name, (size, _) in files.items():
        if not (folder / name).exists():
            return f"{name} is missing"
        if (length := (folder / name).stat().length) != size:
            return f"{name} has {length} bytes, expected {size}"
    changed = [name for name in read_at_start({name: size for name, (size, _) in files.items()})
               if hash_bytes((folder / name).read_bytes()) != files[name][1]]
    return f"the content of {changed[0]} has changed" if changed else ""


def is_whole(folder) -> bool:
    """Return whether a set is there with its manifest, and as it was written."""
    with storage(folder):
        return (epath.Path(folder) / MANIFEST).exists() and not damage(folder)


def check_whole(folder, name: str) -> None:
    """Raise a UserError if a set is not as it was written."""
    with storage(folder):
        fault = damage(folder)
    if fault:
        raise UserError(f"data set {name!r} in {folder} is damaged: {fault}; prepare it again "
                        "(python -m karpjax.prepare --overwrite), or fetch a whole copy")


def content_of(folder) -> str:
    """Return the hash that stands for a prepared set: of its rows, or of names, sizes and files.

    The second is for sets without a manifest, of which `read_at_start` says what is read.
    """
    folder = epath.Path(folder)
    with storage(folder):
        manifest = read_manifest(folder)
        if manifest:
            return manifest["content"]
        sizes = {path.name: path.stat().length for path in folder.iterdir() if path.is_file()}
        read = {name: hash_bytes((folder / name).read_bytes()) for name in read_at_start(sizes)}
    return hash_of([sizes, read])
