"""python -m karpjax.prepare --format=text: every token in its place, and errors in one line."""
import json

from ml_collections import ConfigDict
import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_prepare import command, done

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets import documents, tokenizer
from karpjax.datasets.formats import prepare
from karpjax.datasets.tfds import prepare_once, prepared_builder
from karpjax.prepare import main as prepare_main

WORDS = ["dull", "fine"] * 20
REVIEWS = [{"text": f"A {word} film, number {i}. " + "It goes on and on. " * (i % 4),
            "label": i % 2} for i, word in enumerate(WORDS)]


def jsonl(file, rows):
    """Write rows as lines of JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def reviews(tmp_path):
    jsonl(tmp_path / "raw" / "train.jsonl", REVIEWS)
    jsonl(tmp_path / "raw" / "test.jsonl", REVIEWS[:6])
    return tmp_path


def make(folder, name="reviews", **options):
    """Prepare the texts in folder/raw, and return the report."""
    return prepare("text", folder / "raw", name, str(folder / "tfds"),
                   **{"length": 16, "vocabulary": 300, **options})


def source_of(folder, name="reviews", **data):
    default = dict(name=name, data_dir=str(folder / "tfds"), train="train", test="test",
                   batch_size=4)
    return kj.sources.text(ConfigDict({**default, **data}))


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_a_document_a_row(reviews, on_device):
    report = make(reviews)
    assert report["examples"] == {"train": 40, "test": 6} and report["classes"] == 2
    assert report["vocabulary"] == 300
    source = source_of(reviews, on_device=on_device)
    batch = source.preprocess(next(source.eval_batches("test")))
    assert batch["tokens"].shape == (4, 16) and batch["tokens"].dtype == np.int32
    by_tokens = {tuple(source.encode([row["text"]])[0]): row["label"] for row in REVIEWS[:6]}
    assert all(by_tokens[tuple(np.asarray(row))] == label
               for row, label in zip(batch["tokens"], batch["label"], strict=True))


def test_packed_rows_hold_every_token_once(reviews):
    jsonl(reviews / "raw" / "test.jsonl", [{"text": "Another one."}])
    report = make(reviews, pack=True)
    rows = list(source_of(reviews, on_device="yes").data["train"].items())
    tokens, segments = dict(rows)["tokens"].astype(int), dict(rows)["segments"].astype(int)
    vocabulary = source_of(reviews).vocabulary
    flat = tokens[segments > 0]
    assert report["tokens"]["train"] == flat.size and (segments[:-1] > 0).all()
    assert (tokens[segments == 0] == 0).all()
    documents = sorted(vocabulary.decode(part).strip()
                       for part in np.split(flat, np.flatnonzero(flat == 2)[1:]))
    assert [d.removeprefix("[CLS]").removesuffix("[SEP]").strip() for d in documents] == \
        sorted(row["text"].strip() for row in REVIEWS)
    # Segments count from 1 in each row, and grow at every [CLS] and nowhere else.
    assert (segments[:, 0] == 1).all()
    assert ((np.diff(segments) == 1) == (tokens[:, 1:] == 2))[np.diff(segments) >= 0].all()


def test_the_tokenizer_of_another_set(reviews):
    """A set has the fingerprint of the first if it was prepared with the same tokenizer."""
    first, file = make(reviews, "one", pack=True), reviews / "tokenizer.json"
    file.write_text(source_of(reviews, "one").vocabulary.json)
    second = make(reviews, "two", tokenizer_file=str(file))
    assert second["fingerprint"] == first["fingerprint"]
    assert make(reviews, "three", vocabulary=280)["fingerprint"] != first["fingerprint"]


def test_texts_of_the_test_set_are_left_out(reviews, capsys):
    assert make(reviews, without=str(reviews / "raw" / "test.jsonl"))["examples"]["train"] == 34
    assert "train: 6 documents were left out" in capsys.readouterr().out


def test_text_files_and_folders(tmp_path):
    (tmp_path / "raw" / "train").mkdir(parents=True)
    (tmp_path / "raw" / "train" / "a.txt").write_text("One\nparagraph.\n\n\nAnother.\n")
    jsonl(tmp_path / "raw" / "train" / "b.jsonl", [{"text": "A third", "label": None}])
    texts = sorted(document.text for file in documents.files_by_split(tmp_path / "raw")["train"]
                   for document in documents.read_documents(file))
    assert texts == ["A third", "Another.", "One\nparagraph."]
    make(tmp_path, pack=True)
    source = source_of(tmp_path, test="", batch_size=1)
    text = "".join(source.vocabulary.decode(row[row > 0]) for row in source.data["train"]["tokens"])
    assert all(each in text for each in ("A third", "Another.", "One\nparagraph."))


def test_texts_of_tfds(tmp_path, capsys):
    """A set like imdb_reviews has named labels and texts without one. Labels keep their names."""
    tfds_set(tmp_path, {"text": tfds.features.Text(),
                        "label": tfds.features.ClassLabel(names=["neg", "pos"])},
             {"train": [(row["text"], row["label"]) for row in REVIEWS],
              "unsupervised": [("Neither.", -1)] * 2})
    report = prepare("text", "tfds:reviews_of_tfds", "reviews", str(tmp_path / "tfds"), length=64,
                     vocabulary=300)
    assert report["examples"] == {"train": 40}
    assert "unsupervised: no document has a label" in capsys.readouterr().out
    source = source_of(tmp_path, test="")
    rows = {name: source.data["train"][name] for name in ("tokens", "label")}
    by_tokens = {tuple(source.encode([row["text"]])[0]): row["label"] for row in REVIEWS}
    assert all(by_tokens[tuple(tokens)] == label
               for tokens, label in zip(rows["tokens"].astype(int), rows["label"], strict=True))
    info = prepared_builder("reviews", str(tmp_path / "tfds")).info
    assert info.features["label"].names == ["neg", "pos"]
    packed = prepare("text", "tfds:reviews_of_tfds", "packed", str(tmp_path / "tfds"), length=64,
                     vocabulary=300, pack=True)
    assert set(packed["examples"]) == {"train", "unsupervised"}


def test_the_only_text_by_another_name(tmp_path):
    tfds_set(tmp_path, {"sentence": tfds.features.Text()}, {"train": [("One.",), ("Two.",)]})
    assert prepare("text", "tfds:reviews_of_tfds", "reviews", str(tmp_path / "tfds"), length=8,
                   vocabulary=300, pack=True)["examples"]["train"]


def test_tfds_sets_that_will_not_do(tmp_path):
    def make(name="reviews_of_tfds", format="text", **options):
        prepare(format, f"tfds:{name}", "reviews", str(tmp_path / "tfds"), **options)
    tfds_set(tmp_path, {"title": tfds.features.Text(), "body": tfds.features.Text()},
             {"train": [("One.", "Two.")]})
    with pytest.raises(UserError, match=r"one text a row; found .* the texts \['body', 'title'\]"):
        make(length=64, vocabulary=300)
    with pytest.raises(UserError, match="'revews': TFDS does not know it"):
        make("revews", length=64, vocabulary=300)
    with pytest.raises(UserError, match="only texts are prepared from TFDS"):
        make(format="cifar")
    assert not (tmp_path / "tfds" / "reviews").exists()


def tfds_set(folder, features: dict, splits: dict) -> None:
    """Write reviews_of_tfds: splits {"train": [row, ...]}, a row being the features' values."""
    class ReviewsOfTfds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self,
                                         features=tfds.features.FeaturesDict(features),
                                         disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: enumerate(dict(zip(features, row, strict=True)) for row in rows)
                    for split, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError
    prepare_once(ReviewsOfTfds, folder / "tfds", folder / "tfds" / "reviews_of_tfds" / "1.0.0")


