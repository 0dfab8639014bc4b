"""python -m karpjax.prepare --format=tokens: files of tokens, and windows read from them."""
import json

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
from test_causal import counted, drawn

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets.formats import prepare
from karpjax.datasets.token_files import open_tokens
from karpjax.datasets.tokenizer import train_tokenizer

TEXTS = [f"A naïve text, of number {i}." for i in range(30)]
TOKENS = np.arange(2000, dtype=np.uint16) * 7 % 280


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    file.write_text(train_tokenizer(TEXTS, 280))
    return str(file)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    np.save(folder / "train.npy", TOKENS)
    TOKENS[::-1][:500].tofile(folder / "test.bin")
    (folder / "test.json").write_text('{"dtype": "uint16"}')
    return folder


def make(raw, tokenizer="", **options):
    options = {"vocabulary": 280, "tokenizer_file": tokenizer, **options}
    return prepare("tokens", raw, "news", str(raw.parent / "tfds"), **options)


def source_of(raw, **data):
    default = dict(name="news", data_dir=str(raw.parent / "tfds"), train="train", test="test",
                   length=32, batch_size=4)
    return kj.sources.causal(ConfigDict({**default, **data}))


@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_windows_of_files(raw, tokenizer, on_device):
    """Windows are the files' tokens, in device memory or mapped to the host's."""
    report = make(raw, tokenizer)
    assert report["examples"] == {"train": 2000, "test": 500} and report["dtype"] == "uint16"
    source = source_of(raw, on_device=on_device, train="train[:90%]")
    assert source.streamed == (on_device == "no") and source.num_examples == 1800 - 32
    for batch in drawn(source, 3):
        for row, tokens, target in zip(batch["row"], batch["tokens"], batch["target"], strict=True):
            assert tokens.tolist() == TOKENS[row:row + 32].tolist()
            assert target.tolist() == TOKENS[row + 1:row + 33].tolist()
    test = TOKENS[::-1][:500]
    vocabulary = source.vocabulary  # [SEP] and padding predict nothing, and nothing predicts [CLS]
    counts = ~np.isin(test[:-1], (vocabulary.sep, vocabulary.pad)) & \
        ~np.isin(test[1:], (vocabulary.cls, vocabulary.pad))
    assert (counted(source, "test") == test[1:][counts]).all()


def test_streamed_windows_are_a_function_of_the_step(raw, tokenizer):
    make(raw, tokenizer)
    straight, jumped = (source_of(raw, on_device="no") for _ in range(2))
    batches = [straight.next_batch(step, 3) for step in range(4)]
    again = jumped.next_batch(3, 3)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, batches[3]))
    assert len(set(np.concatenate([batch["row"] for batch in batches]).tolist())) == 16


@pytest.mark.parametrize("characters", [False, True])
def test_texts_in_one_row(tmp_path, characters):
    """Each document stands once in the row, between its marks, and predicts no other."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (raw / "train.jsonl").write_text("\n".join(lines))
    report = make(raw, characters=characters)
    folder, head, rows = open_tokens("news", str(tmp_path / "tfds"))
    assert report["examples"] == head["tokens"] == {"train": len(rows["train"])}
    source = source_of(raw, test="", validation="train", batch_size=1)
    vocabulary = source.vocabulary
    text = vocabulary.decode(rows["train"])
    documents = [each.removesuffix("[SEP]").strip() for each in text.split("[CLS]")[1:]]
    assert sorted(documents) == sorted(TEXTS)
    assert not (counted(source, "validation", "tokens") == vocabulary.sep).any()
    assert not (counted(source, "validation") == vocabulary.cls).any()
    total = sum(int(batch["bytes"].sum())
                for batch in map(source.preprocess, source.eval_batches("validation")))
    assert total == sum(len(text.encode()) for text in TEXTS)


def test_what_is_no_file_of_tokens_is_counted(raw, tokenizer, capsys):
    (raw / "train.jsonl").write_text("")
    (raw / "README.md").write_text("")
    (raw / "tokenizer.json").write_text("")  # may lie there too
    make(raw, tokenizer)
    assert "2 files that are no tokens (.npy, .bin) are left out: README.md, train.jsonl" in \
        capsys.readouterr().out


def test_documents_of_test_in_train_are_reported(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    for split, texts in (("train", TEXTS), ("test", TEXTS[:2])):
        (tmp_path / "raw" / f"{split}.txt").write_text("\n\n".join(texts))
    make(tmp_path / "raw", characters=True)
    shown = capsys.readouterr().out
    assert "2 of 2 rows of test stand in train too" in shown
    assert "the characters of the texts in test, train" in shown


def test_characters_of_a_corpus_mark_no_documents(tmp_path):
    """A mutant stored their absent marks, -1, as the token 65535."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text("abba")
    (tmp_path / "tokenizer.json").write_text('{"characters": "ab", "special": false}')
    with pytest.raises(UserError, match="expected one with the tokens cls, sep, found no cls, sep"):
        make(tmp_path / "raw", str(tmp_path / "tokenizer.json"))


