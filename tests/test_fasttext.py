"""The model of averaged n-grams: the numbers of a short text, padding, an explicit loop."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.models import fasttext

VOCABULARY, BUCKETS = 100, 1000
TOKENS = np.array([[2, 7, 9, 3, 0, 0], [2, 50, 7, 9, 99, 3]])     # 0 is padding
SEGMENTS = (TOKENS != 0).astype(np.int32)
ngram_rows = jax.jit(fasttext.ngram_rows, static_argnums=(2, 3, 4))
MODEL = dict(name="fasttext", vocabulary=VOCABULARY, width=4, buckets=BUCKETS)


def bucket(*tokens) -> int:
    """Return an n-gram's row, by fastText's hash in 32 bits."""
    hashed = 0
    for token in tokens:
        hashed = (hashed * fasttext.FACTOR + token) % 2 ** 32
    return VOCABULARY + hashed % BUCKETS


def test_rows_of_a_short_text_by_hand():
    """Bigrams of [2, 7, 9, 3]: 2 * 116049371 + 7 = 232098749, then the last three digits."""
    rows, real = ngram_rows(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), 2, VOCABULARY, BUCKETS)
    assert rows[0, :9].tolist() == [2, 7, 9, 3, 0, 0, 100 + 749, 100 + 606, 100 + 342]
    assert real[0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0]     # none with padding in it
    assert rows[1, 8] == rows[0, 7] == bucket(7, 9)                  # wherever it stands
    assert real[1].all()
    rows, real = ngram_rows(jnp.asarray(TOKENS), jnp.asarray(SEGMENTS), 3, VOCABULARY, BUCKETS)
    assert rows[0, 11:13].tolist() == [bucket(2, 7, 9), bucket(7, 9, 3)]
    assert real[0, 11:].tolist() == [1, 1, 0, 0]


def test_no_ngram_crosses_documents():
    tokens, segments = jnp.asarray([[2, 7, 3, 2, 9]]), jnp.asarray([[1, 1, 1, 2, 2]])
    _, real = ngram_rows(tokens, segments, 3, VOCABULARY, BUCKETS)
    assert real[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("ngrams", (1, 2, 3))
def test_logits_equal_an_explicit_loop(ngrams):
    model = kj.models.make_model(dict(MODEL, ngrams=ngrams), classes=3)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.asarray(TOKENS))
    table, head = (variables["params"][name] for name in ("embed", "head"))
    assert len(table["embedding"]) == VOCABULARY + (BUCKETS if ngrams > 1 else 0)
    logits = model.apply(variables, jnp.asarray(TOKENS), segments=jnp.asarray(SEGMENTS))
    for row, found in zip(TOKENS, logits, strict=True):
        text = [int(token) for token in row if token]
        numbers = text + [bucket(*text[i:i + n]) for n in range(2, ngrams + 1)
                          for i in range(len(text) - n + 1)]
        mean = np.mean([table["embedding"][number] for number in numbers], axis=0)
        np.testing.assert_allclose(found, mean @ head["kernel"] + head["bias"], rtol=1e-5,
                                   atol=1e-7)


def test_padding_changes_nothing():
    model = kj.models.make_model(MODEL, classes=3)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.asarray(TOKENS))
    short, long = jnp.asarray(TOKENS[:1, :4]), jnp.pad(TOKENS[:1], ((0, 0), (0, 9)))
    expected = model.apply(variables, short)
    padded = model.apply(variables, long, segments=(long != 0).astype(jnp.int32))
    np.testing.assert_allclose(padded, expected, rtol=1e-6)
    # The mutant averages padding, too.
    assert np.abs(model.apply(variables, long) / expected - 1).max() > 0.1
    nothing = model.apply(variables, jnp.zeros((1, 6), jnp.int32), segments=jnp.zeros((1, 6)))
    np.testing.assert_array_equal(nothing[0], variables["params"]["head"]["bias"])


@pytest.mark.parametrize("fields", (dict(ngrams=0), dict(buckets=0)), ids=str)
def test_impossible_fields(fields):
    name, = fields
    with pytest.raises(UserError, match=f"config.model.{name} = 0: expected whole numbers of at "
                                        "least 1"):
        kj.models.make_model({**MODEL, **fields}, classes=3)