def test_it_says_how_many_are_cut(reviews, capsys):
    make(reviews, length=12)

    def tokens(text):
        return source_of(reviews).vocabulary.encode([text], 1000)[0].nonzero()[0]
    longer = [len(tokens(row["text"])) > 12 for row in REVIEWS]
    assert 0 < sum(longer) < 40
    assert f"train: {sum(longer)} of 40 documents are longer" in capsys.readouterr().out


def test_windows_line_ends_and_blanks_end_paragraphs_too(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"One\r\nparagraph.\r\n\r\nAnother.\r\n  \r\nA third.")
    texts = [document.text for document in documents.read_documents(tmp_path / "train.txt")]
    assert texts == ["One\nparagraph.", "Another.", "A third."]


def test_names_of_special_tokens_in_a_text_are_text(tmp_path):
    jsonl(tmp_path / "raw" / "train.jsonl",
          [{"text": "a [PAD] b [SEP] c [MASK]", "label": 0}, {"text": "d", "label": 1}])
    make(tmp_path, length=40)
    rows = source_of(tmp_path, test="", batch_size=1, on_device="yes").data["train"]["tokens"]
    long = rows[np.argmax((rows > 0).sum(1))]
    assert (long == 1).sum() == 0 and (long == 3).sum() == 1
    assert (np.flatnonzero(long == 0) > np.flatnonzero(long == 3)).all()


