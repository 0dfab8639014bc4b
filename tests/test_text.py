"""Text: masks, encoders, tokens."""
import dataclasses
import json
import re

from command import command, done
from guarantees.harness import mesh_of
from guarantees.registry import CONFIGS, config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.task_file import build_task, load_task_module
from karpjax.datasets import tokenizer
from karpjax.datasets.tokenizer import BYTES, Vocabulary
from karpjax.models.encoder import segment_positions
from karpjax.models.layers.transformer import rotate, segment_mask
from karpjax.run.experiment import assemble
from karpjax.sources.text import unigram_entropy
from karpjax.tasks.masked_text import masked

SMALL = Vocabulary(size=12, mask=1, ordinary=(4, 12), pad=0)


# -------------------------------------------------------------------------------------------- masks

@pytest.mark.parametrize("rate, count", [(0.15, 10), (0.3, 19), (0.001, 1)])
def test_masks_exactly_k(rate, count):
    tokens = jnp.arange(64)
    out = masked({"tokens": tokens}, jax.random.key(0), rate, BYTES)
    assert out["at"].shape == (count,) and len(set(out["at"].tolist())) == count
    assert out["masked"].all()
    assert (out["target"] == tokens[out["at"]]).all()
    assert (out["inputs"] == tokens.at[out["at"]].set(BYTES.mask)).all()


def test_masks_are_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    # (4000, 5)
    at = jax.vmap(lambda k: masked({"tokens": jnp.arange(20)}, k, 0.25, BYTES)["at"])(keys)
    # 4 standard deviations
    np.testing.assert_allclose(np.bincount(at.reshape(-1)) / 4000, 0.25, atol=0.03)


def test_special_and_padding_tokens_are_never_masked():
    """Masking half of a row with 4 ordinary tokens of 10 gives 2 that count.

    The other 3 positions stay.
    """
    row = {"tokens": jnp.array([2, 5, 6, 3, 2, 4, 11, 3, 0, 0])}
    for seed in range(50):
        out = masked(row, jax.random.key(seed), 0.5, SMALL)
        assert out["at"].shape == (5,) and out["masked"].tolist() == [1, 1, 0, 0, 0]
        assert set(out["at"][:2].tolist()) <= {1, 2, 5, 6}
        assert (out["inputs"] == row["tokens"].at[out["at"][:2]].set(1)).all()


def test_eighty_ten_ten():
    vocabulary = Vocabulary(size=1004, mask=1, ordinary=(4, 1004))
    keys, tokens = jax.random.split(jax.random.key(0), 2000), jnp.full(20, 7)
    out = jax.vmap(lambda k: masked({"tokens": tokens}, k, 0.5, vocabulary, replace=True))(keys)
    inputs = np.asarray(jnp.take_along_axis(out["inputs"], out["at"], 1))  # (2000, 10)
    random = inputs[(inputs != 1) & (inputs != 7)]
    shares = [(inputs == 1).mean(), (inputs == 7).mean(), random.size / inputs.size]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    assert random.min() >= 4 and random.max() < 1004 and abs(random.mean() - 503.5) < 30  # uniform
    assert (jnp.sum(out["inputs"] != 7, 1) <= 10).all()  # nothing else


def test_id_zero_is_a_target():
    """Token 0 is learned, since weights have an array of their own.

    HF's Flax example weighs by labels > 0 and never learns it.
    """
    out = masked({"tokens": jnp.zeros(8, jnp.int32)}, jax.random.key(0), 0.5, BYTES)
    assert out["target"].tolist() == [0] * 4 and out["masked"].tolist() == [1] * 4


# ----------------------------------------------------------------------------------------- encoders

def small(**fields):
    return kj.models.make_model(dict(name="masked_lm", layers=2, width=16, heads=2, **fields),
                                vocabulary=12)


FORMS = {"ours": {}, "bert": dict(kj.models.BERT, context=16)}


