"""Pairs of texts, as for translation, imported as data sets of rows of tokens.

    DIR/train.en, DIR/train.de         a sentence a line, the same lines in both, perhaps .gz
    DIR/train.jsonl                    or {"source": "...", "target": "..."} a line

One tokenizer reads and writes both sides, so that a model needs one table.
"""
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account
from karpjax.datasets.columns import shared_with_train
from karpjax.datasets.documents import parse_object, read_lines
from karpjax.datasets.images import first_names
from karpjax.datasets.text import TextSet, TokenRows, encode_texts, make_vocabulary
from karpjax.datasets.tokenizer import Vocabulary

SIDES = ("source", "target")


def import_pairs(folder: pathlib.Path, length: int, vocabulary: int, languages: list[str],
                 tokenizer_file: str = "", pack: bool = False) -> TextSet:
    """Import pairs as rows {"source": (T,), "target": (T,)}: text [SEP] padding.

    folder       DIR, whose splits are its files' names: train, val, test_2016_flickr, ...
    length       of a row, in tokens. In train longer texts are cut, and so are sources elsewhere. A
                 longer target elsewhere is an error: a translation is compared with all of it
    vocabulary   size of the tokenizer, which is trained on both sides of train
    languages    [source's, target's] suffixes of the files: ["en", "de"]; []: JSONL
    tokenizer_file   the JSON of a trained tokenizer, in place of that
    pack         rows of train hold as many pairs as fit: text [SEP] text [SEP] padding, on both
                 sides the same pairs
    """
    if length < 8:
        raise UserError(f"--length={length}: expected at least 8 tokens")
    account = Account()
    splits = {split: read(*files, account) for split, (read, files)
              in readers(folder, languages, account).items()}
    both = [text for pair in splits["train"] for text in pair]
    tokens = make_vocabulary({"train": both}, account, vocabulary, tokenizer_file)
    rows = {}
    for split, pairs in splits.items():
        sources, targets = zip(*pairs, strict=True)
        ids = {"source": encode_texts(list(sources), tokens),
               "target": encode_texts(list(targets), tokens, target=True)}
        account.losses += cut_off(split, ids, length)
        if split != "train":
            account.losses += changed(split, targets, ids["target"], tokens)
        if pack and split == "train":
            ids = pack_pairs(ids, length, tokens)
            account.choices.append(f"train: {len(pairs)} pairs in {len(ids[SIDES[0]])} rows")
        rows[split] = TokenRows({side: end_rows(ids[side], length, tokens) for side in SIDES})
    shared = shared_with_train(splits)
    account.choices += [f"pairs in rows of {length} tokens of {tokens.size}, the same for both "
                        "sides", *([shared] if shared else [])]
    return TextSet([], length, tokens, rows, account)


