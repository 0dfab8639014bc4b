"""Decoders continue texts through a cache as one full pass would, and see nothing that is later,
of another document or of padding."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError
from karpjax.models.layers.transformer import attention_of

SIZE = dict(layers=2, width=16, heads=2, context=12)
FORMS = {"today's": {}, "gpt2": kj.models.GPT2, "marian": kj.models.MARIAN,
         "learned": dict(positions="learned")}
LENGTHS, PROMPTS = np.array([8, 3, 5, 6]), np.array([2, 3, 1, 5])  # of four documents
PACKED = [(0, 0), (1, 0), (1, 3), (2, 0)]   # the row and the column where each begins
SEGMENTS = np.array([[1] * 8, [1] * 3 + [2] * 5, [1] * 6 + [0] * 2])


def documents(seed: int = 0) -> jax.Array:
    """Return the tokens (4, 8) of four documents. Behind each is junk."""
    return jnp.asarray(np.random.default_rng(seed).integers(1, 20, (4, 8)))


def packed(tokens) -> np.ndarray:
    """Return the documents in three rows (3, 8), of which the second has two."""
    rows = np.zeros((3, 8), int)
    for document, length, (row, start) in zip(tokens, LENGTHS, PACKED, strict=True):
        rows[row, start:start + length] = document[:length]
    return rows


def unpacked(logits: np.ndarray) -> list[np.ndarray]:
    """Return the logits of each document."""
    return [logits[row, start:start + length]
            for length, (row, start) in zip(LENGTHS, PACKED, strict=True)]


def model_of(name: str, form: dict):
    return kj.models.make_model({"name": name, **SIZE, **form}, vocabulary=20)


def variables_of(model, *inputs) -> dict:
    """Return initial weights, enlarged: nothing would show in the logits of those of 0.02."""
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: 3 * leaf, variables)


@functools.partial(jax.jit, static_argnames="apply")
def through_cache(apply, cache, tokens, prompts, shift=0):
    """Return the logits (B, T, V) of rows whose prompts (B,) come at once, then token by token.

    shift   (B,), the mutant's: added to the positions of single tokens
    """
    B, T = tokens.shape
    longest = int(PROMPTS.max())
    logits, cache = apply(tokens[:, :longest], cache, None)                        # (B, longest, V)
    every = jnp.zeros((B, T, logits.shape[-1])).at[:, :longest].set(logits)
    rows = jnp.arange(B)

    def step(carry, i):
        every, cache = carry
        at = prompts + i                                                          # (B,)
        token = tokens[rows, jnp.minimum(at, T - 1)]
        logits, cache = apply(token[:, None], cache, (at + shift)[:, None])       # (B, 1, V)
        return (every.at[rows, at].set(logits[:, 0], mode="drop"), cache), None
    (every, _), _ = jax.lax.scan(step, (every, cache), jnp.arange(T - int(PROMPTS.min())))
    return every


def differences(full, every) -> list[float]:
    """Return the largest difference of each document's logits."""
    return [float(np.abs(ours - cached[:len(ours)]).max())
            for ours, cached in zip(unpacked(np.asarray(full)), np.asarray(every), strict=True)]


@pytest.fixture(scope="module", params=["today's", pytest.param("gpt2", marks=pytest.mark.full)])
def causal(request):
    model, tokens = model_of("causal_lm", FORMS[request.param]), documents()
    return model, variables_of(model, tokens), tokens


def test_a_causal_model_through_its_cache(causal):
    """Packed rows in one pass equal each document alone, by unequal prompts and single tokens."""
    model, variables, tokens = causal

    def apply(tokens, cache, positions):
        return model.apply(variables, tokens, cache=cache, positions=positions)
    full = jax.jit(model.apply)(variables, packed(tokens), segments=SEGMENTS)
    cache = model.empty_cache(4, 12)
    every = through_cache(apply, cache, tokens, PROMPTS)
    assert np.std(full) > 0.1 and max(differences(full, every)) < 1e-5
    # the mutant: all go on where the longest prompt ends
    shifted = through_cache(apply, cache, tokens, PROMPTS, PROMPTS.max() - PROMPTS)
    assert min(differences(full, shifted)[i] for i in (0, 2)) > 1e-3


def test_a_causal_model_sees_nothing_later(causal):
    model, variables, tokens = causal
    apply = jax.jit(model.apply)
    logits, others = (apply(variables, x) for x in (tokens, np.where(np.arange(8) < 5, tokens, 7)))
    np.testing.assert_array_equal(logits[:, :5], others[:, :5])
    assert np.abs(logits[:, 5:] - others[:, 5:]).max() > 1e-3
    at = jnp.array([[0, 7], [3, 2], [1, 1], [6, 5]])
    np.testing.assert_allclose(apply(variables, tokens, at=at),
                               jnp.take_along_axis(logits, at[..., None], axis=1), atol=1e-5)


@pytest.fixture(scope="module", params=["today's", *(pytest.param(form, marks=pytest.mark.full)
                                                      for form in ("marian", "learned"))])
