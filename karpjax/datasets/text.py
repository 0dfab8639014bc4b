"""Texts as people have them on disk or in TFDS, imported as data sets of rows of tokens.

Rows are packed for pretraining, or hold a document each to classify. All is read into memory and
checked before anything is written: for corpora of up to a few gigabytes.
"""
import collections
import dataclasses
import functools
import pathlib

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.datasets.account import Account
from karpjax.datasets.characters import characters_of, stored_vocabulary
from karpjax.datasets.columns import shared_with_train
from karpjax.datasets.documents import Document, documents_in_folder, read_documents
from karpjax.datasets.tfds import iterate_records, open_split
from karpjax.datasets.tokenizer import Vocabulary, train_tokenizer, vocabulary_of
from karpjax.datasets.write import class_names

HELD_OUT = ("test", "val", "valid", "validation", "dev", "eval")
BATCH = 1000  # documents encoded at once
MARKS = ("cls", "sep", "pad")  # tokens of a vocabulary: begin a text, end it, fill its row


@dataclasses.dataclass
class TokenRows:
    """Rows of one split: {"tokens": (N, T) uint16, "segments": (N, T) or "label": (N,)}.

    Pairs are {"source": (N, T), "target": (N, T)}.
    """
    columns: dict

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __iter__(self):
        return ({name: column[i] for name, column in self.columns.items()}
                for i in range(len(self)))


@dataclasses.dataclass
class TextSet:
    """Rows of tokens, ready to be written.

    classes    names of the labels, by number; none in packed sets and pairs
    length     of a row, in tokens
    splits     {"train": rows}
    account    what was chosen and left out
    """
    classes: list[str]
    length: int
    vocabulary: Vocabulary
    splits: dict[str, TokenRows]
    account: Account = dataclasses.field(default_factory=Account)

    def features(self) -> dict:
        """Return TFDS's features of a row."""
        import tensorflow_datasets as tfds

        def feature(name: str):
            return tfds.features.ClassLabel(names=self.classes) if name == "label" else \
                tfds.features.Tensor(shape=(self.length,), dtype=np.uint16)
        return {name: feature(name) for name in self.splits["train"].columns}

    def metadata(self) -> dict:
        """Return the tokenizer, its hash and the length of a row, which are kept with the set."""
        return {"tokenizer": self.vocabulary.json, "fingerprint": self.vocabulary.fingerprint,
                "length": self.length}

    def summary(self) -> dict:
        """Return the facts that karpjax.prepare prints."""
        tokens = {split: tokens_in(rows.columns, self.vocabulary.pad)
                  for split, rows in self.splits.items()}
        return {"classes": len(self.classes), "length": self.length,
                "vocabulary": self.vocabulary.size, "fingerprint": self.vocabulary.fingerprint,
                "tokens": tokens}


def import_texts(source, length: int, vocabulary: int, tokenizer_file: str = "",
                 lowercase: bool = False, characters: bool = False, pack: bool = False,
                 without: str = "") -> TextSet:
    """Import a folder of texts, or a TFDS set of them, as rows of tokens.

    source       a folder's path: DIR/train.jsonl, DIR/test.txt, ..., or more files a split in
                 DIR/train/. A line of JSONL is a document, {"text": ...} and perhaps "label" (text,
                 or a number; below 0: none); in a .txt file an empty line ends one.
                 Or a TFDS builder of texts: imdb_reviews, glue/sst2
    length       of a row, in tokens
    vocabulary   size of the tokenizer, which is trained on all splits but HELD_OUT
    tokenizer_file   the JSON of a trained tokenizer, in place of that
    lowercase    whether it reads upper case as lower
    characters   the characters of all splits are the tokens, in place of a trained tokenizer
    pack         documents one after another, cut into full rows; else one document a row with its
                 label, cut at its end or padded
    without      a file whose documents are left out of all splits but HELD_OUT, by their exact text
    """
    if length < 8:
        raise UserError(f"--length={length}: expected at least 8 tokens")
    in_folder, account = isinstance(source, pathlib.Path), Account()
    documents = documents_in_folder(source, account) if in_folder else documents_in_tfds(source)
    where = source if in_folder else f"tfds:{source.name}"
    documents = {split: shuffle_documents(each) for split, each in documents.items()}
    if without:
        documents = leave_out(documents, without, account)
    if not pack:
        documents = keep_labelled(documents, where, account)
    classes = [] if pack else classes_of(documents, where)
    texts = {split: [each.text for each in documents[split]] for split in documents}
    tokens = make_vocabulary(texts, account, vocabulary, tokenizer_file, lowercase, characters,
                             marks=MARKS[:2] if pack else MARKS)
    rows = {}
    for split, each in documents.items():
        ids = encode_texts(texts[split], tokens)
        if pack:
            columns = pack_documents(ids, length, tokens)
        else:
            account.losses += cut_off(split, ids, length)
            labels = [classes.index(one.label) for one in each]
            columns = pad_documents(ids, labels, length, tokens)
        rows[split] = TokenRows(columns)
    how = "packed" if pack else f"{len(classes)} classes, a document a row, shuffled"
    account.choices += [how, f"rows of {length} tokens of {tokens.size}"]
    shared = shared_with_train(texts)
    account.choices += [shared] if shared else []
    return TextSet(classes, length, tokens, rows, account)


