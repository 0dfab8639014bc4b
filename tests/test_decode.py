"""Decoding token by token: the choices against their definitions, and samples on any mesh."""
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from karpjax.core.errors import UserError
from karpjax.core.sharding import batch_sharding
from karpjax.generation import generate, greedy, sampler, sampling
from karpjax.generation.continuation import continue_rows
from karpjax.generation.sampling import truncate
from karpjax.precompile.hlo import collectives

V, LONGEST = 7, 16
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(V, V, LONGEST, V)) * 2, jnp.float32)


def step(token, position, cache):
    """Return the logits after a row's last two tokens, at its own position.

    The cache has the tokens fed so far, as a network's has their keys and values.
    """
    cache = jax.vmap(lambda row, p, t: row.at[p].set(t))(cache, position, token)    # (B, LONGEST)
    before = jnp.take_along_axis(cache, jnp.maximum(position - 1, 0)[:, None], 1)[:, 0]
    return TABLE[before, token, position], cache


def prompts(lengths: list):
    """Return (prompts, logits after them, cache, start) of rows of these lengths."""
    rng, texts = np.random.default_rng(1), []
    cache = np.full((len(lengths), LONGEST), 3, np.int32)     # junk, to be overwritten
    for row, n in zip(cache, lengths, strict=True):
        row[:n] = rng.integers(V, size=n)
        texts.append(row[:n].tolist())
    cache, start = jnp.asarray(cache), jnp.array(lengths)
    last = jnp.take_along_axis(cache, start[:, None] - 1, 1)[:, 0]
    logits, cache = step(last, start - 1, cache)
    return texts, logits, cache, start


def by_hand(text: list, length: int, eos: int) -> list:
    """Return the most probable continuation of one text, token by token."""
    new = []
    while len(new) < length and (not new or new[-1] != eos):
        p = len(text) - 1
        new.append(int(TABLE[text[max(p - 1, 0)], text[p], p].argmax()))
        text = [*text, new[-1]]
    return new


@pytest.mark.parametrize("eos", [-1, 2])
def test_greedy_of_unequal_prompts(eos):
    """Each row continues its own prompt, as if alone, and holds padding after its end."""
    texts, logits, cache, start = prompts([1, 4, 2, 6, 3])
    tokens = generate(step, cache, logits, start, 8, greedy, eos=eos, pad=9)
    expected = [by_hand(text, 8, eos) for text in texts]
    assert tokens.tolist() == [new + [9] * (8 - len(new)) for new in expected]
    ends = {len(new) for new in expected}
    assert ends == {8} if eos < 0 else len(ends) > 2          # or the test would test nothing


def test_mutant_position_of_the_longest_row():
    """The mutant feeds every row at one position, as if all prompts were equally long."""
    texts, logits, cache, start = prompts([1, 4, 2, 6, 3])
    tokens = generate(step, cache, logits, jnp.full_like(start, 6), 8, greedy)
    assert tokens.tolist() != [by_hand(text, 8, -1) for text in texts]


def p_of(draws, logits) -> float:
    """Return the p-value of draws (N,) under softmax(logits), by the chi-square test."""
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    there = p > 0
    counts = np.bincount(draws, minlength=len(p))
    assert not counts[~there].any()
    return scipy.stats.chisquare(counts[there], p[there] / p[there].sum() * len(draws)).pvalue


def draws(choose, logits, n: int = 100_000):
    keys = jax.random.split(jax.random.key(4), n)
    return np.asarray(choose(jnp.broadcast_to(logits, (n, len(logits))), keys))


LOGITS = jnp.array([0.5, 2.0, -1.0, 1.5, 0.0, 1.0])


@pytest.mark.parametrize("options, expected", [
    (dict(), LOGITS), (dict(temperature=2.0), LOGITS / 2),
    # probabilities .126 .360 .018 ...: at temperature 1/2 the first two have .63 + .23
    (dict(temperature=0.5, top_p=0.8), jnp.where(LOGITS >= 1.5, LOGITS * 2, -jnp.inf)),
    (dict(top_k=3, top_p=0.95), jnp.where(LOGITS >= 1.0, LOGITS, -jnp.inf))], ids=str)
def test_samples_have_the_distribution(options, expected):
    """100,000 draws agree with the softmax of the formula."""
    assert p_of(draws(sampler(**options), LOGITS), expected) > 1e-3


