"""Beam search against exhaustive search and against Hugging Face's, and what a fault would do."""
import functools
import importlib.util
import itertools
import pathlib

from data.goldens import make_beam
from data.goldens.make_beam import CASES, MARIAN, STARTS, TABLE
from data.goldens.make_vision import weights as drawn_weights
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core.sharding import batch_sharding
from karpjax.generation import beam, beam_search, generate, greedy
from karpjax.models.layers.largest import largest
from karpjax.precompile.hlo import collectives

GOLDEN = pathlib.Path(__file__).parent / "data" / "goldens" / "beam.npz"
LIVE = all(map(importlib.util.find_spec, ("torch", "transformers")))
SOME = make_beam.table()
NEEDS_BOTH = pytest.mark.skipif(not LIVE, reason="PyTorch and transformers are not installed")
SMALL, SMALL_STARTS = np.random.default_rng(5).normal(size=(5, 5, 5, 5)).astype(np.float32), [2, 3]
FIVE = dict(length=5, eos=0, pad=1)


def by_table(table):
    """Return the step of a model whose logits depend on a row's last two tokens and its position.

    The cache is the token before, as a network's has the keys and values of all before.
    """
    def step(token, position, cache):
        return jnp.asarray(table)[cache, token, position], token
    return step


def search(table, starts, **options):
    """Return (tokens (B, K, L), scores (B, K)) after prompts of one token."""
    @jax.jit
    def run(starts):
        step = by_table(table)
        logits, cache = step(starts, starts * 0, starts)
        return beam_search(step, cache, logits, starts * 0 + 1, **options)
    return run(jnp.asarray(starts))


# --------------------------------------------------------------------- against exhaustive search

def all_hypotheses(start: int, length_penalty: float, most: int) -> list:
    """Return the `most` best of all 1,365 hypotheses of at most 5 tokens out of 5."""
    log_p = SMALL - np.log(np.exp(SMALL.astype(np.float64)).sum(-1, keepdims=True))
    hypotheses = []
    for n in range(1, 6):
        # an end token stands at the end alone, and may be missing after 5
        for tokens in itertools.product(*[range(1, 5)] * (n - 1), range(5 if n == 5 else 1)):
            text, total = (start, start, *tokens), 0.0
            for i in range(n):
                total += log_p[text[i], text[i + 1], i, text[i + 2]]
            hypotheses.append((total / n**length_penalty, [*tokens, *[1] * (5 - n)]))
    return sorted(hypotheses, reverse=True)[:most]


