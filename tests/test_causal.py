"""Causal rows: every token has the next one as its target, once, and none of another document."""
import codecs
import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from test_decoder_tokens import gpt2_tokenizer

import karpjax as kj
from karpjax.core.settings import check_same
from karpjax.datasets import corpora
from karpjax.datasets.characters import characters_of, stored_vocabulary
from karpjax.datasets.formats import prepare
from karpjax.datasets.tokenizer import (
    BYTES, Vocabulary, load_tokenizer, train_tokenizer, vocabulary_of)
from karpjax.run.restore import check_data, check_tokens
from karpjax.sources.causal import with_targets
from karpjax.sources.windows import WindowRecords

TEXT = "".join(f"Line {i} of a naïve text ☃.\n" for i in range(20))


def source_of(folder, **data):
    (folder / "text.txt").write_text(TEXT)
    default = dict(corpus=str(folder / "text.txt"), length=7, batch_size=3)
    return kj.sources.causal(ConfigDict({**default, **data}))


def counted(source, split: str, name: str = "target") -> np.ndarray:
    """Return what the evaluation of a split counts, token after token."""
    values = []
    for batch in map(source.preprocess, source.eval_batches(split)):
        counts = (batch["weight_of_token"] * batch["weight"][:, None]) > 0
        values.append(np.asarray(batch[name])[counts])
    return np.concatenate(values)


def drawn(source, steps: int):
    """Yield the training batches of some steps, from the device or streamed from the host."""
    state = source.init(jax.random.key(0))
    batch = jax.jit(source.batch)
    for step in range(steps):
        arrays = source.next_batch(step, 0) if source.streamed else source.arrays
        state, chunk = source.advance(arrays, state, {})
        yield batch(arrays, chunk, 0)


# -------------------------------------------------------------------------------------- shakespeare

def test_shakespeare_comes_with_the_package():
    """Its characters and its test split are nanoGPT's: 65, and the last tenth."""
    text = corpora.read_corpus("shakespeare")
    tokens, vocabulary = corpora.tokens_of(text)
    assert len(text) == 1115394 and text.startswith("First Citizen:\nBefore we proceed")
    assert vocabulary.size == 65 and vocabulary.characters.startswith("\n !$&',-.3:;?ABC")
    assert tokens.dtype == np.uint8 and tokens[:8].tolist() == [18, 47, 56, 57, 58, 1, 15, 47]
    splits = corpora.split_corpus(tokens)
    assert {name: len(part) for name, part in splits.items()} == \
        {"train": 953661, "validation": 50193, "test": 111540}
    assert (np.concatenate(list(splits.values())) == tokens).all()


@pytest.mark.parametrize("held_out, sizes", [
    (0.05, {"train": 953661, "validation": 50193, "test": 111540}),
    (0.2, {"train": 803083, "validation": 200771, "test": 111540}),
    (0, {"train": 1003854, "test": 111540})])
def test_the_part_held_out_of_training(held_out, sizes):
    """With 0 the training part is nanoGPT's, whole, and nothing is left to choose by."""
    data = ConfigDict(dict(corpus="shakespeare", held_out=held_out, length=64, batch_size=2))
    source = kj.sources.causal(data)
    row = {name: records.row for name, records in source.records.items()}
    assert {name: len(part) for name, part in row.items()} == sizes
    assert (np.concatenate(list(row.values())) ==
            corpora.tokens_of(corpora.read_corpus("shakespeare"))[0]).all()
    assert sum(len(counted(source, split)) + 1 for split in row if split != "train") == \
        1115394 - sizes["train"]


# ------------------------------------------------------------------------------------------ windows

@pytest.mark.parametrize("on_device", ["yes", "no"])
def test_windows_are_the_text_with_the_next_token_as_target(tmp_path, on_device):
    source = source_of(tmp_path, on_device=on_device)
    train = corpora.split_corpus(corpora.tokens_of(TEXT)[0])["train"]
    beginnings = []
    for batch in drawn(source, 4):
        assert batch["weight_of_token"].all() and batch["tokens"].dtype == jnp.int32
        for row, tokens, target in zip(batch["row"], batch["tokens"], batch["target"], strict=True):
            assert tokens.tolist() == train[row:row + 7].tolist()
            assert target.tolist() == train[row + 1:row + 8].tolist()
        beginnings += batch["row"].tolist()
    assert len(set(beginnings)) == 12 and source.num_examples == len(train) - 7