@pytest.mark.parametrize("flags, says", [
    (["--format=text", "--classes=a,b"], "--classes means nothing for --format=text"),
    (["--format=idx", "--pack"], "--pack means nothing for --format=idx"),
    (["--format=text", "--tokenizer=a.json", "--lowercase"],
     "--tokenizer brings its own vocabulary and case")])
def test_flags_that_mean_nothing(flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        prepare_main([*flags, f"--from={tmp_path}", "--name=a"])


def huge_tokenizer(folder) -> str:
    """Return the file of a tokenizer with more tokens than 16 bits hold."""
    made = json.loads(tokenizer.train_tokenizer([row["text"] for row in REVIEWS], 300))
    made["model"]["vocab"] |= {f"word{i}": i for i in range(300, 70000)}
    (folder / "huge.json").write_text(json.dumps(made))
    return str(folder / "huge.json")


def lines_of(*rows) -> bytes:
    """Return the bytes of a file of JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# A case: a file's new bytes (None: it is deleted), options, and the error.
BAD = {
    "an empty file": ({"train": b""}, {}, r"train\.jsonl: no document in it"),
    "empty lines": ({"train": b"\n \n"}, {}, r"found empty lines"),
    "not UTF-8": ({"train": b'{"text": "a"}\n{"text": "\xff"}\n'}, {},
                  r"train\.jsonl, line 2: not UTF-8 \(byte 0xff at 10\)"),
    "not JSON": ({"train": b"{'text': 1}\n"}, {}, r"line 1: not JSON"),
    "no text": ({"train": lines_of({"txt": "a"})}, {}, r"line 1: expected an object with a text"),
    "no train": ({"train": None}, {}, r"expected train\.jsonl, .*found test\.jsonl"),
    "a label outside the set": ({"test": lines_of({"text": "a", "label": 7})}, {},
                                r"test: labels outside the train split's: 7; expected 0, 1"),
    "a document without label": ({"test": lines_of(*REVIEWS, {"text": "a", "label": -1})}, {},
                                 r"1 of 41 documents have no label"),
    "no labels": ({"train": lines_of({"text": "a"})}, {}, r"no document has a label; .* --pack"),
    "a vocabulary too small": ({}, {"vocabulary": 10}, r"--vocabulary=10: expected at least 260"),
    "no such tokenizer": ({}, {"tokenizer_file": "missing"}, r"--tokenizer=missing: no such file"),
    "a vocabulary too large": ({}, {"tokenizer_file": huge_tokenizer},
                               r"vocabulary of 70000: expected at most"),
    "half a character": ({"train": lines_of({"text": "a\ud83d", "label": 0})}, {},
                         r"line 1: half of a surrogate pair \(character 1"),
    "a label that looks like a number": ({"train": lines_of({"text": "a", "label": "²"})}, {},
                                         r"labels outside the train split's: 0, 1; expected ²"),
    "every text left out": ({"test": lines_of(*REVIEWS)}, {"without": "test.jsonl"},
                            r"every document of train"),
    "rows too short": ({}, {"length": 4}, r"--length=4: expected at least 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_texts(case, reviews):
    files, options, message = BAD[case]
    for split, content in files.items():
        file = reviews / "raw" / f"{split}.jsonl"
        file.unlink() if content is None else file.write_bytes(content)
    if "without" in options:
        options = {**options, "without": str(reviews / "raw" / options["without"])}
    options = {name: value(reviews) if callable(value) else value
               for name, value in options.items()}
    with pytest.raises(UserError, match=message) as error:
        make(reviews, **options)
    assert "\n" not in str(error.value) and not (reviews / "tfds").exists()


def test_a_set_without_tokens(reviews):
    np.savez(reviews / "set.npz", x_train=np.zeros((4, 6, 5, 3), np.uint8),
             y_train=np.zeros(4, np.int32))
    prepare("npz", reviews / "set.npz", "pictures", str(reviews / "tfds"))
    with pytest.raises(UserError, match="expected tokens and their tokenizer, found the features"):
        source_of(reviews, "pictures")


def test_the_command(reviews):
    texts = [row["text"] for row in REVIEWS]
    (reviews / "tokenizer.json").write_text(tokenizer.train_tokenizer(texts, 300, lowercase=True))
    out = done(command("prepare", "--format=text", f"--from={reviews}/raw", "--name=reviews",
                       f"--data_dir={reviews}/tfds", f"--tokenizer={reviews}/tokenizer.json",
                       "--length=32"))
    assert json.loads(out.splitlines()[-1])["length"] == 32


@pytest.mark.parametrize("label, found", [("NaN", "nan"), ("-1.0", "-1.0"), ("1.0", "1.0"),
                                          ("[1]", "[1]"), ("{}", "{}")])
def test_a_label_that_is_no_class(label, found, reviews):
    with (reviews / "raw" / "train.jsonl").open("a") as file:
        file.write(f'{{"text": "One more.", "label": {label}}}\n')
    with pytest.raises(UserError, match="train.jsonl, line 41: expected a label of text, an "
                                        "integer, true, false or null, found") as error:
        make(reviews)
    assert str(error.value).endswith(found)


@pytest.mark.parametrize("labels", [[1, 2], [True, False], ["a", "b"]])
def test_labels_of_each_kind(labels, tmp_path):
    jsonl(tmp_path / "raw" / "train.jsonl",
          [{"text": f"The text of number {i}.", "label": labels[i % len(labels)]}
           for i in range(30)])
    assert make(tmp_path)["classes"] == 2


def test_a_byte_order_mark_is_no_text(reviews):
    plain = make(reviews)
    file = reviews / "raw" / "train.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert make(reviews, "marked") == {**plain, "name": "marked"}
    one, other = (source_of(reviews, name) for name in ("reviews", "marked"))
    assert (one.data["train"]["tokens"] == other.data["train"]["tokens"]).all()


def test_hidden_files_are_left_out_and_named(reviews, capsys):
    plain = make(reviews)
    jsonl(reviews / "raw" / ".ipynb_checkpoints" / "train.jsonl", REVIEWS[:3])
    jsonl(reviews / "raw" / "._train.jsonl", REVIEWS[:3])
    assert make(reviews, "again") == {**plain, "name": "again"}
    assert "2 hidden files or folders are left out: ._train.jsonl, .ipynb_checkpoints" in \
        capsys.readouterr().out
