"""Tokens and configs of published decoders: GPT-2's tokenizer, Marian's SentencePiece models."""
import base64
import importlib.util
import json
import pathlib

from data.goldens import make_decoders
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import karpjax as kj
from karpjax import UserError
from karpjax.core import files
from karpjax.datasets.characters import stored_vocabulary
from karpjax.datasets.pieces import pieces_beside
from karpjax.run import published as published_module
from karpjax.run.published import published
from test_decoder_weights import GOLDENS, gpt2, marian

NOVEL = pathlib.Path(published_module.__file__).parent.parent / "data" / "pride_and_prejudice.txt"
NEEDS_TRANSFORMERS = pytest.mark.skipif(importlib.util.find_spec("transformers") is None,
                                        reason="PyTorch and transformers are not installed")


def gpt2_tokenizer() -> str:
    """Return a tokenizer in GPT-2's form, of 40 tokens: letters, and the end of a document."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[64:102]
    numbers = {piece: i for i, piece in enumerate([*letters, "ab", "<|endoftext|>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(numbers, [("a", "b")]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the three files of a Marian translator, trained here.

    Its 40 ids are the end, the unknown piece, some of the source's pieces, and padding.
    """
    import sentencepiece
    folder = tmp_path_factory.mktemp("marian")
    lines = NOVEL.read_text().splitlines()
    for side, texts in (("source", lines[:400]), ("target", lines[400:800])):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(folder / side), vocab_size=60,
            character_coverage=0.98, minloglevel=2)
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    model = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    pieces = [model.id_to_piece(i) for i in range(3, 40)]
    numbers = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    return folder


def test_gpt2s_tokenizer():
    """Its one special token begins and ends a document. There is no padding and no mask."""
    vocabulary = stored_vocabulary(gpt2_tokenizer())
    assert (vocabulary.size, vocabulary.cls, vocabulary.sep, vocabulary.pad, vocabulary.mask,
            vocabulary.ordinary) == (40, 39, 39, -1, -1, (0, 39))
    assert vocabulary.byte_lengths[[0, 38, 39]].tolist() == [1, 2, 0]


def test_pieces_there_and_back(folder):
    """A text's pieces have the ids of vocab.json, and ids give the text again. Files are whole."""
    text = pieces_beside(folder / "model.safetensors")
    vocabulary, numbers = stored_vocabulary(text), json.loads((folder / "vocab.json").read_text())
    assert (vocabulary.size, vocabulary.pad, vocabulary.cls, vocabulary.sep) == (40, 39, 39, 0)
    assert vocabulary.can_follow.tolist() == [True] * 39 + [False]
    for side in ("source", "target"):
        assert base64.b64decode(json.loads(text)[side]) == (folder / f"{side}.spm").read_bytes()
    sentence = next(line for line in NOVEL.read_text().split("\n")
                    if len(line) > 20 and numbers["<unk>"] not in vocabulary.ids([line])[0])
    ids, coded = vocabulary.ids([sentence, f">>deu<<{sentence}"])
    assert vocabulary.decode([*ids, vocabulary.sep, vocabulary.pad]) == sentence
    assert coded == [numbers["<unk>"], *ids]           # a language that this translator lacks
    assert vocabulary.fingerprint == stored_vocabulary(text).fingerprint
    assert vocabulary.segments(np.array([5, 0, 39])).tolist() == [1, 1, 0]


@NEEDS_TRANSFORMERS
def test_pieces_are_those_of_transformers(folder):
    from transformers import MarianTokenizer
    theirs = MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"),
                             str(folder / "vocab.json"))
    ours = stored_vocabulary(pieces_beside(folder / "model.safetensors"))
    for text in NOVEL.read_text().splitlines()[900:920]:
        ids = theirs(text).input_ids
        assert [*ours.ids([text])[0], ours.sep] == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("change, says", [
    (lambda folder: (folder / "target.spm").unlink(), "beside the weights, found no target.spm;"),
    (lambda folder: (folder / "source.spm").write_bytes(b"x"), "expected a SentencePiece model"),
    (lambda folder: (folder / "vocab.json").write_text("{"), "vocab.json: expected JSON"),
    (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 1}'),
     "ids 0 to 1, each once, </s>, <unk>, and <pad> the last, found none of <pad>; take"),
    (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 1, "<pad>": 3}'),
     "ids 0 to 2, each once, .* found others; take"),
    (lambda folder: (folder / "vocab.json").write_text('["</s>", "<unk>", "<pad>"]'),
     "ids 0 to 0, each once, .* found none of </s>, <unk>, <pad>; take"),
    (lambda folder: (folder / "vocab.json").write_text("7"), "found none of </s>, <unk>, <pad>"),
    (lambda folder: (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": "1", "<pad>": 2}'),
     "ids 0 to 2, each once, .* found others; take")])
