"""A data set as you have it on disk, prepared for config.data: TFDS's format, without TensorFlow and without a network.

    python -m karpjax.prepare --format=imagefolder --from=DIR --name=my_set    DIR/train/CLASS/*.jpg, DIR/val/CLASS/*.jpg
    python -m karpjax.prepare --format=idx --from=DIR --name=fashion_mnist     MNIST's files, train-images-idx3-ubyte.gz, ...
    python -m karpjax.prepare --format=cifar --from=DIR --name=cifar10         CIFAR's binary files, data_batch_1.bin, ...
    python -m karpjax.prepare --format=npz --from=FILE --name=my_set           a NumPy archive of x_train, y_train, x_test, ...
    python -m karpjax.prepare --format=text --from=DIR --name=imdb --length=256 --vocabulary=8192        DIR/train.jsonl, ...

    --data_dir=DIR     where to ("": $TFDS_DATA_DIR, or TFDS's default)
    --classes=a,b,c    names of the classes, for idx, cifar and npz
    --overwrite        replace a set of that name
    for text (karpjax/corpora.py): train.jsonl or train.txt, or --from=tfds:imdb_reviews, a set that TFDS has prepared in
                       --data_dir; --length of a row, in tokens (128)
    --vocabulary=N     train a tokenizer of that size (8192) on all splits but test and validation; or --tokenizer=JSON
    --lowercase        it does not tell upper case from lower
    --pack             for pretraining: documents one after another in full rows; else each in a row of its own, with its label
    --without=FILE     leave out of these splits what stands in that file too: a test set's texts

Rows keep the files' order, so that train[:54000] are the first 54,000 images; those of an ImageFolder and of texts are
shuffled, alike every time.
"""
import hashlib
import pathlib

from karpjax import cli, corpora, importers
from karpjax.errors import UserError, did_you_mean
from karpjax.sources.datasets import default_data_dir, prepare_once, prepared_builder

FORMATS = {"imagefolder": importers.imagefolder, "idx": importers.idx, "cifar": importers.cifar, "npz": importers.npz,
           "text": corpora.text}
FOR_TEXT = dict(length=0, vocabulary=0, tokenizer="", lowercase=False, pack=False, without="")
TFDS = "tfds:"
VERSION = "1.0.0"


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


def prepared_folder(folder, data_dir="") -> str:
    """The name of the data set of an ImageFolder as it is now: written on first use, and anew when a picture has changed."""
    name, data_dir = name_of_folder(folder), pathlib.Path(default_data_dir(str(data_dir)))
    if not (data_dir / name / VERSION).exists():
        print(f"{folder}: preparing its pictures as data set {name} in {data_dir}", flush=True)
        write(name, importers.imagefolder(pathlib.Path(folder).expanduser()), data_dir)
    return name


def name_of_folder(folder) -> str:
    """folder_HASH of SPLIT/CLASS/PICTURE: names, sizes and times; links are followed."""
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"config.data.dir = {str(folder)!r}: no such folder; expected one with train/CLASS/*.jpg in it")
    files = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(root.glob("*/*/*"))
             if path.suffix.lower() in importers.PICTURES and path.is_file()]
    return f"folder_{hashlib.sha256(repr(files).encode()).hexdigest()[:12]}"


def write(name: str, found: importers.Found | corpora.FoundText, data_dir="", replace: bool = False) -> None:
    """Write what was found as data set `name`, whole or not at all."""
    data_dir = pathlib.Path(default_data_dir(str(data_dir)))
    prepare_once(builder_class(name, found), data_dir, data_dir / name / VERSION, replace)


def builder_class(name: str, found: importers.Found | corpora.FoundText) -> type:
    """A TFDS builder that writes what was found, in its order."""
    import tensorflow_datasets as tfds
    features, metadata = tfds.features.FeaturesDict(found.features()), tfds.core.MetadataDict(found.metadata())

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, metadata=metadata,
                                         disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in found.splits.items()}

        def _generate_examples(self, rows):
            return enumerate(rows)
    Prepared.name = name
    return Prepared


def main(argv):
    options = cli.parse(argv, __doc__, **{"from": str}, format=str, name=str, data_dir="", classes="", overwrite=False,
                        **FOR_TEXT)
    text = options.format == "text"
    for name in ("classes",) if text else FOR_TEXT:
        if options[name]:
            raise UserError(f"--{name} means nothing for --format={options.format}; leave it out")
    if options.tokenizer and (options.vocabulary or options.lowercase):
        raise UserError("--tokenizer brings its own vocabulary and case; leave out --vocabulary and --lowercase")
    if text:
        own = {name: options[name] for name in ("lowercase", "pack", "without")}
        own |= dict(length=options.length or 128, vocabulary=options.vocabulary or 8192, tokenizer_file=options.tokenizer)
    else:
        own = {"classes": [each.strip() for each in options.classes.split(",")] if options.classes else []}
    cli.print_json(prepare(options.format, options["from"], options.name, options.data_dir, options.overwrite, **own))


if __name__ == "__main__":
    cli.run(main)