def leave_out(documents: dict, without: str, account: Account) -> dict:
    """Leave the documents of the file `without` out of all splits but HELD_OUT."""
    held_out = {each.text for each in read_documents(files.local(without, "--without"))}
    kept = dict(documents)
    for split in documents:
        if split in HELD_OUT:
            continue
        kept[split] = [each for each in documents[split] if each.text not in held_out]
        if not kept[split]:
            raise UserError(f"--without={without}: every document of {split} stands in it; "
                            "expected some that do not")
        account.choices.append(f"{split}: {len(documents[split]) - len(kept[split])} documents "
                               f"were left out, they stand in {without}")
    return kept


def cut_off(split: str, documents: list[list[int]], length: int) -> list[str]:
    """Return the sentence that documents lose their ends in rows of `length`, if any do."""
    cut = sum(len(ids) + 2 > length for ids in documents)
    return [f"{split}: {cut} of {len(documents)} documents are longer than a row of {length} "
            "tokens, their ends were cut off"] if cut else []


# ------------------------------------------------------------------------------------- tokenizers

def make_vocabulary(texts: dict[str, list[str]], account: Account, size: int,
                    tokenizer_file: str = "", lowercase: bool = False,
                    characters: bool = False, marks: tuple = MARKS) -> Vocabulary:
    """Return the vocabulary of texts {"train": ..., ...}, by the options of `import_texts`.

    marks   that it must have, of MARKS
    """
    if tokenizer_file:
        vocabulary = stored_vocabulary(read_tokenizer(tokenizer_file))
    elif characters:
        vocabulary = characters_of((text for each in texts.values() for text in each), special=True)
        account.choices.append(f"the characters of the texts in {', '.join(texts)}")
    else:
        read = [split for split in texts if split not in HELD_OUT]
        learned = (text for split in read for text in texts[split])
        vocabulary = vocabulary_of(train_tokenizer(learned, size, lowercase))
        account.choices.append(f"a tokenizer of the texts in {', '.join(read)}")
    if vocabulary.size > 1 << 16:
        raise UserError(f"a vocabulary of {vocabulary.size}: expected at most {1 << 16}, tokens "
                        "are stored in 16 bits")
    check_marks(vocabulary, marks)
    return vocabulary


def check_marks(vocabulary: Vocabulary, marks: tuple) -> None:
    """Raise a UserError if a tokenizer lacks one of these marks, of MARKS.

    GPT-2's has no padding, and the characters of a corpus have no marks at all.
    """
    if lacking := [mark for mark in marks if getattr(vocabulary, mark) < 0]:
        raise UserError(f"--tokenizer: expected one with the tokens {', '.join(marks)}, found no "
                        f"{', '.join(lacking)} among its {vocabulary.size}; take one that "
                        "karpjax.prepare trained (packed texts need no pad)")


def read_tokenizer(file: str) -> str:
    """Read a tokenizer's JSON."""
    path = files.local(file, "--tokenizer")
    if not path.is_file():
        raise UserError(f"--tokenizer={file}: no such file; expected a tokenizer's JSON")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"--tokenizer={file}: not text; expected a tokenizer's JSON") from error


# ------------------------------------------------------------------------------------------- TFDS

