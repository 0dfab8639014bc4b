"""Texts as people have them on disk or in TFDS, as rows of tokens: packed for pretraining, or a document a row to classify.

All is read into memory and checked before anything is written: for corpora of up to a few gigabytes.
"""
import collections
import dataclasses
import json
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets import tokenizer
from karpjax.datasets.tfds import in_order, open_split
from karpjax.datasets.tokenizer import Vocabulary

SUFFIXES = (".txt", ".jsonl")
HELD_OUT = ("test", "val", "validation")
BATCH = 1000  # documents encoded at once


@dataclasses.dataclass
class Document:
    text: str
    label: str = ""  # "": none


@dataclasses.dataclass
class Tokens:
    """Rows of one split: {"tokens": (N, T) uint16, "segments": (N, T) or "label": (N,)}."""
    columns: dict

    def __len__(self):
        return len(self.columns["tokens"])

    def __iter__(self):
        return ({name: column[i] for name, column in self.columns.items()} for i in range(len(self)))


@dataclasses.dataclass
class FoundText:
    """classes    names of the labels, by number; none in packed sets
    splits     {"train": rows}
    """
    classes: list[str]
    length: int
    vocabulary: Vocabulary
    splits: dict[str, Tokens]

    def features(self) -> dict:
        import tensorflow_datasets as tfds
        row = lambda: tfds.features.Tensor(shape=(self.length,), dtype=np.uint16)
        return {"tokens": row(), **({"label": tfds.features.ClassLabel(names=self.classes)} if self.classes else
                                    {"segments": row()})}

    def metadata(self) -> dict:
        return {"tokenizer": self.vocabulary.json, "length": self.length}

    def summary(self) -> dict:
        tokens = {split: int((rows.columns["tokens"] != self.vocabulary.pad).sum()) for split, rows in self.splits.items()}
        return {"classes": len(self.classes), "length": self.length, "vocabulary": self.vocabulary.size,
                "fingerprint": self.vocabulary.fingerprint, "tokens": tokens}


def text(source, length: int, vocabulary: int, tokenizer_file: str = "", lowercase: bool = False, pack: bool = False,
         without: str = "") -> FoundText:
    """`source` is a folder's path: DIR/train.jsonl, DIR/test.txt, ..., or more files a split in DIR/train/. A line of JSONL is
    a document, {"text": ...} and perhaps "label" (text, or a number; below 0: none); in a .txt file an empty line ends one.
    Or it is a TFDS builder of texts: imdb_reviews, glue/sst2.

    length       of a row, in tokens
    vocabulary   size of a tokenizer that is trained on all splits but HELD_OUT; or tokenizer_file, the JSON of one that was
    pack         documents one after another, cut into full rows; else one a row, cut at its end or padded, with its label
    without      a file; documents that stand in it too are left out of all splits but HELD_OUT, by their exact text
    """
    in_folder = isinstance(source, pathlib.Path)
    found, where = (in_files(source), source) if in_folder else (in_tfds(source), f"tfds:{source.name}")
    documents = {split: shuffled(each) for split, each in found.items()}
    seen = [split for split in documents if split not in HELD_OUT]
    if without:
        there = {each.text for each in read(pathlib.Path(without))}
        for split in seen:
            kept = [each for each in documents[split] if each.text not in there]
            if not kept:
                raise UserError(f"--without={without}: every document of {split} stands in it; expected some that do not")
            print(f"{split}: {len(documents[split]) - len(kept)} documents were left out, they stand in {without}")
            documents[split] = kept
    if not pack:
        documents = labelled(documents, where)
    classes = [] if pack else classes_of(documents, where)
    made = read_tokenizer(tokenizer_file) if tokenizer_file else \
        tokenizer.train((each.text for split in seen for each in documents.get(split, ())), vocabulary, lowercase)
    vocabulary = tokenizer.vocabulary_of(made)
    if vocabulary.size > 1 << 16:
        raise UserError(f"a vocabulary of {vocabulary.size}: expected at most {1 << 16}, tokens are stored in 16 bits")
    if length < 8:
        raise UserError(f"--length={length}: expected at least 8 tokens")
    rows = {}
    for split, each in documents.items():
        ids = encoded(each, vocabulary)
        if cut := sum(len(one) + 2 > length for one in ids) * (not pack):
            print(f"{split}: {cut} of {len(ids)} documents are longer than a row of {length} tokens, their ends were cut off")
        rows[split] = Tokens(packed(ids, length, vocabulary) if pack else
                             single(ids, [classes.index(one.label) for one in each], length, vocabulary))
    return FoundText(classes, length, vocabulary, rows)


# --------------------------------------------------------------------------------------------------------------- files

def in_files(folder: pathlib.Path) -> dict[str, list[Document]]:
    return {split: [each for file in files for each in read(file)] for split, files in files_of(folder).items()}


