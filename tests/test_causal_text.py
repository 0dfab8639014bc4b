"""Causal language modelling: its counts equal those made by hand, and texts go on as they should.

A table stands in for the network, so that every number can be made by hand.
"""
import functools

from flax import linen as nn
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.core.task_file import build_task, load_task_module
from karpjax import generate as generate_command
from karpjax.generation.continuation import continue_rows
from karpjax.run.evaluator import make_evaluator
from karpjax.run.loop import fit

TEXT = "to be or not to be: that is the question.\nwhéther 'tis nobler in the mind to suffer\n"
TEXT = 40 * TEXT


class Table(nn.Module):
    """Logits of the next token that depend on the last one alone."""
    vocabulary: int

    @nn.compact
    def __call__(self, tokens, train=False, segments=None, cache=None, positions=None, at=None):
        table = self.param("table", nn.initializers.normal(1.0), (self.vocabulary,) * 2)
        tokens = tokens if at is None else jnp.take_along_axis(tokens, at, axis=1)
        logits = table[tokens]                                                         # (B, T, V)
        return logits if cache is None else (logits, cache)

    def empty_cache(self, batch, length):
        return {"seen": jnp.zeros((batch, length))}


@pytest.fixture
def table_in_place(monkeypatch):
    monkeypatch.setattr(kj.models, "make_model", lambda options, vocabulary: Table(vocabulary))


@pytest.fixture
def task(table_in_place, tmp_path):
    """Return the task on the characters of TEXT, of which é takes two bytes."""
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT)
    config = kj.config(task="causal_text", model=dict(name="causal_lm"),
                       data=dict(corpus=str(file), length=16, batch_size=8))
    return build_task(config, load_task_module("causal_text")[0])


@pytest.fixture
def variables(task):
    return task.init(jax.random.key(0))


@pytest.fixture
def generate(task, variables):
    return functools.partial(task.methods["generate"], variables)


# ----------------------------------------------------------------------------------------- counts