@pytest.mark.parametrize("on_device", ["yes", "no"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_counts_every_token_but_the_first_once(tmp_path, on_device, split):
    source = source_of(tmp_path, on_device=on_device)
    tokens = corpora.split_corpus(corpora.tokens_of(TEXT)[0])[split]
    assert len(tokens) % 7 != 1 and len(source.records[split]) % 3  # neither fits
    assert (counted(source, split) == tokens[1:]).all()
    assert (counted(source, split, "tokens") == tokens[:-1]).all()


def test_mutant_the_last_window_dropped(tmp_path):
    source = source_of(tmp_path)
    windows, tokens = source.records["test"], corpora.split_corpus(corpora.tokens_of(TEXT)[0])
    source.records["test"] = WindowRecords(windows.row, windows.size, 7, windows.starts[:-1])
    source._counts["test"] -= 1
    assert len(counted(source, "test")) < len(tokens["test"]) - 1


def test_bytes_are_those_of_the_targets_that_count(tmp_path):
    source = source_of(tmp_path)
    tokens = corpora.split_corpus(corpora.tokens_of(TEXT)[0])["test"]
    total = sum(float((batch["bytes"] * batch["weight"]).sum())
                for batch in map(source.preprocess, source.eval_batches("test")))
    text = source.vocabulary.decode(tokens[1:])
    assert total == len(text.encode()) > len(text)


@pytest.mark.parametrize("change, says", [
    (dict(corpus="shakespear"), "expected shakespeare or a text file, found no such file"),
    (dict(length=500), "split 'train': expected more than config.data.length = 500 tokens, found"),
    (dict(held_out=1.0), "config.data.held_out: expected the part of the training text that is "
                         "kept for validation, at least 0 and below 1, found 1.0"),
    (dict(held_out=-0.1), "config.data.held_out: expected"),
    (dict(on_device="maybe"), "config.data.on_device: expected one of 'auto', 'yes', 'no'"),
    (dict(name="imdb"), "config.data.name: no such key")])
def test_bad_corpora(tmp_path, change, says):
    with pytest.raises(kj.UserError, match=says):
        source_of(tmp_path, **change)


def test_a_corpus_that_is_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(kj.UserError, match=r"latin\.txt: not UTF-8 \(byte 0xef at 2\)"):
        source_of(tmp_path, corpus=str(tmp_path / "latin.txt"))


def test_a_byte_order_mark_is_no_character(tmp_path):
    (tmp_path / "marked.txt").write_bytes(codecs.BOM_UTF8 + b"ab")
    assert corpora.read_corpus(str(tmp_path / "marked.txt")) == "ab"


def test_a_run_knows_its_corpus_by_content(tmp_path):
    """The file may lie elsewhere. Other characters, or the same ones in other places, are refused.
    """
    spec = source_of(tmp_path).spec
    old, new = ({"data": {"corpus": place}} for place in ("here.txt", "there.txt"))
    check_same(old, new, "run")
    meta = {"source": spec, "config": old}
    check_data(ConfigDict(new), meta, spec)
    (tmp_path / "other.txt").write_text(TEXT + "!")
    other = source_of(tmp_path, corpus=str(tmp_path / "other.txt")).spec
    with pytest.raises(kj.UserError, match="run was trained on the tokens of another tokenizer"):
        check_tokens("run", meta, other)
    (tmp_path / "other.txt").write_text(TEXT[::-1])
    other = source_of(tmp_path, corpus=str(tmp_path / "other.txt")).spec
    check_tokens("run", meta, other)
    with pytest.raises(kj.UserError, match="the data has changed since this run began"):
        check_data(ConfigDict(new), meta, other)


def test_a_checkpoint_reads_prompts_without_the_corpus(tmp_path):
    there = source_of(tmp_path)
    gone = source_of(tmp_path, corpus=str(tmp_path / "gone.txt"), described=there.spec)
    assert gone.vocabulary == there.vocabulary and gone.example.keys() >= {"tokens", "target"}
    with pytest.raises(kj.UserError, match="found no such file"):
        next(gone.eval_batches("test"))


# --------------------------------------------------------------------------------------- characters

def test_characters():
    vocabulary = characters_of(["banana", "né"], special=False)
    assert vocabulary.characters == "abné" and vocabulary.size == 4 and vocabulary.cls == -1
    assert vocabulary.ids(["bané"]) == [[1, 0, 2, 3]] and vocabulary.decode([1, 0, 2, 3]) == "bané"
    assert vocabulary.byte_lengths.tolist() == [1, 1, 1, 2]
    again = stored_vocabulary(vocabulary.json)
    assert again == vocabulary and again.fingerprint == vocabulary.fingerprint
    assert again.fingerprint != characters_of(["banan"], special=False).fingerprint
    with pytest.raises(kj.UserError, match="text 1: the character '!' at 2 is none of the 4"):
        vocabulary.ids(["ab", "na!"])
    with pytest.raises(kj.UserError, match="text 0 has 2 characters, expected 3"):
        vocabulary.encode(["ab"], 3)


def test_characters_with_special_tokens():
    """Special tokens come after the characters, whose ids stay."""
    vocabulary = characters_of(["ab"], special=True)
    assert (vocabulary.size, vocabulary.ordinary) == (6, (0, 2))
    assert vocabulary.encode(["a[MASK]b"], 6).tolist() == [[4, 0, 3, 1, 5, 2]]
    assert vocabulary.decode([4, 0, 3, 1, 5, 2]) == "[CLS]a[MASK]b[SEP][PAD]"
    assert vocabulary.byte_lengths.tolist() == [1, 1, 0, 0, 0, 0]


# -------------------------------------------------------------------------------------- packed rows

SMALL = Vocabulary(size=12, mask=1, ordinary=(4, 12), pad=0, cls=2, sep=3)
PACKED = {"tokens": jnp.array([[5, 3, 2, 6, 7, 3, 2, 8], [2, 4, 3, 0, 0, 0, 0, 0]]),
          "segments": jnp.array([[1, 1, 2, 2, 2, 2, 3, 3], [1, 1, 1, 0, 0, 0, 0, 0]])}


def causal_rows(batch: dict, vocabulary, monkeypatch):
    """Return rows with their targets, by a vocabulary whose ordinary tokens are of 1 byte."""
    lengths = np.asarray([4 <= i for i in range(vocabulary.size)], np.int32)
    monkeypatch.setattr(Vocabulary, "byte_lengths", lengths)
    return with_targets(vocabulary)(batch)


def test_no_token_predicts_the_first_of_another_document(monkeypatch):
    batch = causal_rows(PACKED, SMALL, monkeypatch)
    assert batch["weight_of_token"].astype(int).tolist() == [[1, 0, 1, 1, 1, 0, 1, 0],
                                                             [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["target"][0, :7].tolist() == PACKED["tokens"][0, 1:].tolist()
    assert batch["bytes"].tolist() == [3, 1]
    alone = {**PACKED, "segments": jnp.ones_like(PACKED["segments"])}   # the mutant: no segments
    assert causal_rows(alone, SMALL, monkeypatch)["weight_of_token"][0, 1]


def test_a_document_a_row_ends_at_its_padding(monkeypatch):
    batch = causal_rows({"tokens": PACKED["tokens"][1:]}, SMALL, monkeypatch)
    assert batch["segments"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert batch["weight_of_token"].astype(int).tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]


def test_windows_of_marked_documents(monkeypatch):
    """A document's end predicts nothing, except where one token is its end and the next's start."""
    window = {"tokens": PACKED["tokens"][:1], "target": jnp.roll(PACKED["tokens"][:1], -1),
              "weight_of_token": jnp.ones((1, 8), bool)}
    batch = causal_rows(window, SMALL, monkeypatch)
    assert batch["segments"].tolist() == [[1, 1, 2, 2, 2, 2, 3, 3]]
    assert batch["weight_of_token"].astype(int).tolist() == [[1, 0, 1, 1, 1, 0, 1, 1]]
    one_mark = Vocabulary(size=12, mask=-1, ordinary=(4, 12), cls=3, sep=3)
    batch = causal_rows(window, one_mark, monkeypatch)
    assert batch["segments"].tolist() == [[1, 2, 2, 2, 2, 3, 3, 3]]
    assert batch["weight_of_token"].all()


def test_windows_of_rows_that_were_padded(monkeypatch):
    """Padding is neither predicted nor predicts, and documents without [CLS] are apart too."""
    tokens = jnp.array([[2, 5, 3, 0, 0, 2, 6, 3, 7, 3]])
    window = {"tokens": tokens, "target": jnp.roll(tokens, -1).at[0, -1].set(8),
              "weight_of_token": jnp.ones((1, 10), bool)}
    batch = causal_rows(window, SMALL, monkeypatch)
    assert batch["segments"].tolist() == [[2, 2, 2, 3, 4, 5, 5, 5, 6, 6]]
    assert batch["weight_of_token"].astype(int).tolist() == [[1, 1, 0, 0, 0, 1, 1, 0, 1, 0]]
    assert batch["bytes"].tolist() == [2]


@pytest.mark.parametrize("characters", [False, True])
def test_prepared_sets(tmp_path, characters):
    """Bytes of packed rows are those of the documents, but of tokens that begin a row unseen."""
    texts = ["A naïve text.", "Another one, of more words.", "☃"]
    (tmp_path / "raw").mkdir()
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "raw" / "train.jsonl").write_text("\n".join(lines))
    vocabulary = dict(vocabulary=0, characters=True) if characters else dict(vocabulary=300)
    report = prepare("text", tmp_path / "raw", "packed", str(tmp_path / "tfds"), length=100,
                     pack=True, **vocabulary)
    assert report["examples"] == {"train": 1}
    source = kj.sources.causal(ConfigDict(dict(
        name="packed", data_dir=str(tmp_path / "tfds"), train="train", batch_size=1)))
    batch = next(drawn(source, 1))
    assert batch["bytes"].tolist() == [sum(len(text.encode()) for text in texts)]
    ends = (batch["tokens"] == source.vocabulary.sep) | (batch["tokens"] == source.vocabulary.pad)
    assert (batch["weight_of_token"] == ~ends).all()
    same = source.vocabulary.ids(["A text."], masks=False)[0]
    assert source.vocabulary.decode(same).strip() == "A text."


def test_packed_rows_without_a_token_for_padding(tmp_path):
    """GPT-2's tokenizer has none. A mutant stored the absent token, -1, as 65535."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "gpt2.json").write_text(gpt2_tokenizer())
    (tmp_path / "raw" / "train.txt").write_text("def")
    report = prepare("text", tmp_path / "raw", "packed", str(tmp_path / "tfds"), length=8,
                     pack=True, vocabulary=0, tokenizer_file=str(tmp_path / "gpt2.json"))
    assert report["tokens"] == {"train": 5}
    batch = next(drawn(kj.sources.causal(ConfigDict(dict(
        name="packed", data_dir=str(tmp_path / "tfds"), train="train", batch_size=1))), 1))
    assert batch["tokens"].tolist() == [[39, 3, 4, 5, 39, 0, 0, 0]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch["weight_of_token"].astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert batch["bytes"].tolist() == [3]


def test_bytes_need_a_tokenizer_on_bytes():
    wordpiece = Vocabulary(size=9, mask=1, ordinary=(4, 9), json='{"pre_tokenizer": null}')
    with pytest.raises(kj.UserError, match="bits per byte need a tokenizer on bytes"):
        with_targets(wordpiece)
    assert BYTES.byte_lengths.tolist() == [1] * 256 + [0]


def test_bytes_of_tokens_that_were_added():
    """Letters stand for bytes, except in tokens that were added: those are text."""
    tokenizer = load_tokenizer(train_tokenizer(["a text"], 260))
    tokenizer.add_tokens(["☃é"])
    vocabulary = vocabulary_of(tokenizer.to_str())
    assert vocabulary.ids(["☃é"], masks=False)[0][-1] == 260
    assert vocabulary.byte_lengths[[260, vocabulary.sep]].tolist() == [5, 0]
