"""Translation: what is predicted, what is smoothed, what is scored, on models made by hand.

    Late    predicts the token that the decoder has just read
    Source  predicts the source, token by token, so that its translations are known
"""
import types

from flax import linen as nn
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

import karpjax as kj
from karpjax import generate as generate_command
from karpjax.core.errors import UserError
from karpjax.core.task_file import build_task, load_task_module
from karpjax.generation.scores import scores
from karpjax.generation.translation import texts_of
from karpjax.run.evaluator import make_evaluator
from karpjax.run.loop import fit
from karpjax.run.restore import Run

SURE = 30.0  # a logit that leaves nothing to the others


class Late(nn.Module):
    vocabulary: int

    @nn.compact
    def __call__(self, source, target, train=False, **segments):
        scale = self.param("scale", nn.initializers.constant(SURE), ())
        return scale * jax.nn.one_hot(target, self.vocabulary)                         # (B, T, V)


class Source(nn.Module):
    vocabulary: int
    depth = 1

    def setup(self):
        self.scale = self.param("scale", nn.initializers.constant(SURE), ())

    def __call__(self, source, target, train=False, **segments):
        return self.encode(source)

    def encode(self, source, segments=None):
        return self.scale * jax.nn.one_hot(source, self.vocabulary)                    # (B, S, V)

    def keys_and_values(self, memory):
        return memory

    def decode(self, target, memory, segments, cache, positions):
        return jnp.take_along_axis(memory, positions[..., None], axis=1), cache        # (B, 1, V)

    def empty_cache(self, batch, length, dtype):
        return {"seen": jnp.zeros((batch, length))}


def task_with(model, monkeypatch, **overrides):
    """Return the task, of this model, on the stand-in pairs, and its variables."""
    monkeypatch.setattr(kj.models, "make_model", lambda options, vocabulary: model(vocabulary))
    config, _ = config_of("translate", **overrides)
    task = build_task(config, load_task_module("translate")[0])
    return task, task.init(jax.random.key(0))


def first_batch(task, split="validation"):
    return task.source.preprocess(jax.tree.map(jnp.asarray, next(task.source.eval_batches(split))))


# ----------------------------------------------------------------------------------------- the loss

def test_the_target_is_read_one_token_late(monkeypatch):
    """A model that copies what the decoder reads must be wrong. Read in time, it would be right."""
    task, variables = task_with(Late, monkeypatch)
    batch = first_batch(task)
    vocabulary, target = task.source.vocabulary, np.asarray(batch["target"])
    late = np.asarray(task.inputs(batch)["target"])
    real = target != vocabulary.pad
    assert (late[:, 0] == vocabulary.cls).all()
    assert (late[:, 1:] == target[:, :-1])[real[:, 1:]].all()
    losses, metrics, _ = task.loss(variables["params"], {}, batch, None)
    assert metrics["nll"][0] / metrics["nll"][1] > SURE / 2
    in_time = -jax.nn.log_softmax(SURE * jax.nn.one_hot(target, vocabulary.size))       # the mutant
    assert np.take_along_axis(np.asarray(in_time), target[..., None], -1)[real].max() < 1e-6


def test_pairs_that_share_a_row(monkeypatch):
    """Each target of a row begins on its own: the end of one does not predict the next."""
    task, _ = task_with(Late, monkeypatch)
    vocabulary = task.source.vocabulary
    target, segments = jnp.array([[7, 8, 9, 10, 0]]), jnp.array([[1, 1, 2, 2, 0]])
    late = task.inputs({"source": target, "target": target, "source_segments": segments,
                        "target_segments": segments})["target"]
    np.testing.assert_array_equal(late[0, :4], [vocabulary.cls, 7, vocabulary.cls, 9])


def test_padding_neither_counts_nor_gets_mass(monkeypatch):
    """Loss and smoothing equal sums by hand over real tokens, of logits drawn at random."""
    task, _ = task_with(Source, monkeypatch, label_smoothing=0.2)
    batch = first_batch(task)
    vocabulary, target = task.source.vocabulary, np.asarray(batch["target"])
    logits = jax.random.normal(jax.random.key(1), (*target.shape, vocabulary.size))
    monkeypatch.setattr(Source, "__call__", lambda self, *args, **kwargs: logits + 0 * self.scale)
    losses, metrics, _ = task.loss({"scale": jnp.float32(1)}, {}, batch, None)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    wanted, total, count = np.zeros(log_p.shape), 0.0, 0
    wanted[..., vocabulary.can_follow] = 0.2 / vocabulary.can_follow.sum()
    for b, t in np.ndindex(*target.shape):
        if target[b, t] != vocabulary.pad:
            wanted[b, t, target[b, t]] += 0.8
            total, count = total - (wanted[b, t] * log_p[b, t]).sum(), count + 1
    assert wanted[..., vocabulary.pad].max() == 0 and np.allclose(wanted.sum(-1).max(), 1)
    assert losses["xent"][1] == count < target.size
    np.testing.assert_allclose(losses["xent"][0] / count, total / count, rtol=1e-5)
    mutant = 0.8 * float(metrics["nll"][0]) - 0.2 * log_p.mean(-1)[target != vocabulary.pad].sum()
    assert abs(mutant - total) / total > 1e-5                 # mass on every token, on padding too


# --------------------------------------------------------------------------------------- the scores