def translator(request):
    model, source, target = model_of("seq2seq", FORMS[request.param]), documents(1), documents(2)
    return model, variables_of(model, source, target), source, target


def test_a_translator_through_its_cache(translator):
    """Packed pairs in one pass equal each pair alone, whose memory's keys are computed once."""
    model, variables, source, target = translator
    full = jax.jit(model.apply)(variables, packed(source), packed(target),
                                source_segments=SEGMENTS, target_segments=SEGMENTS)
    there = jnp.asarray(np.arange(8) < LENGTHS[:, None]).astype(int)
    memory = jax.jit(lambda: model.apply(
        variables, model.apply(variables, source, there, method="encode"),
        method="keys_and_values"))()

    def apply(tokens, cache, positions):
        return model.apply(variables, tokens, memory, there, cache=cache, positions=positions,
                           method="decode")
    cache = model.empty_cache(4, 12)
    every = through_cache(apply, cache, target, PROMPTS)
    assert np.std(full) > 0.1 and max(differences(full, every)) < 1e-5
    shifted = through_cache(apply, cache, target, PROMPTS, PROMPTS.max() - PROMPTS)
    assert min(differences(full, shifted)[i] for i in (0, 2)) > 1e-3


def test_a_translator_sees_its_source_and_nothing_later(translator):
    model, variables, source, target = translator
    apply = jax.jit(model.apply)
    there = jnp.asarray(np.arange(8) < LENGTHS[:, None]).astype(int)
    logits = apply(variables, source, target, source_segments=there)
    junk = apply(variables, np.where(there, source, 3), np.where(np.arange(8) < 5, target, 7),
                 source_segments=there)
    np.testing.assert_array_equal(logits[:, :5], junk[:, :5])
    other = apply(variables, np.where(np.arange(8) < 1, 3, source), target, source_segments=there)
    assert np.abs(logits - other).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.full
def test_attention_is_shown():
    """Probabilities sum to 1, of the tokens that are seen alone, and say what the pass does."""
    model = model_of("seq2seq", {})
    source, target = documents(1), documents(2)
    variables = jax.jit(model.init)(jax.random.key(0), source, target)
    assert variables.keys() == {"params"}
    there = jnp.asarray(np.arange(8) < LENGTHS[:, None]).astype(int)
    shown = jax.jit(functools.partial(attention_of, model))(variables, source, target,
                                                            source_segments=there)
    assert list(shown) == [f"{block}/{part}" for block, part in (
        ("block0", "attention"), ("block1", "attention"), ("decoder_block0", "attention"),
        ("decoder_block0", "cross"), ("decoder_block1", "attention"), ("decoder_block1", "cross"))]
    for name, probabilities in shown.items():
        assert probabilities.shape == (4, 2, 8, 8)
        sees = there[:, None, None] if "cross" in name else \
            np.tril(np.ones((8, 8))) if "decoder" in name else there[:, :, None] == there[:, None]
        sees = sees if sees.ndim != 3 else sees[:, None]
        np.testing.assert_allclose(np.sum(probabilities * sees, -1), 1, atol=1e-5)


@pytest.mark.parametrize("name, fields, use, says", [
    ("causal_lm", dict(positions="learned"), lambda model: model.empty_cache(1, 13),
     "a text of 13 tokens is longer than the model's context, 12; expected at most that"),
    ("seq2seq", dict(positions="learned"), lambda model: model.empty_cache(1, 13),
     "a row of 13 tokens is longer than the model's context, 12; expected at most that"),
    ("causal_lm", {}, lambda model: model.apply({}, documents(), segments=documents(), cache={}),
     "a cache and segments: expected one document a row with a cache"),
    ("causal_lm", {}, lambda model: jax.eval_shape(
        model.init, jax.random.key(0), documents(), cache=model.empty_cache(4, 7)),
     "a cache of 7 tokens got rows of 8 at once, expected at most 7; make it with empty"),
    ("causal_lm", dict(transform=True), lambda model: model.apply({}, documents()),
     "transform = True: expected False, only masked_lm"),
    ("causal_lm", dict(positions="sinusoids"), lambda model: model.apply({}, documents()),
     "config.model.positions: expected one of 'rope', 'learned'"),
    ("seq2seq", dict(positions="none"), lambda model: model.apply({}, documents(), documents()),
     "config.model.positions: expected one of 'rope', 'learned', 'sinusoids'")])
def test_what_a_decoder_cannot_be(name, fields, use, says):
    with pytest.raises(UserError, match=says):
        use(model_of(name, fields))


def test_layers_of_a_translator():
    """The decoder's follow the encoder's. Embeddings are before all, norms and bias behind."""
    layers = {"embed/embedding": 0, "decoder_position/embedding": 0, "block1/mlp/up/kernel": 2,
              "decoder_block0/cross/q/kernel": 3, "decoder_memory1/kernel": 4, "norm/scale": None,
              "decoder_norm/scale": None, "bias": None}
    model = model_of("seq2seq", {})
    assert {name: model.layer_of(name) for name in layers} == layers
