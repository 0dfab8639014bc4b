"""A folder of folders of pictures as a data set, which is prepared when it is first used.

The set is named by the content of its pictures, so new file times or another place make no other
set. Pictures are read once: the name is kept in the folder of data sets, as long as their names,
sizes and times stay.
"""
import concurrent.futures
import contextlib
import pathlib

from karpjax.core.errors import UserError, storage
from karpjax.core.files import write_whole
from karpjax.datasets.content import hash_bytes, hash_file, hash_of, is_whole, seal, unseal
from karpjax.datasets.imagefolder import PICTURES, import_imagefolder
from karpjax.datasets.write import VERSION, local_data_dir, recover_killed, write_dataset


GREY = "_grey"  # ends the name of a set of one channel


def prepared_folder(folder, data_dir="", was: str = "") -> str:
    """Return the data set's name of an ImageFolder as it is now.

    The set is written on first use, again after a picture has changed, and again if it is damaged.

    was   the name of the set that a run learned from: grey pictures were RGB to an older karpjax
    """
    name, data_dir = name_of_folder(folder, data_dir), local_data_dir(data_dir)
    names = [name] if was and not was.endswith(GREY) else [name, name + GREY]
    for each in names:
        recover_killed(str(data_dir), each)
        if is_whole(data_dir / each / VERSION):
            return each
    print(f"{folder}: preparing its pictures as data set {name} in {data_dir}", flush=True)
    dataset = import_imagefolder(pathlib.Path(folder).expanduser(),
                                 grey=False if len(names) == 1 else None)
    dataset.account.report(folder, {split: len(rows) for split, rows in dataset.splits.items()})
    name += GREY if dataset.shape[-1] == 1 else ""
    write_dataset(name, dataset, data_dir)
    return name


def same_pictures(was: str, folder, data_dir="") -> bool:
    """Return whether a set of this name was made of the pictures that are in a folder now."""
    was = was.removesuffix(GREY)
    return was in (name_of_folder(folder, data_dir), name_by_times(folder))


def name_of_folder(folder, data_dir="") -> str:
    """Return folder_HASH, the hash of names and contents of SPLIT/CLASS/PICTURE.

    Links are followed.
    """
    by_times, kept = name_by_times(folder), None
    data_dir = local_data_dir(data_dir)
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged: it is made again
        kept = unseal((data_dir / f".{by_times}").read_bytes())
    if kept and kept["by_times"] == by_times:
        return kept["name"]
    root, files = open_folder(folder)
    with storage(folder), concurrent.futures.ThreadPoolExecutor() as threads:
        contents = list(threads.map(hash_file, files))
    names = [str(path.relative_to(root)) for path in files]
    name = f"folder_{hash_of([names, contents])[:12]}"
    with contextlib.suppress(OSError):  # a folder that cannot be written: read again next time
        data_dir.mkdir(parents=True, exist_ok=True)
        write_whole(data_dir / f".{by_times}", seal({"by_times": by_times, "name": name}))
    return name


def name_by_times(folder) -> str:
    """Return the name that karpjax 0.1.0 gave a folder: by its files' names, sizes and times."""
    root, files = open_folder(folder)
    with storage(folder):
        stats = [path.stat() for path in files]
    listed = [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns)
              for path, stat in zip(files, stats, strict=True)]
    return f"folder_{hash_bytes(repr(listed).encode())[:12]}"


def open_folder(folder) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Return the path of config.data.dir, and its pictures in order."""
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"config.data.dir = {str(folder)!r}: no such folder; expected one with "
                        "train/CLASS/*.jpg in it")
    return root, [path for path in sorted(root.glob("*/*/*"))
                  if path.suffix.lower() in PICTURES and path.is_file()]