@pytest.mark.parametrize("mutant", [
    lambda logits, keys: sampler(1.05)(logits, keys),
    # uniform noise in place of Gumbel's
    lambda logits, keys: (logits + jax.vmap(lambda key: jax.random.uniform(
        key, logits.shape[1:], maxval=4.0))(keys)).argmax(-1)])
def test_mutant_another_distribution(mutant):
    assert p_of(draws(mutant, LOGITS), LOGITS) < 1e-3


def kept(probabilities, **options) -> list:
    """Return the tokens that may still be drawn."""
    logits = truncate(jnp.log(jnp.array(probabilities)), **options)
    return np.flatnonzero(np.isfinite(logits)).tolist()


@pytest.mark.parametrize("options, tokens", [
    (dict(top_p=0.6), [1, 3]),              # .4 + .3 crosses .6: the token that crosses it stays
    (dict(top_p=1e-50), [1]), (dict(top_k=10**12), [0, 1, 2, 3]),
    (dict(top_p=0.39), [1]), (dict(top_p=0.41), [1, 3]), (dict(top_p=1e-9), [1]),
    (dict(top_p=0.95), [0, 1, 2, 3]), (dict(top_k=2), [1, 3]), (dict(top_k=9), [0, 1, 2, 3]),
    (dict(top_k=1), [1]), (dict(), [0, 1, 2, 3]),
    # of the three that top_k leaves, two have .7 / .9 = .78 of the probability
    (dict(top_k=3, top_p=0.75), [1, 3])], ids=str)
def test_the_tokens_that_stay(options, tokens):
    assert kept([0.1, 0.4, 0.2, 0.3], **options) == tokens


def test_equal_tokens():
    """Of equal tokens no more stay than needed, the first ones."""
    assert kept([0.25] * 4, top_k=3) == [0, 1, 2]
    assert kept([0.25] * 4, top_p=0.5) == [0, 1]
    # In float32 the sum of the first reaches 1, and top_p = 1 keeps the last all the same.
    assert kept([1 - 1e-9, 1e-9, 1e-12], top_k=3) == [0, 1, 2]


@pytest.mark.parametrize("before", ["sums", "unsorted"])
def test_mutant_crossing_token_dropped(monkeypatch, before):
    """The mutants keep a token if the sum with it is below top_p, or sum in the ids' order."""
    if before == "sums":
        monkeypatch.setattr(sampling.jnp, "pad", lambda sums, width: jnp.append(sums, 1.0))
    else:
        monkeypatch.setattr(sampling.jnp, "argsort", lambda x, **_: jnp.arange(len(x)))
    assert kept([0.1, 0.4, 0.2, 0.3], top_p=0.6) != [1, 3]


def test_one_choice_is_greedy():
    """A draw among one token, and a temperature of 0, are the most probable token."""
    logits = jax.random.normal(jax.random.key(0), (50, 20))
    keys = jax.random.split(jax.random.key(1), 50)
    for choose in (sampler(top_k=np.int64(1)), sampler(0.0),
                   sampler(temperature=3, top_k=1, top_p=0.1)):
        assert choose(logits, keys).tolist() == greedy(logits).tolist()
    assert sampler()(logits, keys).tolist() != greedy(logits).tolist()


@pytest.mark.parametrize("options", [dict(temperature=t, top_p=p) for t in (1.2e-38, 1e-45)
                                     for p in (0.9, 1.0)], ids=str)
def test_the_smallest_temperatures_are_greedy(options):
    """The mutant divides alone: several logits of a row are then infinite, and the largest."""
    logits = 4 * jax.random.normal(jax.random.key(0), (50, 20))
    keys = jax.random.split(jax.random.key(1), 50)
    assert sampler(**options)(logits, keys).tolist() == greedy(logits).tolist()
    assert (np.isinf(logits / 1.2e-38).sum(1) > 1).any()


@jax.jit
def sampled(logits, cache, start, keys):
    return generate(step, cache, logits, start, 8, sampler(0.9, top_k=5, top_p=0.9), keys, eos=2)


@pytest.mark.parametrize("devices", [2, 8])
def test_samples_are_equal_on_any_mesh(devices):
    _, *rows = prompts([1, 4, 2, 6, 3, 5, 2, 1])
    rows.append(jax.random.split(jax.random.key(7), 8))
    expected = sampled(*rows)
    rows = jax.device_put(rows, batch_sharding(mesh_of(devices)))
    assert len(rows[0].sharding.device_set) == devices
    program = sampled.lower(*rows).compile()
    assert program(*rows).tolist() == expected.tolist()
    assert not collectives(program.as_text())       # rows stay where they are