def documents_in_tfds(builder) -> dict[str, list[Document]]:
    """Read {"train": documents, ...} from a TFDS set.

    The text is the feature "text", or the only text by another name. The label is the name of the
    class of "label".
    """
    from tensorflow_datasets import features as kinds
    features = dict(builder.info.features.items())
    texts = sorted(name for name, feature in features.items() if isinstance(feature, kinds.Text))
    name = "text" if "text" in texts else texts[0] if len(texts) == 1 else ""
    if not name or "train" not in builder.info.splits:
        raise UserError(f"data set {builder.name!r}: expected a split train and one text a row; "
                        f"found the splits {sorted(builder.info.splits)} and the texts {texts}; "
                        "write it as JSONL, {\"text\": ...} a line")
    label = features.get("label") if isinstance(features.get("label"), kinds.ClassLabel) else None

    def document(row) -> Document:
        known = label and row["label"] >= 0
        return Document(row[name].decode(), label.int2str(row["label"]) if known else "")

    def documents(split: str) -> list[Document]:
        rows = iterate_records(open_split(builder, split), f"{builder.name}/{split}")
        return [document(row) for row in rows]
    return {split: documents(split) for split in builder.info.splits}


# ------------------------------------------------------------------------------------------- rows

def shuffle_documents(documents: list) -> list:
    """Return the documents in a random order, alike every time.

    So every part of a split, as train[:10%], has all classes and authors.
    """
    order = np.random.default_rng(0).permutation(len(documents))
    return [documents[i] for i in order]


def keep_labelled(documents: dict, where, account: Account) -> dict:
    """Leave out the splits that have no labels at all, except that train must have some."""
    kept = {split: each for split, each in documents.items() if any(one.label for one in each)}
    left_out = sorted(set(documents) - set(kept))
    if left_out:
        account.losses.append(f"{', '.join(left_out)}: no document has a label, left out")
    if "train" not in kept:
        others = "".join(f" ({loss})" for loss in account.all_losses() if "by other names" in loss)
        raise UserError(f"{where}, train: no document has a label{others}; prepare texts without "
                        "labels with --pack")
    return kept


def classes_of(documents: dict, where) -> list[str]:
    """Return the labels of the train split, numbers in their order.

    A UserError reports a document without one of them, in any split.
    """
    classes = sorted({each.label for each in documents["train"]} - {""}, key=label_order)
    class_names(classes, f"{where}, train")
    for split, each in documents.items():
        counts = collections.Counter(one.label for one in each)
        if counts[""]:
            raise UserError(f"{where}, {split}: {counts['']} of {len(each)} documents have no "
                            "label; leave them out, or prepare texts without labels with --pack")
        outside = sorted(set(counts) - set(classes))
        if outside:
            raise UserError(f"{where}, {split}: labels outside the train split's: "
                            f"{', '.join(outside[:10])}; expected {', '.join(classes[:10])}")
    return classes


def label_order(label: str) -> tuple:
    """Return a sort key: numbers first, by value, then words."""
    return not label.isdecimal(), int(label) if label.isdecimal() else 0, label


def encode_texts(texts: list[str], vocabulary: Vocabulary, target: bool = False) -> list[list[int]]:
    """Return the ids of each text, or each translation if `target`, without special tokens."""
    encode = vocabulary.target_ids if target else functools.partial(vocabulary.ids, masks=False)
    return [ids for i in range(0, len(texts), BATCH) for ids in encode(texts[i:i + BATCH])]


def pack_documents(documents: list[list[int]], length: int, vocabulary: Vocabulary) -> dict:
    """Return full rows of [CLS] document [SEP]: {"tokens": (N, T), "segments": (N, T)}.

    Segments number the documents of each row from 1. A document that a row's end cuts goes on in
    the next row as a segment of its own. The last row is padded.
    """
    flat = np.concatenate([vocabulary.framed(ids, len(ids) + 2) for ids in documents])
    number = np.repeat(np.arange(len(documents)), [len(ids) + 2 for ids in documents])
    padding = -len(flat) % length
    # Segments say what is padding, for a vocabulary without a token of its own too.
    tokens = np.pad(flat, (0, padding), constant_values=max(vocabulary.pad, 0)).reshape(-1, length)
    number = np.pad(number, (0, padding), mode="edge").reshape(-1, length)
    segments = number - number[:, :1] + 1
    if padding:
        segments[-1, -padding:] = 0
    return {"tokens": tokens.astype(np.uint16), "segments": segments.astype(np.uint16)}


def tokens_in(columns: dict, pad: int) -> int:
    """Return the number of tokens in rows that are no padding."""
    if "segments" in columns:
        return int((columns["segments"] > 0).sum())
    return sum(int((column != pad).sum()) for name, column in columns.items() if name != "label")


def pad_documents(documents: list[list[int]], labels: list[int], length: int,
                  vocabulary: Vocabulary) -> dict:
    """Return a document a row: {"tokens": (N, T), "label": (N,)}."""
    rows = np.stack([vocabulary.framed(ids, length) for ids in documents])
    return {"tokens": rows.astype(np.uint16), "label": np.asarray(labels)}
