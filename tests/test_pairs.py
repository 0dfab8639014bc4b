"""python -m karpjax.prepare --format=pairs: every pair in its place, and errors in one line."""
import gzip
import json

from ml_collections import ConfigDict
import numpy as np
import pytest
from test_decoder_tokens import gpt2_tokenizer

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets.formats import prepare
from karpjax.datasets.pieces import Pieces
from karpjax.datasets.text import encode_texts
from karpjax.datasets.tokenizer import train_tokenizer
from karpjax.prepare import main as prepare_main

ENGLISH = [f"A dog runs, number {i}." for i in range(12)]
GERMAN = [f"Ein Hund läuft, Nummer {i}." for i in range(12)]


def lines_of(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train.en").write_bytes(lines_of(ENGLISH))
    (folder / "train.de").write_bytes(lines_of(GERMAN))
    (folder / "test_2016.en.gz").write_bytes(gzip.compress(lines_of(ENGLISH[:5])))
    (folder / "test_2016.de.gz").write_bytes(gzip.compress(lines_of(GERMAN[:5])))
    return folder


def make(raw, name="captions", **options):
    """Prepare the pairs of a folder, and return the report."""
    return prepare("pairs", raw, name, str(raw.parent / "tfds"),
                   **{"length": 40, "vocabulary": 280, "languages": ["en", "de"], **options})


def source_of(raw, name="captions", **data):
    default = dict(name=name, data_dir=str(raw.parent / "tfds"), train="train", test="test_2016",
                   batch_size=2)
    return kj.sources.pairs(ConfigDict({**default, **data}))


def texts_of(rows, vocabulary) -> list[str]:
    """Return the texts of rows, each of which ends with one [SEP] before its padding."""
    rows = np.asarray(rows).astype(int)
    ends = (rows == vocabulary.sep).argmax(1)
    assert ((rows == vocabulary.pad) == (np.arange(rows.shape[1]) > ends[:, None])).all()
    return [vocabulary.decode(row[:end]).strip() for row, end in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_pairs_come_back(raw, on_device):
    """Lines of two files, compressed or not, are rows of tokens in their order, with segments."""
    report = make(raw)
    assert report["examples"] == {"train": 12, "test_2016": 5} and report["vocabulary"] == 280
    source = source_of(raw, on_device=on_device)
    rows = source.rows("train", range(12))
    assert texts_of(rows["source"], source.vocabulary) == ENGLISH
    assert texts_of(rows["target"], source.vocabulary) == GERMAN
    batches = [source.preprocess(batch) for batch in source.eval_batches("test")]
    targets = np.concatenate([batch["target"][batch["weight"] > 0] for batch in batches])
    assert texts_of(targets, source.vocabulary) == GERMAN[:5]  # the last batch is there too
    for side in ("source", "target"):
        assert (batches[0][f"{side}_segments"] == (batches[0][side] != 0)).all()
        assert batches[0][side].dtype == np.int32


def test_packed_pairs(raw):
    """Rows of train hold whole pairs in their order, numbered alike on both sides. Others do not.
    """
    report = make(raw, pack=True, length=80)
    assert report["examples"]["train"] < 12 and report["examples"]["test_2016"] == 5
    source = source_of(raw)
    rows = source.preprocess(source.rows("train", range(source.num_examples)))
    for side, texts in (("source", ENGLISH), ("target", GERMAN)):
        segments = np.asarray(rows[f"{side}_segments"])
        assert ((segments == 0) == (rows[side] == source.vocabulary.pad)).all()
        apart = [np.where(segments[b] == k, rows[side][b], source.vocabulary.pad)
                 for b in range(len(segments)) for k in range(1, segments[b].max() + 1)]
        left = [row[np.argmax(row != source.vocabulary.pad):] for row in apart]
        assert texts_of([np.pad(row, (0, 80 - len(row))) for row in left],
                        source.vocabulary) == texts
    assert (rows["source_segments"].max(1) == rows["target_segments"].max(1)).all()
    test = source.preprocess(source.rows("test", range(5)))
    assert test["target_segments"].max() == 1
    with pytest.raises(UserError, match="config.data.validation: expected a pair a row, found"):
        source_of(raw, validation="train")


def test_jsonl(raw):
    for file in raw.iterdir():
        file.unlink()
    rows = [{"source": one, "target": two, "id": i}
            for i, (one, two) in enumerate(zip(ENGLISH, GERMAN, strict=True))]
    (raw / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(raw, languages=[])
    source = source_of(raw, test="")
    assert texts_of(source.data["train"]["target"], source.vocabulary) == GERMAN


def test_texts_of_a_user(raw):
    make(raw)
    source = source_of(raw)
    rows = source.encode(ENGLISH[:2])["source"]
    assert rows.dtype == np.int32 and (rows == source.data["train"]["source"][:2]).all()
    with pytest.raises(UserError, match="text 1 has 41 tokens, expected 1 to 39"):
        source.encode(["A dog.", "é" * 20])
    gone = source_of(raw, name="gone", described=ConfigDict(source.spec))
    assert (gone.encode(ENGLISH[:2])["source"] == rows).all()


def test_what_is_cut_is_counted(raw, capsys):
    longer = raw / "train.de"
    longer.write_bytes(lines_of(["Ein Hund läuft. " * 20, *GERMAN[1:]]))
    make(raw)
    assert "train: 1 of 12 targets are longer than a row of 40 tokens, their ends were cut off" in \
        capsys.readouterr().out
    rows = source_of(raw).data["train"]["target"]
    assert rows[0, -1] == source_of(raw).vocabulary.sep


def test_pairs_of_the_test_split_in_train_are_reported(raw, capsys):
    make(raw)
    assert "5 of 5 rows of test_2016 stand in train too" in capsys.readouterr().out


def test_references_that_tokens_change_are_counted(raw, capsys):
    """BLEU of a tokenizer in lower case is no cased BLEU."""
    file = raw.parent / "tokenizer.json"
    file.write_text(train_tokenizer([*ENGLISH, *GERMAN], 280, lowercase=True))
    make(raw)
    assert "are compared as" not in capsys.readouterr().out
    make(raw, "lower", tokenizer_file=str(file))
    assert "test_2016: 5 of 5 targets are compared as their tokens have them, as 'ein hund läuft" \
        ", nummer 0.' for 'Ein Hund läuft, Nummer 0.'" in capsys.readouterr().out


def test_a_tokenizer_without_padding(raw):
    file = raw.parent / "gpt2.json"
    file.write_text(gpt2_tokenizer())
    with pytest.raises(UserError, match="cls, sep, pad, found no pad among its 40; take one"):
        make(raw, tokenizer_file=str(file))


class Words:
    """A stand-in for a SentencePiece model: a piece a word, with a mark of the model's own."""

    def __init__(self, mark: str):
        self.mark = mark

    def encode(self, text: str, out_type: type) -> list[str]:
        return [self.mark + word for word in text.split()]


def test_marians_targets_are_pieces_of_the_targets_model():
    """The mutant, the source's model for both sides, knows nothing of a target's words."""
    numbers = {"</s>": 0, "<unk>": 1, "s:a": 2, "t:a": 3, "t:b": 4, "<pad>": 5}
    vocabulary = Pieces(size=6, mask=-1, ordinary=(0, 5), pad=5, cls=5, sep=0, numbers=numbers)
    vars(vocabulary)["_models"] = {"source": Words("s:"), "target": Words("t:")}
    assert encode_texts(["a b"], vocabulary, target=True) == [[3, 4]]
    assert encode_texts(["a b"], vocabulary) == [[2, 1]]


# A case: a file's new bytes (None: it is deleted), options, and the error.
BAD = {
    "unequal numbers": ({"train.de": lines_of(GERMAN[:-1])}, {},
                        r"train\.en has 12 lines, .*train\.de has 11; expected as many"),
    "an empty side": ({"train.de": lines_of([*GERMAN[:6], " ", *GERMAN[7:]])}, {},
                      r"train\.de, line 7: expected a text, found none \(the other side: 'A dog"),
    "no other side": ({"test_2016.de.gz": None}, {},
                      r"test_2016\.en\.gz: expected test_2016\.de beside it, found no such file"),
    "no train": ({"train.en": None, "train.de": None}, {}, r"expected train\.en and train\.de"),
    "nothing": ({"train.en": b"", "train.de": b""}, {}, r"train\.en: no pairs in it"),
    "not UTF-8": ({"train.de": b"ab\n\xff\n"}, {},
                  r"train\.de, line 2: not UTF-8 \(byte 0xff at 0"),
    "not gzip": ({"test_2016.de.gz": b"ab"}, {}, r"test_2016\.de\.gz: cannot be read"),
    "twice": ({"train.de.gz": gzip.compress(lines_of(GERMAN))}, {},
              r"train\.de\.gz: expected a split's name once"),
    "one language": ({}, {"languages": ["en"]}, r"--languages=en: expected the two suffixes"),
    "the same twice": ({}, {"languages": ["en", "en"]}, r"--languages=en,en: expected the two"),
    "rows too short": ({}, {"length": 4}, r"--length=4: expected at least 8"),
    "a reference that would be cut": (
        {"test_2016.de.gz": gzip.compress(lines_of([*GERMAN[:4], "é" * 30]))}, {},
        r"test_2016: 1 of 5 targets are longer than a row of 40 tokens, .*; take --length=62"),
    "JSONL without a target": ({"train.jsonl": b'{"source": "a"}\n'}, {"languages": []},
                               r"train\.jsonl, line 1: expected an object with a target"),
    "JSONL with an empty side": (
        {"train.jsonl": b'{"source": "", "target": "b"}\n'}, {"languages": []},
        r"train\.jsonl, line 1, source: expected a text, found none \(the other side: 'b'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs(case, raw):
    files, options, message = BAD[case]
    for name, content in files.items():
        (raw / name).unlink() if content is None else (raw / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        make(raw, **options)
    assert "\n" not in str(error.value) and not (raw.parent / "tfds").exists()


def test_a_set_without_pairs(raw):
    (raw / "train.txt").write_text("One.\n\nTwo.\n")
    prepare("text", raw, "texts", str(raw.parent / "tfds"), length=8, vocabulary=300, pack=True)
    with pytest.raises(UserError, match="expected source and target and their tokenizer, found"):
        source_of(raw, "texts")


@pytest.mark.parametrize("flags, says", [
    (["--format=pairs", "--lowercase"], "--lowercase means nothing for --format=pairs"),
    (["--format=text", "--languages=en,de"], "--languages means nothing for --format=text"),
    (["--format=text", "--characters", "--vocabulary=300"],
     "--characters are the vocabulary as they are")])
def test_flags_that_mean_nothing(flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        prepare_main([*flags, f"--from={tmp_path}", "--name=a"])


def test_the_command(raw, capsys):
    prepare_main(["--format=pairs", f"--from={raw}", "--name=captions", "--languages=en,de",
                  f"--data_dir={raw.parent / 'tfds'}", "--length=40", "--vocabulary=280"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["length"] == 40 and report["vocabulary"] == 280