def samples_alone(choose) -> list:
    """Return the samples of rows 2 and 0 of four, drawn with the others and without them."""
    _, logits, cache, start = prompts([1, 4, 2, 6])
    rows = logits, cache, start, jax.random.split(jax.random.key(7), 4)
    some = np.array([2, 0])

    @jax.jit
    def sample(logits, cache, start, keys):
        return generate(step, cache, logits, start, 9, choose, keys)
    return [sample(*rows)[some].tolist(), sample(*[row[some] for row in rows]).tolist()]


def test_samples_are_the_rows_own():
    with_others, alone = samples_alone(sampler(0.9))
    assert alone == with_others
    # the mutant draws a whole batch with one key
    with_others, alone = samples_alone(
        lambda logits, keys: jax.random.categorical(keys[0], logits).astype(jnp.int32))
    assert alone != with_others


def test_samples_go_on():
    """Two calls, of which the second begins where the first ended, give the tokens of one."""
    _, logits, cache, start = prompts([1, 4, 2, 6])
    keys = jax.random.split(jax.random.key(7), 4)

    def sample(logits, cache, start, length):
        return generate(step, cache, logits, start, length, sampler(0.9), keys)
    first = sample(logits, cache, start, 3)
    whole = sample(logits, cache, start, 6)
    for i in range(3):
        logits, cache = step(first[:, i], start + i, cache)
    rest = sample(logits, cache, start + 3, 3)
    assert jnp.concatenate([first, rest], 1).tolist() == whole.tolist()


@pytest.mark.parametrize("make, message", [
    (lambda: sampler(-0.5), "temperature: expected a number of at least 0, found -0.5"),
    (lambda: sampler(float("nan")), "temperature: expected a number of at least 0, found nan"),
    (lambda: sampler(float("inf")), "temperature: expected a number of at least 0, found inf"),
    (lambda: sampler(1e39), "temperature: expected a number of at least 0, found 1e+39"),
    (lambda: sampler(top_k=-1), "top_k: expected a whole number of at least 0, found -1"),
    (lambda: sampler(top_k=2.5), "top_k: expected a whole number of at least 0, found 2.5"),
    (lambda: sampler(top_p=0.0), "top_p: expected a number above 0 and at most 1, found 0.0"),
    (lambda: sampler(top_p=1.5), "top_p: expected a number above 0 and at most 1, found 1.5"),
    (lambda: sampler(top_p=float("nan")), "top_p: expected a number above 0 and at most 1"),
    (lambda: generate(step, None, jnp.zeros((1, V)), jnp.ones(1, int), 0, greedy),
     "length: expected a whole number of at least 1, found 0")])
def test_bad_input(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------- beyond the context

def drawn(tokens, starts, keys, steps: int):
    """Return draws that depend on a row's key and a token's position, as those of `generate`."""
    seeds = np.asarray(jax.random.key_data(keys))[:, -1:].astype(np.int64)          # (B, 1)
    positions = starts[:, None] + np.arange(steps)                                  # (B, S)
    return 1 + (seeds + 7919 * positions) % 997


def test_a_longer_sample_begins_as_a_shorter_one():
    """Whatever the windows are: a row's tokens depend on its prompt and its key alone."""
    keys = jax.random.split(jax.random.key(0), 3)
    prompts = [[1, 2], [3] * 7, [4] * 8]
    whole = continue_rows(drawn, prompts, 30, 8, keys)
    assert [len(row) for row in whole] == [30] * 3
    for length in (1, 3, 4, 7):
        assert continue_rows(drawn, prompts, length, 8, keys) == [row[:length] for row in whole]
    assert continue_rows(drawn, prompts[2:], 30, 8, keys[2:]) == whole[2:]


def test_a_prompt_may_end_with_the_end_token():
    """GPT-2's one special token ends a document and begins the next."""
    def counting(tokens, starts, keys, steps):
        return tokens[np.arange(len(tokens)), starts - 1][:, None] + 1 + np.arange(steps)
    keys = jax.random.split(jax.random.key(0), 2)
    assert continue_rows(counting, [[5, 9], [7]], 4, 8, keys, eos=9) == [[10, 11, 12, 13], [8, 9]]
