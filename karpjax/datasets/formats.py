"""The formats that `karpjax.prepare` imports."""
import pathlib

from karpjax.core.errors import UserError, did_you_mean
from karpjax.datasets import images, text
from karpjax.datasets.tfds import default_data_dir, prepared_builder, write

FORMATS = {"imagefolder": images.imagefolder, "idx": images.idx, "cifar": images.cifar, "npz": images.npz,
           "text": text.text}
TFDS = "tfds:"


def prepare(format: str, source, name: str, data_dir: str = "", overwrite: bool = False, **options) -> dict:
    """Import `source` and write it as data set `name`; what was written, as main prints it. `options` are the importer's.

    source    a path; for format "text" also "tfds:NAME"
    """
    of_tfds = str(source).removeprefix(TFDS) if str(source).startswith(TFDS) else ""
    source, data_dir = pathlib.Path(source).expanduser(), pathlib.Path(default_data_dir(str(data_dir)))
    if format not in FORMATS:
        raise UserError(f"--format={format}{did_you_mean(format, FORMATS)}")
    if not name.isidentifier() or name != name.lower():
        raise UserError(f"--name={name}: expected lower-case letters, digits and underscores, as in my_set")
    if of_tfds and format != "text":
        raise UserError(f"--from={source}: config.data.name = {of_tfds!r} reads it as it is; only texts are prepared from TFDS")
    if not of_tfds and (format == "npz" and not source.is_file() or format != "npz" and not source.is_dir()):
        raise UserError(f"--from={source}: expected a {'file' if format == 'npz' else 'folder'}, found "
                        f"{'nothing' if not source.exists() else 'another kind of thing'}")
    if (data_dir / name).exists() and not overwrite:
        raise UserError(f"data set {name!r} is already in {data_dir}; take another --name, or replace it with --overwrite")
    found = FORMATS[format](prepared_builder(of_tfds, str(data_dir)) if of_tfds else source, **options)
    write(name, found, data_dir, replace=overwrite)
    return {"name": name, "data_dir": str(data_dir), **found.summary(),
            "examples": {split: len(rows) for split, rows in found.splits.items()}}