def test_files_that_are_no_tokenizer(change, says, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        pieces_beside(tmp_path / "model.npz")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------ config.json beside a file

@pytest.fixture
def planned(tmp_path, monkeypatch, folder):
    """Return a function that converts without writing: (config.model, described, choices)."""
    def plan(arch, config=None, **flags):
        _, _, arrays = gpt2() if arch == "gpt2" else marian()
        files.write_arrays(tmp_path / f"{arch}.npz", arrays)
        (tmp_path / "tokenizer.json").write_text(gpt2_tokenizer())
        for name in ("source.spm", "target.spm", "vocab.json"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": arch, **config}))
        return published(tmp_path / f"{arch}.npz", arch, tmp_path / "run", **flags)

    def write(config, *_, choices, **others):
        return config.model.to_dict(), config.data.described.to_dict(), choices
    monkeypatch.setattr(published_module, "assemble", lambda config, *_: config)
    monkeypatch.setattr(published_module, "write_workdir", write)
    return plan


@pytest.mark.parametrize("arch, config, fields", [
    ("gpt2", dict(n_head=4), dict(layers=2, width=16, heads=4, context=16, mlp="gelu_tanh")),
    ("gpt2", dict(n_head=2, activation_function="relu", layer_norm_epsilon=1e-6),
     dict(heads=2, mlp="relu", eps=1e-6)),
    ("marian", dict(encoder_attention_heads=2, decoder_attention_heads=2, scale_embedding=True,
                    activation_function="swish"),
     dict(layers=2, decoder_layers=1, width=16, heads=2, mlp="silu", scale_embedding=True)),
    ("marian", dict(encoder_attention_heads=4, decoder_attention_heads=4),
     dict(heads=4, mlp="gelu", scale_embedding=False))])
def test_config_json_is_read(arch, config, fields, planned):
    model, described, choices = planned(arch, config)
    assert {name: model[name] for name in fields} == fields and choices == []
    assert stored_vocabulary(described["tokenizer"]).fingerprint == described["fingerprint"]
    assert described["length"] == (16 if arch == "gpt2" else 512)


def test_what_is_assumed_is_said(planned):
    assert planned("gpt2", heads=2)[2] == ["assumed eps = 1e-05, mlp = gelu_tanh"]
    assert planned("marian", heads=2)[2] == ["assumed mlp = silu, scale_embedding = True"]


@pytest.mark.parametrize("arch, config, says", [
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = True"),
    ("gpt2", dict(model_type="gpt_neo"), "model_type = 'gpt_neo', expected gpt2 for CausalLM"),
    ("gpt2", dict(tie_word_embeddings=False), "tie_word_embeddings = False, expected True"),
    ("marian", dict(normalize_before=True), "normalize_before = True, expected False"),
    ("marian", dict(encoder_attention_heads=2, decoder_attention_heads=4),
     "decoder_attention_heads = 4, expected 2"),
    ("marian", dict(encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=39,
                    decoder_start_token_id=0), "decoder_start_token_id = 0, expected 39"),
    ("marian", dict(model_type="mbart"), "model_type = 'mbart', expected marian for Seq2Seq")])
def test_another_network_of_the_same_arrays(arch, config, says, planned):
    with pytest.raises(UserError, match=says):
        planned(arch, config)


# ------------------------------------------------------------------------------ from end to end

@pytest.mark.full
def test_a_published_gpt2(tmp_path):
    """Its logits are transformers', and it goes on from a prompt with what it finds likely."""
    files.write_arrays(tmp_path / "model.npz", gpt2()[2])
    (tmp_path / "tokenizer.json").write_text(gpt2_tokenizer())
    published(tmp_path / "model.npz", "gpt2", tmp_path / "run", heads=2)
    run, rows = kj.restore(tmp_path / "run"), make_decoders.texts()
    logits = run.model.apply(run.variables, jnp.asarray(rows["tokens"]))
    expected = np.load(GOLDENS / "gpt2.npz")["logits"]
    np.testing.assert_allclose(logits[0], expected[0], rtol=0, atol=1e-5)
    prompt = run.task.source.vocabulary.decode([3, 4, 5])
    text = run.generate(prompt, length=1, temperature=0.0)
    begun = run.model.apply(run.variables, jnp.array([[39, 3, 4, 5]]))[0, -1]
    likely = run.task.source.vocabulary.decode([int(np.argmax(begun))])
    assert text == prompt + (likely if np.argmax(begun) != 39 else "")


@pytest.mark.full
def test_a_published_marian(tmp_path, folder):
    """Its logits are transformers', and it translates texts."""
    arrays = marian()[2]
    files.write_arrays(tmp_path / "model.npz", arrays)
    for name in ("source.spm", "target.spm", "vocab.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "marian", "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "activation_function": "swish", "scale_embedding": True}))
    published(tmp_path / "model.npz", "marian", tmp_path / "run", strict=True)
    run, rows = kj.restore(tmp_path / "run"), make_decoders.pairs()
    logits = run.model.apply(run.variables, jnp.asarray(rows["tokens"][:1]),
                             jnp.asarray(rows["shifted"][:1]))
    expected = np.load(GOLDENS / "marian.npz")["logits"]
    np.testing.assert_allclose(logits, expected[:1], rtol=0, atol=1e-5)
    texts = run.predict(["he had", "the"])
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