def files_of(source: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{"train": files, ...}: files by their name, folders by theirs."""
    found = {}
    for path in sorted(source.iterdir()):
        if path.is_dir() and (files := [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES]):
            found.setdefault(path.name, []).extend(files)
        elif path.suffix in SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    if "train" not in found:
        raise UserError(f"--from={source}: expected train.jsonl, train.txt, or such files in {source / 'train'}; found "
                        f"{', '.join(sorted(p.name for p in source.iterdir())[:10]) or 'nothing'}")
    return found


def read(file: pathlib.Path) -> list[Document]:
    """The documents of one file; what is wrong with it is said with its line."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    decoded = []
    for i, line in enumerate(lines, 1):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, line {i}: not UTF-8 (byte {error.object[error.start]:#x} at {error.start}); store the "
                            "file as UTF-8") from error
    if file.suffix == ".jsonl":
        documents = [parsed(line, f"{file}, line {i}") for i, line in enumerate(decoded, 1) if line.strip()]
    else:
        paragraphs = "\n".join(map(str.rstrip, decoded)).split("\n\n")
        documents = [Document(each.strip()) for each in paragraphs if each.strip()]
    if not documents:
        raise UserError(f"{file}: no document in it; expected text, found {'nothing' if lines == [b''] else 'empty lines'}")
    return documents


def parsed(line: str, where: str) -> Document:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at {error.pos}); expected a line {{\"text\": ...}}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f"{where}: expected an object with a text, {{\"text\": \"...\"}}, found {line[:60]}")
    try:
        row["text"].encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a surrogate pair (character {error.start} of the text), which is no character; "
                        "leave it out") from error
    label = row.get("label", "")
    return Document(row["text"], "" if label is None or isinstance(label, int) and label < 0 else str(label))


def read_tokenizer(file: str) -> str:
    path = pathlib.Path(file)
    if not path.is_file():
        raise UserError(f"--tokenizer={file}: no such file; expected a tokenizer's JSON")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"--tokenizer={file}: not text; expected a tokenizer's JSON") from error


# ---------------------------------------------------------------------------------------------------------------- TFDS

def in_tfds(builder) -> dict[str, list[Document]]:
    """Its "text", or its only text by another name; its "label", by the name of the class."""
    from tensorflow_datasets import features as kinds
    features = dict(builder.info.features.items())
    texts = sorted(name for name, feature in features.items() if isinstance(feature, kinds.Text))
    name = "text" if "text" in texts else texts[0] if len(texts) == 1 else ""
    if not name or "train" not in builder.info.splits:
        raise UserError(f"data set {builder.name!r}: expected a split train and one text a row; found the splits "
                        f"{sorted(builder.info.splits)} and the texts {texts}; write it as JSONL, {{\"text\": ...}} a line")
    label = features.get("label") if isinstance(features.get("label"), kinds.ClassLabel) else None

    def document(row) -> Document:
        return Document(row[name].decode(), label.int2str(row["label"]) if label and row["label"] >= 0 else "")

    return {split: [document(row) for row in in_order(open_split(builder, split), f"{builder.name}/{split}")]
            for split in builder.info.splits}


# ---------------------------------------------------------------------------------------------------------------- rows

def shuffled(documents: list) -> list:
    """All classes and authors in every part of a split, as in train[:10%]; alike every time."""
    return [documents[i] for i in np.random.default_rng(0).permutation(len(documents))]


def labelled(documents: dict, source) -> dict:
    """Without the splits that have no labels at all."""
    kept = {split: each for split, each in documents.items() if any(one.label for one in each)}
    left_out = sorted(set(documents) - set(kept))
    if left_out:
        print(f"{', '.join(left_out)}: no document has a label, left out")
    if "train" not in kept:
        raise UserError(f"{source}, train: no document has a label; prepare texts without labels with --pack")
    return kept


def classes_of(documents: dict, source) -> list[str]:
    """The labels of the train split, numbers in their order; every document of every split must have one of them."""
    labels = {each.label for each in documents["train"]}
    classes = sorted(labels - {""}, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))
    for split, each in documents.items():
        counts = collections.Counter(one.label for one in each)
        if counts[""]:
            raise UserError(f"{source}, {split}: {counts['']} of {len(each)} documents have no label; leave them out, or "
                            "prepare texts without labels with --pack")
        outside = sorted(set(counts) - set(classes))
        if outside:
            raise UserError(f"{source}, {split}: labels outside the train split's: {', '.join(outside[:10])}; expected "
                            f"{', '.join(classes[:10])}")
    return classes


def encoded(documents: list[Document], vocabulary: Vocabulary) -> list[list[int]]:
    """Ids of each document, without special tokens."""
    library = tokenizer.load(vocabulary.json)
    library.encode_special_tokens = True  # "[PAD]" in a document is text
    texts = [each.text for each in documents]
    return [each.ids for i in range(0, len(texts), BATCH)
            for each in library.encode_batch(texts[i:i + BATCH], add_special_tokens=False)]


def packed(documents: list[list[int]], length: int, vocabulary: Vocabulary) -> dict:
    """[CLS] document [SEP], one after another, in rows: {"tokens": (N, T), "segments": (N, T)}, numbered in each row from 1. A
    document that a row's end cuts goes on in the next as a segment of its own; the last row is padded.
    """
    flat = np.concatenate([vocabulary.framed(ids, len(ids) + 2) for ids in documents])
    number = np.repeat(np.arange(len(documents)), [len(ids) + 2 for ids in documents])
    padding = -len(flat) % length
    tokens = np.pad(flat, (0, padding), constant_values=vocabulary.pad).reshape(-1, length)
    number = np.pad(number, (0, padding), mode="edge").reshape(-1, length)
    segments = number - number[:, :1] + 1
    if padding:
        segments[-1, -padding:] = 0
    return {"tokens": tokens.astype(np.uint16), "segments": segments.astype(np.uint16)}


def single(documents: list[list[int]], labels: list[int], length: int, vocabulary: Vocabulary) -> dict:
    """A document a row: {"tokens": (N, T), "label": (N,)}."""
    rows = np.stack([vocabulary.framed(ids, length) for ids in documents])
    return {"tokens": rows.astype(np.uint16), "label": np.asarray(labels)}