def test_scores_are_those_of_the_whole_set(monkeypatch):
    """Translations that are the source score as the source does. The last batch is not full."""
    task, variables = task_with(Source, monkeypatch)
    rows = task.source.data["validation"]
    assert len(rows["source"]) % task.source.batch_size
    sources, references = (texts_of(task.source.vocabulary, rows[side])
                           for side in ("source", "target"))
    measured = make_evaluator(task, mesh_of(2)).measure(variables, "validation", at_end=True)
    assert texts_of(task.source.vocabulary, measured.rows["translation"]) == sources
    expected = BLEU().corpus_score(sources, [references]).score
    assert measured.metrics["BLEU"] == expected
    # The same of another mesh, and of beams.
    for split, mesh in (("validation", mesh_of(1)), ("test", mesh_of(8))):
        again = make_evaluator(task, mesh).measure(variables, split)
        assert texts_of(task.source.vocabulary, again.rows["translation"]) == \
            texts_of(task.source.vocabulary, task.source.data[split]["source"])
    evaluate_of = make_evaluator(task, mesh_of(1)).evaluate_of
    assert [evaluate_of(split).args for split in ("validation", "test")] == [(1,), (2,)]   # beams
    text = task.pictures(measured.totals, measured.rows, "validation")["translations.txt"]
    assert f"BLEU {expected:.2f} (" in text and "case:mixed" in text and "tok:13a" in text
    assert text.count("translation  ") == len(sources)


def test_an_evaluation_of_one_split_alone():
    task = types.SimpleNamespace(evaluate={"test": print})
    with pytest.raises(UserError, match=r"function under '', .* found \['test'\] alone; add"):
        make_evaluator(task, None).evaluate_of("validation")


HYPOTHESES = ["the cat sat on the mat today", "a small dog runs home"]
REFERENCES = ["the cat sat on the mat", "A small dog runs across the field"]


def test_bleu_is_of_the_set_and_no_mean_of_sentences():
    values, interval, signatures = scores(HYPOTHESES, REFERENCES)
    np.testing.assert_allclose([values["BLEU"], values["BLEU_lc"], values["chrF"]],
                               [58.5546, 69.9083, 64.4080], atol=1e-4)
    sentence = BLEU(effective_order=True).sentence_score
    mean = np.mean([sentence(hypothesis, [reference]).score
                    for hypothesis, reference in zip(HYPOTHESES, REFERENCES, strict=True)])
    assert abs(mean - values["BLEU"]) > 1                                            # the mutant
    assert interval["BLEU_low"] < values["BLEU"] < interval["BLEU_high"]
    assert "case:lc" in signatures[1] and "nc:6|nw:0" in signatures[2]


def test_translations_that_say_nothing_have_scores():
    """At first a model writes little or nothing. The mutant is sacrebleu's own chrF."""
    hypotheses, references = ["", "", "Hund"], ["Ein Hund", "Zwei Katzen", "Ein Hund"]
    values, interval, _ = scores(hypotheses, references)
    np.testing.assert_allclose([values["BLEU"], values["chrF"]], [0, 14.7781], atol=1e-4)
    # sacrebleu's interval is the mean of the resamples and half their range: it may begin below 0
    assert interval["chrF_low"] < values["chrF"] < interval["chrF_high"]
    assert scores(["", ""], references[:2])[0] == {"BLEU": 0, "BLEU_lc": 0, "chrF": 0}
    with pytest.raises(TypeError):
        CHRF().corpus_score(hypotheses, [references], n_bootstrap=1000)


# -------------------------------------------------------------------------------------------- a run

def test_texts_become_texts(monkeypatch):
    """Ids, as the data set has them, become ids. This model's translation is the source itself."""
    task, variables = task_with(Source, monkeypatch)
    run = Run(config_of("translate")[0], task, variables, 0, {})
    assert run.predict(["to be", "or not"]) == ["to be", "or not"]
    rows = task.source.data["test"]["source"][:2]
    np.testing.assert_array_equal(run.predict({"source": rows}), rows)


@pytest.mark.full
def test_a_trained_run_translates_texts(tmp_path):
    config, task_file = config_of("translate", steps=4, save_every=4, eval_every=4)
    summary = fit(config, tmp_path, mesh=mesh_of(1), task_file=task_file)
    assert {"validation/nll", "validation/BLEU", "test/BLEU", "test/BLEU_lc", "test/chrF"} <= \
        set(summary) and set(summary["interval_95"]) >= {"BLEU_low", "BLEU_high"}
    assert "signature" not in summary and (tmp_path / "attention.png").exists()
    assert "version:" in (tmp_path / "translations.txt").read_text()
    run = kj.restore(tmp_path)
    rows = run.task.source.data["test"]["source"][:3]
    ids = np.asarray(run.predict({"source": rows}))
    texts = texts_of(run.task.source.vocabulary, rows)
    assert run.predict(texts) == texts_of(run.task.source.vocabulary, ids)
    with pytest.raises(UserError, match="continues texts or makes pictures, found the task 'tr"):
        generate_command.main([f"--workdir={tmp_path}", "--prompt=to be"])


@pytest.mark.parametrize("change, message", [
    ({"label_smoothing": 1.0}, "config.label_smoothing: expected a share of at least 0 and below"),
    ({"beams": 0}, "beams: expected a whole number of at least 1, found 0"),
])
def test_bad_input_in_one_line(tmp_path, change, message):
    config, task_file = config_of("translate", **change)
    with pytest.raises(UserError) as error:
        fit(config, tmp_path / "run", mesh=mesh_of(1), task_file=task_file)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