def is_exhaustive(length_penalty: float) -> bool:
    """Return whether so many beams that nothing is lost find what an exhaustive search finds."""
    tokens, scores = search(SMALL, SMALL_STARTS, beams=320, early_stopping="never",
                            length_penalty=length_penalty, **FIVE)
    expected = [all_hypotheses(start, length_penalty, 320) for start in SMALL_STARTS]
    return tokens.tolist() == [[tokens for _, tokens in row] for row in expected] and np.allclose(
        scores, [[score for score, _ in row] for row in expected], rtol=0, atol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_exhaustive(length_penalty):
    assert is_exhaustive(length_penalty)


def without_eos(rules):
    return jnp.maximum(jnp.arange(rules.length), 1.0) ** rules.length_penalty


def padded(rules):
    return jnp.full(rules.length, float(rules.length)) ** rules.length_penalty


FAULTS = {"EOS is not counted": ("norms", without_eos), "padding is counted": ("norms", padded),
          "a cache of other beams": ("of_beams", lambda cache, parents: cache),
          "ended beams go on": ("survivors", lambda sums, ends: jax.lax.top_k(
              sums, sums.shape[1] // 2)),
          "stops at the first end": ("can_win", lambda best, worst, i, rules: best > 0)}


@pytest.mark.parametrize("fault", FAULTS)
def test_mutants(fault, monkeypatch):
    monkeypatch.setattr(beam, *FAULTS[fault])
    assert not is_exhaustive(1.0)


# ----------------------------------------------------------------------- against Hugging Face's

def reference(model: str, case: str, source: str) -> dict:
    if source == "live":
        return getattr(make_beam, model)(case)
    golden = np.load(GOLDEN)
    return {key: golden[f"{model}/{case}/{key}"] for key in ("tokens", "scores")}


def of_table(case: str):
    return search(SOME, STARTS, **TABLE, **CASES[case])


def of_marian(case: str):
    model, variables = marian()
    search = functools.partial(translations, model, **MARIAN, **CASES[case])
    return jax.jit(search)(variables, *map(jnp.asarray, make_beam.sources().values()))


@functools.cache
def marian():
    """Return (a translator, its variables), with the weights of the reference."""
    model = kj.models.make_model(dict(name="seq2seq", layers=2, decoder_layers=1, width=16,
                                      heads=2, **kj.models.MARIAN), vocabulary=40)
    like = jax.eval_shape(model.init, jax.random.key(0), *[jnp.zeros((1, 8), jnp.int32)] * 2)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    shapes = {name: array.shape for name, array in weights.to_pytorch(model, zeros).items()}
    arrays = make_beam.enlarged(drawn_weights(shapes))
    return model, jax.tree.map(jnp.asarray, weights.to_karpjax(model, like, arrays, "drawn"))


def translations(model, variables, source, segments, **options):
    """Return the hypotheses of sources (B, S). The start token is the padding's."""
    apply = functools.partial(model.apply, variables)

    def step(token, position, cache):
        logits, written = apply(token[:, None], cache["memory"], cache["segments"],
                                cache=cache["written"], positions=position[:, None],
                                method="decode")                                    # (B*K, 1, V)
        return logits[:, 0], {**cache, "written": written}
    memory = apply(apply(source, segments, method="encode"), method="keys_and_values")
    cache = {"memory": memory, "segments": segments,
             "written": model.empty_cache(len(source), options["length"] + 1)}
    start = jnp.zeros(len(source), jnp.int32)
    logits, cache = step(start + options["pad"], start, cache)
    return beam_search(step, cache, logits, start + 1, **options)


OURS = {"of_table": of_table, "of_marian": of_marian}


# Each compiles a program. The default run has all of the table's and two of Marian's.
SOON = ("0.6 True", "forced and banned False")


@pytest.mark.parametrize("source", ["golden", pytest.param("live", marks=NEEDS_BOTH)])
@pytest.mark.parametrize("model, case", [
    (model, case) if model == "of_table" or case in SOON
    else pytest.param(model, case, marks=pytest.mark.full)
    for model in OURS for case in CASES])
def test_hugging_face(model, case, source):
    """All K hypotheses of every row are Hugging Face's, token for token."""
    expected = reference(model, case, source)
    tokens, scores = OURS[model](case)
    np.testing.assert_array_equal(tokens, expected["tokens"])
    np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", OURS)
def test_the_cases_differ(model):
    """The options change what Hugging Face finds, or the test above would test little."""
    found = {case: reference(model, case, "golden")["tokens"] for case in CASES}
    for penalty in (1.0, 2.0):
        by_form = [found[f"{penalty} {early}"].tobytes() for early in (True, False, "never")]
        assert len(set(by_form)) > 1
    assert len({tokens.tobytes() for tokens in found.values()}) >= 8


# ------------------------------------------------------------------------------------- the rest

@pytest.mark.parametrize("early_stopping", [True, False])
def test_one_beam_is_greedy(early_stopping):
    options = {name: TABLE[name] for name in ("length", "eos", "pad")}
    table = SOME - 2.5 * (np.arange(SOME.shape[-1]) == options["eos"])
    tokens, scores = search(table, STARTS, beams=1, early_stopping=early_stopping, **options)
    step, starts = by_table(table), jnp.array(STARTS)
    logits, cache = step(starts, starts * 0, starts)
    expected = generate(step, cache, logits, starts * 0 + 1, choose=greedy, **options)
    assert tokens[:, 0].tolist() == expected.tolist()
    ends = expected[:, -1] == TABLE["pad"]
    assert ends.any() and not ends.all() and (scores < 0).all()


def test_fewer_hypotheses_than_beams():
    """Places that nothing fills have the score -inf and hold padding."""
    tokens, scores = search(SMALL, SMALL_STARTS, beams=7, **{**FIVE, "length": 1})
    assert np.isfinite(scores[:, :5]).all() and (scores[:, 5:] == -jnp.inf).all()
    assert np.sort(tokens[:, :5, 0]).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert (tokens[:, 5:] == FIVE["pad"]).all()


def on_eight_devices() -> tuple:
    """Return (the tokens of 8 rows on 8 devices, what they sent each other)."""
    starts = jax.device_put(jnp.array([*STARTS, 8, 9]), batch_sharding(mesh_of(8)))

    def run(starts):
        step = by_table(SOME)
        logits, cache = step(starts, starts * 0, starts)
        return beam_search(step, cache, logits, starts * 0 + 1, **TABLE)[0]
    program = jax.jit(run).lower(starts).compile()
    return program(starts), collectives(program.as_text())


def test_rows_stay_on_their_devices(monkeypatch):
    """Devices only tell each other whether they have a row that is not done."""
    tokens, sent = on_eight_devices()
    assert sent == {"all-reduce": (1, 1)}
    assert tokens.tolist() == search(SOME, [*STARTS, 8, 9], **TABLE)[0].tolist()
    # a mutant
    monkeypatch.setattr(beam, "largest", jax.lax.top_k)
    tokens, sent = on_eight_devices()
    assert sent["all-gather"][1] > 1000


def drawn_values(n: int, kind: str):
    rng = np.random.default_rng(0)
    return {"few": rng.integers(0, 3, (3, n)).astype(np.float32),       # many are equal
            "none": np.where(rng.random((3, n)) < 2 / n, 1.0, -np.inf).astype(np.float32),
            "all": rng.normal(size=(3, n)).astype(np.float32)}[kind]


@pytest.mark.parametrize("kind", ["few", "none", "all"])
@pytest.mark.parametrize("n, k", [(9, 9), (7 * 128, 7), (1000, 7), (128 * 9, 3)])
def test_largest(n, k, kind):
    """The largest values are top_k's, in its order, with equal ones and with -inf."""
    values = jnp.asarray(drawn_values(n, kind))
    for ours, theirs in zip(largest(values, k), jax.lax.top_k(values, k), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("options, message", [
    (dict(beams=0), "beams: expected a whole number of at least 1, found 0"),
    (dict(beams=2.0), "beams: expected a whole number of at least 1, found 2.0"),
    (dict(length=0), "length: expected a whole number of at least 1, found 0"),
    (dict(length_penalty=float("nan")), "length_penalty: expected a finite number, found nan"),
    (dict(early_stopping="always"), "early_stopping: expected True, False or 'never', found 'alwa"),
    (dict(early_stopping=1), "early_stopping: expected True, False or 'never', found 1"),
    (dict(forced_eos=True, eos=-1), "forced_eos: expected an end token, found eos=-1"),
    (dict(eos=5), "eos: expected an id of 0 to 4, or -1 for none, found 5"),
    (dict(banned=(2, -1)), "banned: expected ids of 0 to 4, found -1"),
    (dict(banned=(5,)), "banned: expected ids of 0 to 4, found 5")])
def test_bad_input(options, message):
    with pytest.raises(UserError) as error:
        beam_search(by_table(SMALL), None, jnp.zeros((1, 5)), jnp.ones(1, int),
                    **{**dict(length=3, beams=2, eos=0, pad=1), **options})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