def test_nats_and_bits_of_a_whole_split(task, variables):
    """Every character of the split but the first counts once, whatever the windows and batches."""
    whole = TEXT[int(0.95 * int(0.9 * len(TEXT))):int(0.9 * len(TEXT))]
    ids = np.array(task.source.vocabulary.ids([whole])[0])
    log_p = np.asarray(jax.nn.log_softmax(variables["params"]["table"]), np.float64)
    nats = -log_p[ids[:-1], ids[1:]]
    assert len(nats) % 16 and len(nats) > 16                     # the last window is padded
    metrics = make_evaluator(task, mesh_of(1))(variables, "validation")
    np.testing.assert_allclose(metrics["nll"], nats.mean(), rtol=1e-6)
    bits = nats.sum() / np.log(2) / len(whole[1:].encode())
    np.testing.assert_allclose(metrics["bits_per_byte"], bits, rtol=1e-6)
    # Mutants: bits a character; the last, padded window left out.
    assert len(whole[1:].encode()) > len(nats)
    assert abs(nats[:len(nats) // 16 * 16].mean() - nats.mean()) > 1e-4 * nats.mean()


def test_documents_that_share_a_row(table_in_place):
    """The last token of a document does not predict the next one's first."""
    config, _ = config_of("causal_text")
    task = build_task(config, load_task_module("causal_text")[0])
    vocabulary, variables = task.source.vocabulary, task.init(jax.random.key(0))
    log_p = np.asarray(jax.nn.log_softmax(variables["params"]["table"]), np.float64)
    nats = []
    for i in range(len(task.source.data["validation"]["tokens"])):
        row = {name: column[i] for name, column in task.source.data["validation"].items()}
        for k in range(len(row["tokens"]) - 1):
            if row["segments"][k] == row["segments"][k + 1] > 0:
                nats.append(-log_p[row["tokens"][k], row["tokens"][k + 1]])
    metrics = make_evaluator(task, mesh_of(1))(variables, "validation")
    np.testing.assert_allclose(metrics["nll"], np.mean(nats), rtol=1e-5)
    assert vocabulary.cls in task.source.data["validation"]["tokens"][:, 1:]     # rows are shared


# ------------------------------------------------------------------------------------------ texts

def test_greedy_text_is_the_argmax_of_the_table(task, variables, generate):
    """It goes on beyond the context of 16, and is the same in a list of other prompts."""
    table, vocabulary = np.asarray(variables["params"]["table"]), task.source.vocabulary
    ids = vocabulary.ids(["to be"])[0]
    for _ in range(50):
        ids.append(int(table[ids[-1]].argmax()))
    assert generate("to be", length=50, temperature=0.0) == vocabulary.decode(ids)
    assert generate(["or", "to be", "question"], length=50, temperature=0.0)[1] == \
        vocabulary.decode(ids)


def test_samples_depend_on_seed_and_place_alone(generate):
    alone = generate(["to be", "or"], length=40, seed=3)
    assert alone == generate(["to be", "or", "a question is"], length=40, seed=3)[:2]
    assert alone != generate(["to be", "or"], length=40, seed=4)
    twins = generate(["to be", "to be"], length=40)
    assert twins[0] != twins[1] and all(len(text) == 45 for text in twins)


@pytest.mark.parametrize("prompt, options, message", [
    ("", {}, "expected a text or a list of texts that are not empty, found ''"),
    ([], {}, "expected a text or a list of texts that are not empty"),
    (["to be", ""], {}, "expected a text or a list of texts that are not empty"),
    ("to be or not to be", {}, "prompt 0 has 18 tokens, expected at most the context, 16"),
    ("to be 2", {}, "the character '2' at 6 is none of the"),
    ("to be", {"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, found 0.0"),
    ("to be", {"temperature": -1.0}, "temperature: expected a number of at least 0"),
    ("to be", {"top_k": -1}, "top_k: expected a whole number of at least 0"),
    ("to be", {"length": 0}, "length: expected a whole number of at least 1, found 0"),
])
def test_bad_input_in_one_line(generate, prompt, options, message):
    with pytest.raises(UserError) as error:
        generate(prompt, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.full
def test_a_trained_run_continues_texts(tmp_path, capsys):
    """From training to the command: a cached text is the argmax of passes without a cache."""
    (tmp_path / "corpus.txt").write_text(TEXT)
    config = kj.config(
        task="causal_text", steps=2, eval_every=2, save_every=2,
        best="min validation/bits_per_byte",
        model=dict(name="causal_lm", layers=1, width=16, heads=2),
        data=dict(corpus=str(tmp_path / "corpus.txt"), length=16, batch_size=8))
    summary = fit(config, tmp_path / "run", mesh=mesh_of(1))
    assert {"validation/nll", "test/nll", "test/bits_per_byte", "test/accuracy"} <= set(summary)
    samples = (tmp_path / "run" / "samples.txt").read_text()
    assert samples.count("-------- sample") == 3 and (tmp_path / "run" / "attention.png").exists()

    run = kj.restore(tmp_path / "run")
    vocabulary = run.task.source.vocabulary
    ids = vocabulary.ids(["to be"])[0]
    for _ in range(11):
        row = np.pad(ids, (0, 16 - len(ids)))[None].astype(np.uint8)
        logits = np.asarray(run.predict(row))[0, len(ids) - 1]
        ids.append(int(logits.argmax()))
    assert run.generate("to be", length=11, temperature=0.0) == vocabulary.decode(ids)

    capsys.readouterr()
    generate_command.main([f"--workdir={tmp_path / 'run'}", "--prompt=to be", "--length=11",
                           "--temperature=0"])
    assert capsys.readouterr().out == vocabulary.decode(ids) + "\n"
    with pytest.raises(UserError, match="--prompt=... is missing"):
        generate_command.main([f"--workdir={tmp_path / 'run'}"])


# ------------------------------------------------------------------------------------ continuation

def counting(calls=None, eos=-1):
    """Return a window function whose next token is the last one plus one."""
    def window(tokens, starts, keys, steps):
        if calls is not None:
            calls.append([tokens[b, :starts[b]].tolist() for b in range(len(tokens))])
        last = tokens[np.arange(len(tokens)), starts - 1]
        new = last[:, None] + 1 + np.arange(steps)
        return np.where(np.maximum.accumulate(np.pad(new, ((0, 0), (1, 0)))[:, :-1] == eos, axis=1),
                        0, new)
    return window


def test_a_full_context_goes_on_from_its_last_half():
    calls = []
    keys = jax.random.split(jax.random.key(0), 2)
    rows = continue_rows(counting(calls), [[1], [5, 6, 7]], 10, 4, keys)
    assert rows == [list(range(2, 12)), list(range(8, 18))]
    # A window holds at most the context, and after the prompt at least half of it.
    lengths = [len(row) for call in calls[1:] for row in call]
    assert max(lengths) <= 4 and min(lengths) >= 2


def test_a_row_ends_with_its_end_token():
    """What a model says after its end is no text, though other rows go on."""
    keys = jax.random.split(jax.random.key(0), 2)
    rows = continue_rows(counting(eos=9), [[7], [1]], 6, 8, keys, eos=9)
    assert rows == [[8, 9], [2, 3, 4, 5, 6, 7]]


def test_draws_differ_from_window_to_window():
    """Positions begin again in each window. Their keys must not: a mutant repeats its draws."""
    seen = []

    def window(tokens, starts, keys, steps):
        seen.append(np.asarray(jax.random.key_data(keys)).tolist())
        return np.ones((len(tokens), steps), int)
    continue_rows(window, [[1]], 12, 4, jax.random.split(jax.random.key(0), 1))
    assert len(seen) == len({str(keys) for keys in seen}) > 3
