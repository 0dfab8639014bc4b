"""Files of tokens for corpora of any size: one long row a split, mapped to memory when it is read.

    DIR/train.txt, DIR/train.jsonl     documents, as of format text: [CLS] document [SEP] ...
    DIR/train.npy                      or tokens that are there already: uint8, uint16 or uint32,
    DIR/train.bin, DIR/train.json      or plain numbers of the dtype {"dtype": "uint16"}

A prepared set has NAME/1.0.0/train.bin, ... and tokens.json: their dtype, lengths and tokenizer.
"""
import dataclasses
import json
import math
import pathlib
import types

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.trees import first_line
from karpjax.datasets.account import Account, is_hidden
from karpjax.datasets.characters import stored_vocabulary
from karpjax.datasets.columns import shared_with_train
from karpjax.datasets.content import check_whole
from karpjax.datasets.documents import documents_in_folder
from karpjax.datasets.images import first_names
from karpjax.datasets.text import (
    BATCH,
    MARKS,
    encode_texts,
    leave_out,
    make_vocabulary,
    read_tokenizer,
    shuffle_documents,
)
from karpjax.datasets.tokenizer import Vocabulary
from karpjax.datasets.write import (
    VERSION,
    check_split_names,
    default_data_dir,
    local_data_dir,
    prepare_once,
    recover_killed,
)

DTYPES = ("uint8", "uint16", "uint32")
HEAD = "tokens.json"


@dataclasses.dataclass
class TokenSet:
    """Long rows of tokens, ready to be written.

    splits    {"train": (N,) tokens}, in memory or mapped to it, of one dtype
    account   what was chosen and left out
    """
    splits: dict[str, np.ndarray]
    vocabulary: Vocabulary
    account: Account

    def head(self) -> dict:
        """Return the facts that are kept beside the files."""
        return {"dtype": self.splits["train"].dtype.name,
                "tokens": {split: len(row) for split, row in self.splits.items()},
                "tokenizer": self.vocabulary.json, "fingerprint": self.vocabulary.fingerprint}

    def summary(self) -> dict:
        """Return the facts that karpjax.prepare prints."""
        return {"dtype": self.splits["train"].dtype.name, "vocabulary": self.vocabulary.size,
                "fingerprint": self.vocabulary.fingerprint}


# --------------------------------------------------------------------------------------- to prepare

def import_tokens(folder: pathlib.Path, vocabulary: int, tokenizer_file: str = "",
                  lowercase: bool = False, characters: bool = False,
                  without: str = "") -> TokenSet:
    """Import the texts of a folder, or its files of tokens, as long rows of tokens.

    folder       DIR, see the module
    vocabulary, tokenizer_file, lowercase, characters, without    as of texts (text.py). Files of
                 tokens need the tokenizer that made them
    """
    account = Account()
    if arrays := array_files(folder, account, tokenizer_file):
        if without:
            raise UserError(f"--without={without} leaves documents out, and --from={folder} has "
                            "tokens; leave it out")
        if not tokenizer_file:
            raise UserError(f"--from={folder}: files of tokens mean nothing without the tokenizer "
                            "that made them; give --tokenizer=JSON")
        tokens = stored_vocabulary(read_tokenizer(tokenizer_file))
        splits = {split: open_array(path, tokens.size) for split, path in arrays.items()}
        check_dtypes(splits, folder)
    else:
        documents = {split: shuffle_documents(each)
                     for split, each in documents_in_folder(folder, account).items()}
        if without:
            documents = leave_out(documents, without, account)
        texts = {split: [each.text for each in documents[split]] for split in documents}
        tokens = make_vocabulary(texts, account, vocabulary, tokenizer_file, lowercase,
                                 characters, marks=MARKS[:2])
        splits = {split: in_one_row(each, tokens) for split, each in texts.items()}
        shared = shared_with_train(texts)
        account.choices += ["documents in one row, shuffled", *([shared] if shared else [])]
    account.choices.append(f"tokens of {tokens.size}")
    return TokenSet(splits, tokens, account)


def in_one_row(texts: list[str], vocabulary: Vocabulary) -> np.ndarray:
    """Return (N,) uint16: [CLS] document [SEP], one after another."""
    parts = []
    for i in range(0, len(texts), BATCH):  # lists of Python's integers take 4 times the memory
        parts += [vocabulary.framed(ids, len(ids) + 2).astype(np.uint16)
                  for ids in encode_texts(texts[i:i + BATCH], vocabulary)]
    return np.concatenate(parts)


def array_files(folder: pathlib.Path, account: Account,
                tokenizer_file: str = "") -> dict[str, pathlib.Path]:
    """Return {"train": file, ...} of the files of tokens in a folder, {} if there are none."""
    paths, others = {}, []
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".npy", ".bin") or is_hidden(path):
            others.append(path)
        elif path.stem in paths:
            raise UserError(f"{path}: expected one file of {path.stem}, found "
                            f"{paths[path.stem].name} beside it; move one of them away")
        else:
            paths[path.stem] = path
    if paths and "train" not in paths:
        raise UserError(f"--from={folder}: expected train.npy or train.bin, found "
                        f"{first_names(folder)}")
    if paths:
        read = {path.with_suffix(".json") for path in paths.values() if path.suffix == ".bin"}
        read |= {folder / pathlib.Path(tokenizer_file).name}
        account.leave_out("files that are no tokens (.npy, .bin) are left out",
                          *(path.name for path in others if path not in read))
    return paths


