"""The formats that `karpjax.prepare` imports."""
import pathlib

from karpjax.core import files
from karpjax.core.errors import UserError, did_you_mean
from karpjax.datasets import images, pairs, text, token_files
from karpjax.datasets.coco import import_coco
from karpjax.datasets.imagefolder import import_imagefolder
from karpjax.datasets.masks import import_masks
from karpjax.datasets.tfds import prepared_builder
from karpjax.datasets.voc import import_voc
from karpjax.datasets.write import local_data_dir, recover_killed, write_dataset
from karpjax.datasets.yolo import import_yolo

FORMATS = {"imagefolder": import_imagefolder, "idx": images.import_idx,
           "cifar": images.import_cifar, "npz": images.import_npz, "text": text.import_texts,
           "pairs": pairs.import_pairs, "tokens": token_files.import_tokens, "coco": import_coco,
           "yolo": import_yolo, "voc": import_voc, "masks": import_masks}
TFDS = "tfds:"


def prepare(format: str, source, name: str, data_dir: str = "", overwrite: bool = False,
            strict: bool = False, **options) -> dict:
    """Import `source`, write it as data set `name`, and return a summary of what was written.

    A line says what was chosen, and what was left out or changed.

    source    a path; for format "text" also "tfds:NAME"
    strict    raise a UserError of what would be left out or changed
    options   those of the importer
    """
    tfds_name = str(source).removeprefix(TFDS) if str(source).startswith(TFDS) else ""
    source = source if tfds_name else files.local(source, "--from")
    data_dir = local_data_dir(data_dir)
    if format not in FORMATS:
        raise UserError(f"--format={format}{did_you_mean(format, FORMATS)}")
    if not name.isidentifier() or name != name.lower():
        raise UserError(f"--name={name}: expected lower-case letters, digits and underscores, "
                        "as in my_set")
    if tfds_name and format != "text":
        raise UserError(f"--from={source}: config.data.name = {tfds_name!r} reads it as it is; "
                        "only texts are prepared from TFDS")
    if not tfds_name:
        check_source_path(source, format)
    recover_killed(str(data_dir), name)
    if (data_dir / name).exists() and not overwrite:
        raise UserError(f"data set {name!r} is already in {data_dir}; take another --name, "
                        "or replace it with --overwrite")
    source = prepared_builder(tfds_name, str(data_dir)) if tfds_name else source
    dataset = FORMATS[format](source, **options)
    examples = {split: len(rows) for split, rows in dataset.splits.items()}
    dataset.account.report(f"tfds:{tfds_name}" if tfds_name else source, examples, strict)
    write = token_files.write_tokens if format == "tokens" else write_dataset
    if not write(name, dataset, data_dir, replace=overwrite):
        raise UserError(f"data set {name!r} was written to {data_dir} by another process "
                        "meanwhile; take another --name, or replace it with --overwrite")
    return {"name": name, "data_dir": str(data_dir), **dataset.summary(),
            "examples": examples}


def check_source_path(source: pathlib.Path, format: str) -> None:
    """Raise a UserError unless `source` is the file (npz) or folder that the format needs."""
    wanted, other = ("file", "folder") if format == "npz" else ("folder", "file")
    if not (source.is_file() if wanted == "file" else source.is_dir()):
        raise UserError(f"--from={source}: expected a {wanted}, "
                        f"found {f'a {other}' if source.exists() else 'nothing'}")