def readers(folder: pathlib.Path, languages: list[str], account: Account) -> dict[str, tuple]:
    """Return {"train": (function, its files), ...} that read the pairs of a folder's splits."""
    if len(languages) not in (0, 2) or len(set(languages)) != len(languages):
        raise UserError(f"--languages={','.join(languages)}: expected the two suffixes of the "
                        "files, of the source first, as in en,de; or none for JSONL")
    suffixes = languages or ["jsonl"]
    files: dict[str, dict[str, pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        split, _, suffix = path.name.removesuffix(".gz").rpartition(".")
        if path.name.startswith(".") or suffix not in suffixes or path.is_dir():
            account.leave_out(f"files that do not end in {' or '.join(suffixes)} are left out",
                              path.name)
        elif not split.isidentifier() or suffix in files.get(split, {}):
            raise UserError(f"{path}: expected a split's name once, as in train.{suffix} or "
                            f"test_2016.{suffix}.gz; rename it, or remove the second")
        else:
            files.setdefault(split, {})[suffix] = path
    if "train" not in files:
        raise UserError(f"--from={folder}: expected "
                        f"{' and '.join(f'train.{suffix}' for suffix in suffixes)}, found "
                        f"{first_names(folder)}; name the suffixes with --languages=en,de")
    for split, sides in files.items():
        for suffix in suffixes:
            if suffix not in sides:
                raise UserError(f"{next(iter(sides.values()))}: expected {split}.{suffix} beside "
                                "it, found no such file; add it, or move this one elsewhere")
    read = read_sides if languages else read_jsonl
    return {split: (read, [sides[suffix] for suffix in suffixes])
            for split, sides in files.items()}


def read_sides(source: pathlib.Path, target: pathlib.Path, account: Account) -> list[tuple]:
    """Return the pairs of two files of lines, or raise a UserError with the line of the fault."""
    sides = [[line.strip() for line in read_lines(file)] for file in (source, target)]
    # after a last line end there is one more, empty
    sides = [lines[:-1] if lines[-1] == "" else lines for lines in sides]
    if len(sides[0]) != len(sides[1]):
        raise UserError(f"{source} has {len(sides[0])} lines, {target} has {len(sides[1])}; "
                        "expected as many, each the translation of the other's")
    for i, pair in enumerate(zip(*sides, strict=True), 1):
        check_pair(pair, [f"{file}, line {i}" for file in (source, target)])
    return whole(list(zip(*sides, strict=True)), source)


def read_jsonl(file: pathlib.Path, account: Account) -> list[tuple]:
    """Return the pairs of a file of JSON lines, or raise a UserError with the line of the fault."""
    pairs = []
    for i, line in enumerate(read_lines(file), 1):
        if line.strip():
            row = parse_object(line, f"{file}, line {i}", SIDES)
            account.leave_out("values by other names than source and target are not read",
                              *(name for name in row if name not in SIDES))
            pairs.append(tuple(row[side].strip() for side in SIDES))
            check_pair(pairs[-1], [f"{file}, line {i}, {side}" for side in SIDES])
    return whole(pairs, file)


def check_pair(pair: tuple, where: list[str]) -> None:
    """Raise a UserError if a side of a pair is empty."""
    for i, text in enumerate(pair):
        if not text:
            raise UserError(f"{where[i]}: expected a text, found none (the other side: "
                            f"{pair[1 - i][:40]!r}); leave the pair out")


def whole(pairs: list[tuple], file: pathlib.Path) -> list[tuple]:
    """Return the pairs of a file, or raise a UserError if there are none."""
    if not pairs:
        raise UserError(f"{file}: no pairs in it; expected a text a line, found nothing")
    return pairs


def cut_off(split: str, ids: dict[str, list], length: int) -> list[str]:
    """Return the sentences on texts that are cut, or raise a UserError if none may be."""
    cut = {side: sum(len(each) + 1 > length for each in ids[side]) for side in SIDES}
    if split != "train" and cut["target"]:
        longest = max(map(len, ids["target"])) + 1
        raise UserError(f"{split}: {cut['target']} of {len(ids['target'])} targets are longer than "
                        f"a row of {length} tokens, and a translation is compared with all of "
                        f"them; take --length={longest}")
    return [f"{split}: {count} of {len(ids[side])} {side}s are longer than a row of {length} "
            "tokens, their ends were cut off" for side, count in cut.items() if count]


def changed(split: str, targets: tuple, ids: list, vocabulary: Vocabulary) -> list[str]:
    """Return the sentence that targets are other texts once they are tokens, if any are.

    Translations are compared with the texts of these tokens, as a tokenizer in lower case has them.
    """
    back = [vocabulary.decode(each).strip() for each in ids]
    others = [pair for pair in zip(targets, back, strict=True) if pair[0] != pair[1]]
    return [f"{split}: {len(others)} of {len(targets)} targets are compared as their tokens have "
            f"them, as {others[0][1][:40]!r} for {others[0][0][:40]!r}"] if others else []


def pack_pairs(ids: dict[str, list], length: int, vocabulary: Vocabulary) -> dict[str, list]:
    """Return the sides of rows that pairs share, in their order, each without its last [SEP].

    A pair begins a new row if one of its sides does not fit.
    """
    rows: list[list[list[int]]] = []
    for pair in zip(*(ids[side] for side in SIDES), strict=True):
        if rows and all(len(row) + 1 + len(side) < length
                        for row, side in zip(rows[-1], pair, strict=True)):
            for row, side in zip(rows[-1], pair, strict=True):
                row += [vocabulary.sep, *side]
        else:
            rows.append([list(side) for side in pair])
    return {side: [row[i] for row in rows] for i, side in enumerate(SIDES)}


def end_rows(texts: list[list[int]], length: int, vocabulary: Vocabulary) -> np.ndarray:
    """Return (N, length) uint16: ids [SEP] padding, cut to fit."""
    rows = np.full((len(texts), length), vocabulary.pad, np.uint16)
    for row, ids in zip(rows, texts, strict=True):
        ids = [*ids[:length - 1], vocabulary.sep]
        row[:len(ids)] = ids
    return rows
