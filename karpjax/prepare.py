"""Prepare a data set on disk for config.data, without TensorFlow or a network.

    karpjax prepare --format=imagefolder --from=DIR --name=my_set    # DIR/train/CLASS/*.jpg, ...
    karpjax prepare --format=idx --from=DIR --name=fashion_mnist     # train-images-idx3-ubyte, ...
    karpjax prepare --format=cifar --from=DIR --name=cifar10         # data_batch_1.bin, ...
    karpjax prepare --format=npz --from=FILE --name=my_set           # x_train, y_train, x_test, ...
    karpjax prepare --format=text --from=DIR --name=imdb --length=256 --vocabulary=8192
    karpjax prepare --format=pairs --from=DIR --name=multi30k --languages=en,de --length=64
    karpjax prepare --format=tokens --from=DIR --name=news --vocabulary=32768
    karpjax prepare --format=coco --from=DIR --name=bccd             # instances_train.json, train/
    karpjax prepare --format=yolo --from=DIR --name=bees             # images/train/, labels/train/
    karpjax prepare --format=voc --from=DIR --name=voc2007           # JPEGImages/, Annotations/
    karpjax prepare --format=masks --from=DIR --name=camvid --classes=sky,road,...
                                                                     # train/, train_masks/

    --data_dir=DIR     where to ("": $TFDS_DATA_DIR, or TFDS's default)
    --classes=a,b,c    names of the classes, for idx, cifar, npz, yolo, voc and masks
    --overwrite        replace a set of that name
    --strict           whatever would be left out or changed is an error
    --skip_broken      leave out pictures in files that cannot be read

For text (karpjax/datasets/text.py), from train.jsonl or train.txt, or with --from=tfds:imdb_reviews
from a set that TFDS has prepared in --data_dir:

    --length=N         of a row, in tokens (128)
    --vocabulary=N     train a tokenizer of that size (8192) on all splits but test, validation, dev
    --tokenizer=JSON   or take this one
    --lowercase        it does not tell upper case from lower
    --characters       or take the characters of all splits as tokens
    --pack             for pretraining: documents one after another in full rows; otherwise each has
                       a row of its own, with its label
    --without=FILE     leave out of these splits the texts that are in that file too: a test set's

For tokens (karpjax/datasets/token_files.py), whose windows are rows of any length, from such texts
or from train.npy or train.bin with their tokenizer: --vocabulary, --tokenizer, --lowercase,
--characters and --without as above.

For pairs (karpjax/datasets/pairs.py), from train.en and train.de, or from train.jsonl:

    --languages=en,de  suffixes of the files of lines, the source's first; without it: JSONL
    --length=N         of a row, in tokens (64)
    --vocabulary=N     train a tokenizer of that size (8192) on both sides of train
    --tokenizer=JSON   or take this one
    --pack             as many pairs in a row of train as fit: less padding to compute on

The set is written in TFDS's format, except files of tokens. Rows keep the files' order, so that
train[:54000] are the first 54,000 images; those of an ImageFolder, of texts, and of pictures with
boxes or masks are shuffled, alike every time.
Also as python -m karpjax.prepare.
"""

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.datasets.formats import FORMATS, prepare
from karpjax.datasets.write import local_data_dir
from karpjax.run import cli
from karpjax.run.lock import Lock

OF_TEXTS = dict(length=0, vocabulary=0, tokenizer="", lowercase=False, characters=False, pack=False,
                without="", languages="")
# Options that mean something for some formats alone.
OWN = {**dict.fromkeys(("idx", "cifar", "npz"), ("classes",)),
       **dict.fromkeys(("imagefolder", "yolo", "voc", "masks"), ("classes", "skip_broken")),
       "coco": ("skip_broken",),
       "text": tuple(name for name in OF_TEXTS if name != "languages"),
       "tokens": ("vocabulary", "tokenizer", "lowercase", "characters", "without"),
       "pairs": ("length", "vocabulary", "tokenizer", "pack", "languages")}


def main(argv):
    options = cli.parse(argv, __doc__, **{"from": str}, format=str, name=str, data_dir="",
                        classes="", overwrite=False, strict=False, skip_broken=False, **OF_TEXTS)
    format = options.format
    for name in sorted({name for own in OWN.values() for name in own}):
        # `prepare` says which formats there are
        if options[name] and format in FORMATS and name not in OWN[format]:
            raise UserError(f"--{name} means nothing for --format={format}; leave it out")
    if options.tokenizer and (options.vocabulary or options.lowercase or options.characters):
        raise UserError("--tokenizer brings its own vocabulary and case; "
                        "leave out --vocabulary, --lowercase and --characters")
    if options.characters and (options.vocabulary or options.lowercase):
        raise UserError("--characters are the vocabulary as they are; leave out --vocabulary and "
                        "--lowercase")
    own = {name: options[name] for name in OWN.get(format, ())}
    for name in {"classes", "languages"} & own.keys():
        own[name] = [each.strip() for each in own[name].split(",")] if own[name] else []
    if "length" in own:
        own["length"] = options.length or (64 if format == "pairs" else 128)
    if "tokenizer" in own:
        own |= dict(vocabulary=options.vocabulary or 8192, tokenizer_file=own.pop("tokenizer"))
    folder = local_data_dir(options.data_dir)
    # One at a time: two that replace a set would leave a mixture, or none.
    with Lock(folder / f".{options.name.replace('/', '_')}.lock",
              f"data set {options.name!r} in {folder}"):
        cli.print_json(prepare(format, options["from"], options.name, options.data_dir,
                               options.overwrite, options.strict, **own))


__getattr__ = old_names.attributes("prepare")

if __name__ == "__main__":
    cli.run(main)