@pytest.mark.parametrize("form", FORMS)
def test_encoder_sees_both_sides(form):
    model, tokens = small(**FORMS[form]), jnp.zeros((1, 8), jnp.int32)
    variables = model.init(jax.random.key(0), tokens)

    def out(t):
        return model.apply(variables, t)

    for changed, seen in ((7, 0), (0, 7)):
        assert not jnp.allclose(out(tokens)[0, seen], out(tokens.at[0, changed].set(3))[0, seen])


def test_rotation_depends_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(1), (2, 8))

    def at(v):
        return rotate(jnp.broadcast_to(v, (1, 6, 1, 8)))[0, :, 0]  # v at positions 0 .. 5

    np.testing.assert_allclose(jnp.diagonal(at(q) @ at(k).T, 2),
                               jnp.full(4, (at(q) @ at(k).T)[0, 2]), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_packed_documents_are_as_if_alone(form):
    """Two documents and padding in one row give each its own row's output: no leak, positions from
    0."""
    model = small(**FORMS[form])
    one, two = jax.random.randint(jax.random.key(1), (2, 1, 6), 4, 12)
    row = jnp.concatenate([one, two[:, :4], jnp.zeros((1, 3), jnp.int32)], 1)
    segments = jnp.array([[1] * 6 + [2] * 4 + [0] * 3])
    variables = model.init(jax.random.key(0), row)
    together = model.apply(variables, row, segments=segments)
    np.testing.assert_allclose(together[:, :6], model.apply(variables, one), atol=1e-5)
    np.testing.assert_allclose(together[:, 6:10], model.apply(variables, two[:, :4]), atol=1e-5)
    leaking = model.apply(variables, row)  # the mutant: no segments
    assert jnp.abs(leaking[:, 6:10] - model.apply(variables, two[:, :4])).max() > 1e-3


def test_positions_and_masks_by_hand():
    segments = jnp.array([[1, 1, 2, 2, 2, 0, 0]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0, 1]]
    assert segment_mask(segments)[0, 0].sum(-1).tolist() == [2, 2, 3, 3, 3, 2, 2]


def test_both_mlps_have_the_same_number_of_parameters():
    def count(mlp, width):
        options = dict(name="masked_lm", layers=1, width=width, heads=2, mlp=mlp)
        model, tokens = kj.models.make_model(options, vocabulary=4), jnp.zeros((1, 4), jnp.int32)
        return sum(p.size for p in jax.tree.leaves(
            jax.eval_shape(model.init, jax.random.key(0), tokens)))

    for width in (128, 256, 512, 768):
        assert abs(count("gelu", width) / count("geglu", width) - 1) < 0.03


@pytest.mark.full
def test_the_gathered_head_gives_the_loss_of_the_full_one():
    """The gathered head gives the same loss and gradient with a smaller program: K of T positions
    meet the vocabulary."""
    results = {}
    for full_head in (False, True):
        config, _ = config_of("masked_text", exact=True)
        with config.unlocked():
            config.full_head = full_head
        task = build_task(config, load_task_module("masked_text")[0])
        variables = task.init(jax.random.key(0))
        batch = jax.tree.map(jnp.asarray, next(task.source.eval_batches("test")))
        batch = task.source.preprocess(batch)

        def value(params, task=task, batch=batch):
            total, count = task.loss(params, {}, batch, None)[0]["mlm"]
            return total / count
        program = jax.jit(jax.value_and_grad(value)).lower(variables["params"]).compile()
        results[full_head] = (program(variables["params"]), program.cost_analysis()["flops"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 results[False][0], results[True][0])
    assert results[False][1] < 0.9 * results[True][1]


@pytest.mark.parametrize("fields, says", [
    (dict(positions="learned", context=4), "longer than the model's context, 4"),
    (dict(positions="sine"), "'rope', 'learned'"),
    (dict(heads=3), "number of heads that divides"), (dict(norm="mid"), "'pre', 'post'"),
    (dict(mlp="swiglu"), "'geglu', 'gelu'")])
def test_a_model_that_cannot_be(fields, says):
    model = kj.models.make_model({**dict(name="masked_lm", width=16, heads=2), **fields},
                                 vocabulary=12)
    with pytest.raises(kj.UserError, match=says):
        model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))