def open_array(path: pathlib.Path, size: int) -> np.ndarray:
    """Map a file of tokens below `size` to memory, or raise a UserError of what it is."""
    row = open_npy(path) if path.suffix == ".npy" else open_bin(path)
    # a name has no byte order: that of >u2 is uint16 too
    known = row.dtype.name in DTYPES and row.dtype.isnative
    if row.ndim != 1 or not known or not len(row):
        raise UserError(f"{path}: expected one row of {', '.join(DTYPES)}, found "
                        f"{row.dtype} of {row.shape}; save tokens.astype(np.uint16).ravel()")
    if (highest := int(row.max())) >= size:
        raise UserError(f"{path}: expected tokens of 0 to {size - 1}, as the tokenizer has, found "
                        f"{highest}; give the tokenizer, and the dtype, that made them")
    return row


def open_npy(path: pathlib.Path) -> np.ndarray:
    """Map a file of NumPy's to memory."""
    with files.in_one_line(path, ".npy", "write it with numpy.save"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def open_bin(path: pathlib.Path) -> np.ndarray:
    """Map a file of plain numbers to memory, of the dtype in the JSON beside it."""
    beside = path.with_suffix(".json")
    try:
        dtype = json.loads(beside.read_text())["dtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected its dtype beside it, in {beside.name}: "
                        f'{{"dtype": "uint16"}}, found {first_line(error)}; write it') from error
    if dtype not in DTYPES:
        raise UserError(f"{beside}: expected a dtype of {', '.join(DTYPES)}, found {dtype!r}")
    size, item = path.stat().st_size, np.dtype(dtype).itemsize
    return map_tokens(path, dtype, max(1, math.ceil(size / item)))


def map_tokens(path: pathlib.Path, dtype: str, count: int) -> np.ndarray:
    """Map `count` tokens to memory, or raise a UserError if the file is of another size."""
    size, expected = path.stat().st_size, count * np.dtype(dtype).itemsize
    if size != expected or not count:
        raise UserError(f"{path}: expected {expected} bytes, {count} tokens of {dtype}, found "
                        f"{size}; state the dtype that it was written with, or get it whole")
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # whose slices are quicker to make


def check_dtypes(splits: dict[str, np.ndarray], folder) -> None:
    """Raise a UserError unless all splits are of one dtype."""
    dtypes = {split: row.dtype.name for split, row in splits.items()}
    if len(set(dtypes.values())) > 1:
        raise UserError(f"--from={folder}: expected files of one dtype, found {dtypes}; store them "
                        "alike")


def write_tokens(name: str, dataset: TokenSet, data_dir="", replace: bool = False) -> bool:
    """Write a TokenSet as data set `name`, and return whether it was written."""
    check_split_names(dataset.splits)

    class Prepared:
        """As much of a TFDS builder as `prepare_once` calls."""

        def __init__(self, data_dir: str, file_format: str):
            self.data_dir = pathlib.Path(data_dir) / name / VERSION

        def download_and_prepare(self):
            self.data_dir.mkdir(parents=True)
            for split, row in dataset.splits.items():
                row.tofile(self.data_dir / f"{split}.bin")
            (self.data_dir / HEAD).write_text(json.dumps(dataset.head()))

    folder = local_data_dir(data_dir)
    return prepare_once(Prepared, folder, folder / name / VERSION, replace)


# ------------------------------------------------------------------------------------------ to read

def open_tokens(name: str, data_dir: str = "") -> tuple[pathlib.Path, dict, dict]:
    """Return (folder, its head, {"train": (N,) tokens mapped to memory, ...}) of a prepared set."""
    data_dir = default_data_dir(data_dir)
    folder = files.local(data_dir, "config.data.data_dir") / name / VERSION
    recover_killed(data_dir, name)
    if not (folder / HEAD).is_file():
        raise UserError(f"data set {name!r}: expected files of tokens in {folder}, found none; "
                        "prepare it with python -m karpjax.prepare --format=tokens, or leave out "
                        "config.data.length: rows that are prepared have their own")
    check_whole(folder, name)
    head = json.loads((folder / HEAD).read_text())
    return folder, head, {split: map_tokens(folder / f"{split}.bin", head["dtype"], count)
                          for split, count in head["tokens"].items()}


def part_of(splits: dict[str, np.ndarray], expression: str, name: str) -> np.ndarray:
    """Return the tokens of an expression such as "train[:90%]"."""
    import tensorflow_datasets as tfds
    counts = {split: types.SimpleNamespace(num_examples=len(row), shard_lengths=[len(row)])
              for split, row in splits.items()}
    try:
        part, = tfds.core.ReadInstruction.from_spec(expression).to_absolute(counts)
    except (AssertionError, KeyError, NotImplementedError, ValueError) as error:
        lengths = ", ".join(f"{split} {len(row)}" for split, row in splits.items())
        raise UserError(f"data set {name!r} has no part {expression!r} ({first_line(error)}); its "
                        f"tokens: {lengths}; expected one part, as in 'train[:90%]'") from error
    return splits[part.splitname][part.from_:part.to]