def test_a_checkpoint_reads_prompts_without_the_files(raw, tokenizer):
    make(raw, tokenizer)
    there = source_of(raw)
    gone = source_of(raw, name="gone", described=ConfigDict(there.spec))
    assert gone.vocabulary == there.vocabulary


# A case: a file's new bytes (None: it is deleted), options, and the error.
BAD = {
    "floats": ({"train.npy": np.zeros(9, np.float32)}, {},
               r"train\.npy: expected one row of uint8, uint16, uint32, found float32"),
    "rows": ({"train.npy": np.zeros((3, 3), np.uint16)}, {}, r"found uint16 of \(3, 3\)"),
    "not NumPy's": ({"train.npy": b"ab"}, {}, r"train\.npy: not a whole \.npy file"),
    "tokens beyond the tokenizer": ({"train.npy": np.array([5, 280], np.uint16)}, {},
                                    r"expected tokens of 0 to 279, .* found 280"),
    "no dtype": ({"test.json": None}, {},
                 r"test\.bin: expected its dtype beside it, in test\.json"),
    "another dtype": ({"test.json": b'{"dtype": "float16"}'}, {},
                      r"test\.json: expected a dtype of uint8, uint16, uint32, found 'float16'"),
    "half a token": ({"test.bin": b"abc"}, {},
                     r"test\.bin: expected 4 bytes, 2 tokens of uint16, found 3"),
    "two dtypes": ({"train.npy": np.zeros(9, np.uint32)}, {}, r"expected files of one dtype"),
    "no train": ({"train.npy": None}, {}, r"expected train\.npy or train\.bin, found"),
    "no tokenizer": ({}, {"tokenizer_file": ""}, r"give --tokenizer=JSON"),
    "another byte order": ({"train.npy": TOKENS.astype(">u2")}, {},
                           r"expected one row of uint8, uint16, uint32, found >u2 of \(2000,\)"),
    "a split twice": ({"train.bin": b"ab"}, {},
                      r"train\.npy: expected one file of train, found train\.bin beside it"),
    "nothing": ({"test.bin": b""}, {}, r"test\.bin: expected 2 bytes, 1 tokens of uint16, found 0"),
    "a split that has no name": ({"all.npy": TOKENS}, {}, r"split 'all': expected a name of"),
    "documents to leave out": ({}, {"without": "test.jsonl"},
                               r"--without=test.jsonl leaves documents out, and .* has tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, raw, tokenizer):
    files, options, message = BAD[case]
    for name, content in files.items():
        if content is None:
            (raw / name).unlink()
        elif isinstance(content, bytes):
            (raw / name).write_bytes(content)
        else:
            np.save(raw / name, content)
    with pytest.raises(UserError, match=message) as error:
        make(raw, tokenizer, **options)
    assert "\n" not in str(error.value) and not (raw.parent / "tfds").exists()


@pytest.mark.parametrize("data, says", [
    (dict(train="trian"), "has no part 'trian' .*its tokens: test 500, train 2000; expected one"),
    (dict(train="train+test"), r"has no part 'train\+test'"),
    (dict(test="test[:2]"), "split 'test': expected more than config.data.length = 32 tokens"),
    (dict(name="nws"), "data set 'nws': expected files of tokens in .* found none"),
    (dict(lenght=3), "config.data.lenght: no such key; did you mean 'length'")])
def test_bad_configs(raw, tokenizer, data, says):
    make(raw, tokenizer)
    with pytest.raises(UserError, match=says):
        source_of(raw, **data)


def test_a_file_that_changed_afterwards(raw, tokenizer):
    make(raw, tokenizer)
    folder, head, _ = open_tokens("news", str(raw.parent / "tfds"))
    (folder / "test.bin").write_bytes(b"ab" * 3)
    with pytest.raises(UserError, match="is damaged: test.bin has 6 bytes, expected 1000"):
        source_of(raw)
    (folder / "test.bin").write_bytes(TOKENS[:500].tobytes())
    with pytest.raises(UserError, match="is damaged: the content of test.bin has changed"):
        source_of(raw)
    (folder / "manifest.json").unlink()  # as of a set that was copied in part
    (folder / "tokens.json").write_text(json.dumps({**head, "dtype": "uint32"}))
    with pytest.raises(UserError, match="expected 2000 bytes, 500 tokens of uint32, found 1000"):
        source_of(raw)
    beyond = np.full(2000, 300, np.uint16)
    beyond.tofile(folder / "train.bin")
    (folder / "tokens.json").write_text(json.dumps(head))
    for on_device in ("yes", "no"):
        with pytest.raises(UserError, match="expected tokens of 0 to 279, found 300"):
            source_of(raw, on_device=on_device)