@pytest.mark.full
def test_masked_model_beats_the_unigram_entropy(tmp_path):
    """A masked model beats the unigram entropy and writes predictions to look at."""
    done(command("train", f"--config={CONFIGS}/mlm_tiny.py", f"--workdir={tmp_path}",
                 "--config.model.width=64",
                 "--config.steps=300", "--config.eval_every=300", optimised=True))
    summary, run = json.loads((tmp_path / "summary.json").read_text()), kj.restore(tmp_path)
    text = run.task.source.data["test"]["tokens"]
    assert summary["test/mlm"] < unigram_entropy(text) - 0.3  # nats a byte
    shown = (tmp_path / "predictions.txt").read_text()
    assert shown.count("[MASK]") == 4 * 10
    assert len(re.findall(r"^    '.+': ", shown, re.M)) == 4 * 10


# ------------------------------------------------------------------------------------------- tokens

TEXTS = ["It is a truth universally acknowledged, that a single man",
         "in possession of a good fortune, must be in want of a wife. é"]


@pytest.fixture(scope="module")
def vocabulary():
    return tokenizer.vocabulary_of(tokenizer.train_tokenizer(TEXTS, size=300))


def test_tokens_come_back_as_text(vocabulary):
    assert vocabulary.size == 300 and vocabulary.ordinary == (4, 300)
    assert vocabulary.json == tokenizer.train_tokenizer(TEXTS, size=300)
    rows = vocabulary.encode([TEXTS[1], "naïve ☃", "[MASK] is"], 64)
    assert rows.shape == (3, 64) and (rows[:, 0] == 2).all() and rows[2, 1] == 1
    assert (rows[1, -20:] == 0).all()
    text = vocabulary.decode(rows[1][rows[1] > 0])
    assert text.removeprefix("[CLS]").removesuffix("[SEP]").strip() == "naïve ☃"
    cut = vocabulary.encode([TEXTS[0] * 10], 16)[0]
    assert cut.shape == (16,) and cut[-1] == 3


def test_fingerprints(vocabulary):
    assert vocabulary.fingerprint != tokenizer.vocabulary_of(
        tokenizer.train_tokenizer(TEXTS, size=299)).fingerprint
    assert BYTES.fingerprint == "bytes"
    assert dataclasses.replace(vocabulary).fingerprint == vocabulary.fingerprint


@pytest.mark.parametrize("json, says",
                         [("{}", "not a tokenizer's JSON"), ("", "not a tokenizer's JSON")])
def test_what_is_no_tokenizer(json, says):
    with pytest.raises(kj.UserError, match=says):
        tokenizer.vocabulary_of(json)


def test_a_vocabulary_that_is_too_small():
    with pytest.raises(kj.UserError, match="expected at least 260"):
        tokenizer.train_tokenizer(TEXTS, size=100)


@pytest.mark.parametrize("name", ["classify_text", "masked_text"])
def test_features_are_of_the_text_and_not_of_its_padding(name):
    """A row that is cut to its text has the same features, and outputs at its tokens."""
    experiment = assemble(*config_of(name), mesh_of(1))
    task, variables = experiment.task, experiment.fresh_state().variables
    tokens = jnp.asarray(task.source.first(16)["tokens"], jnp.int32)
    lengths = np.asarray(task.derived({"tokens": tokens})["segments"]).sum(1)
    row = int(lengths.argmin())
    assert 2 < lengths[row] < tokens.shape[1]
    padded, cut = tokens[row:row + 1], tokens[row:row + 1, :lengths[row]]
    outputs, features = task.run_model(variables, padded, features=True)
    expected, same = task.run_model(variables, cut, features=True)
    np.testing.assert_allclose(features["pooled"], same["pooled"], rtol=1e-5, atol=1e-6)
    if outputs.ndim == 3:
        outputs = outputs[:, :lengths[row]]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
