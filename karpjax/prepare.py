"""Prepare a data set on disk for config.data, without TensorFlow or a network.

    karpjax prepare --format=imagefolder --from=DIR --name=my_set    # DIR/train/CLASS/*.jpg, ...
    karpjax prepare --format=idx --from=DIR --name=fashion_mnist     # train-images-idx3-ubyte, ...
    karpjax prepare --format=cifar --from=DIR --name=cifar10         # data_batch_1.bin, ...
    karpjax prepare --format=npz --from=FILE --name=my_set           # x_train, y_train, x_test, ...
    karpjax prepare --format=text --from=DIR --name=imdb --length=256 --vocabulary=8192

    --data_dir=DIR     where to ("": $TFDS_DATA_DIR, or TFDS's default)
    --classes=a,b,c    names of the classes, for idx, cifar and npz
    --overwrite        replace a set of that name
    --strict           whatever would be left out or changed is an error
    --skip_broken      leave out pictures of an ImageFolder that cannot be read

For text (karpjax/datasets/text.py), from train.jsonl or train.txt, or with --from=tfds:imdb_reviews
from a set that TFDS has prepared in --data_dir:

    --length=N         of a row, in tokens (128)
    --vocabulary=N     train a tokenizer of that size (8192) on all splits but test and validation
    --tokenizer=JSON   or take this one
    --lowercase        it does not tell upper case from lower
    --pack             for pretraining: documents one after another in full rows; otherwise each has
                       a row of its own, with its label
    --without=FILE     leave out of these splits the texts that are in that file too: a test set's

The set is written in TFDS's format. Rows keep the files' order, so that train[:54000] are the first
54,000 images; those of an ImageFolder and of texts are shuffled, alike every time.
Also as python -m karpjax.prepare.
"""

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.datasets.formats import FORMATS, prepare
from karpjax.datasets.write import local_data_dir
from karpjax.run import cli
from karpjax.run.lock import Lock

FOR_TEXT = dict(length=0, vocabulary=0, tokenizer="", lowercase=False, pack=False, without="")


def main(argv):
    options = cli.parse(argv, __doc__, **{"from": str}, format=str, name=str, data_dir="",
                        classes="", overwrite=False, strict=False, skip_broken=False, **FOR_TEXT)
    text, folders = options.format == "text", options.format == "imagefolder"
    foreign = [*(("classes",) if text else FOR_TEXT), *(() if folders else ("skip_broken",))]
    for name in foreign:
        if options[name] and options.format in FORMATS:  # else `prepare` says which there are
            raise UserError(f"--{name} means nothing for --format={options.format}; leave it out")
    if options.tokenizer and (options.vocabulary or options.lowercase):
        raise UserError("--tokenizer brings its own vocabulary and case; "
                        "leave out --vocabulary and --lowercase")
    if text:
        own = {name: options[name] for name in ("lowercase", "pack", "without")}
        own |= dict(length=options.length or 128, vocabulary=options.vocabulary or 8192,
                    tokenizer_file=options.tokenizer)
    else:
        names = options.classes.split(",") if options.classes else []
        own = {"classes": [name.strip() for name in names]}
        own |= {"skip_broken": options.skip_broken} if folders else {}
    folder = local_data_dir(options.data_dir)
    # One at a time: two that replace a set would leave a mixture, or none.
    with Lock(folder / f".{options.name.replace('/', '_')}.lock",
              f"data set {options.name!r} in {folder}"):
        cli.print_json(prepare(options.format, options["from"], options.name, options.data_dir,
                               options.overwrite, options.strict, **own))


__getattr__ = old_names.attributes("prepare")

if __name__ == "__main__":
    cli.run(main)
