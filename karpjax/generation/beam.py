"""Beam search that gives Hugging Face's tokens (transformers 5, `GenerationMixin._beam_search`).

    tokens, scores = beam_search(step, cache, logits, start, length=64, beams=5, eos=0, pad=1)

A row has K live beams and, apart from them, its K best ended hypotheses. Each turn takes the 2K
best continuations of the live beams. Those that end, and are among the first K of them, compete
for a place among the ended ones. The best K that do not end live on. No more than K of 2K can end,
so K beams are always alive.

    score = (sum of log-probabilities) / (number of new tokens, the end token counted) ** penalty

The start token and padding do not count. Wu et al. 2016, "Google's neural machine translation
system", section 7, have another penalty, ((5 + n) / 6) ** alpha, and stop elsewhere.
"""
from collections.abc import Callable
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from karpjax.core.errors import UserError
from karpjax.generation.decode import check_length, is_whole
from karpjax.models.layers.largest import largest, pick


class Beams(NamedTuple):
    """The hypotheses of every row, best first. An empty place has the score -inf."""
    tokens: Int[Array, "B K L"]         # live
    sums: Float[Array, "B K"]           # of their log-probabilities
    parents: Int[Array, "B K"]          # the beam that each continues
    ended: Int[Array, "B K L"]
    scores: Float[Array, "B K"]         # of the ended ones
    open: Bool[Array, "B"]              # rows whose ended hypotheses may still change


class Rules(NamedTuple):
    """Options that end a hypothesis, a row and the search."""
    length: int
    eos: int
    length_penalty: float
    early_stopping: bool | str
    forced_eos: bool
    banned: tuple


def beam_search(step: Callable, cache, logits: Float[Array, "B V"], start: Int[Array, "B"],
                length, beams, eos, pad, length_penalty=1.0, early_stopping=False,
                forced_eos=False, banned=()) -> tuple[Int[Array, "B K L"], Float[Array, "B K"]]:
    """Return each row's K best hypotheses, best first, padded, and their scores.

    step            (tokens (B*K,), positions (B*K,), cache) -> (logits (B*K, V), cache). A row's
                    beams lie side by side
    cache           after the prompt, with B rows. Beams are copies of a row
    logits, start   as for `generate`
    length          the most new tokens, the end token among them. A hypothesis that is this long
                    has ended
    eos             the end token, -1 for none
    length_penalty  above 0 prefers long hypotheses, 0 compares sums
    early_stopping  True: a row is done once K hypotheses have ended.
                    False: once the best live beam would not win if it ended now.
                    "never": once it could not win at any length, which alone is exact
    forced_eos      the last of `length` tokens is always `eos`, with probability 1
    banned          tokens that never appear. The others' probabilities stay as they are
    """
    B, V = logits.shape
    rules = Rules(length, eos, length_penalty, early_stopping, forced_eos, tuple(banned))
    check(rules, beams, V)
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache)       # (B*K, ...)
    start = jnp.repeat(start, beams)                                                # (B*K,)

    def body(carry):
        i, state, cache = carry
        cache = of_beams(cache, state.parents)
        token = state.tokens[:, :, i - 1].reshape(-1)                               # (B*K,)
        logits, cache = step(token, start + i - 1, cache)                           # (B*K, V)
        return i + 1, advance(state, logits.reshape(B, beams, -1), i, rules), cache

    # One beam is alive, with no token yet. K equal ones would stay equal.
    nothing = jnp.full((B, beams, length), pad, jnp.int32)
    state = Beams(tokens=nothing, sums=jnp.full((B, beams), -jnp.inf).at[:, 0].set(0.0),
                  parents=jnp.zeros((B, beams), jnp.int32), ended=nothing,
                  scores=jnp.full((B, beams), -jnp.inf), open=jnp.ones(B, bool))
    state = advance(state, jnp.repeat(logits[:, None], beams, axis=1), 0, rules)
    _, state, _ = lax.while_loop(lambda carry: (carry[0] < length) & jnp.any(carry[1].open),
                                 body, (1, state, cache))
    return state.ended, state.scores


def advance(state: Beams, logits: Float[Array, "B K V"], i, rules: Rules) -> Beams:
    """Return the hypotheses with one more token, the i-th."""
    B, K, V = logits.shape
    sums = state.sums[..., None] + log_probs(logits, i, rules)                      # (B, K, V)
    sums, best = largest(sums.reshape(B, K * V), 2 * K)                             # (B, 2K)
    parents, token = best // V, best % V                                            # (B, 2K)
    tokens = pick(state.tokens, parents).at[:, :, i].set(token)                     # (B, 2K, L)
    ends = (token == rules.eos) | (i == rules.length - 1)                           # (B, 2K)

    live_sums, live = survivors(sums, ends)                                         # (B, K)
    # The second K are there to keep K beams alive. None of them may end.
    counts = ends & (jnp.arange(2 * K) < K) & state.open[:, None]                   # (B, 2K)
    new = jnp.where(counts, sums / norms(rules)[i], -jnp.inf)
    scores, kept = largest(jnp.concatenate([state.scores, new], axis=1), K)         # (B, K)
    ended = pick(jnp.concatenate([state.ended, tokens], axis=1), kept)              # (B, K, L)
    return Beams(pick(tokens, live), live_sums, pick(parents, live), ended, scores,
                 state.open & can_win(live_sums[:, 0], scores[:, -1], i, rules))


def survivors(sums: Float[Array, "B M"], ends: Bool[Array, "B M"]):
    """Return (sums, places) of the M/2 best hypotheses that do not end."""
    return largest(jnp.where(ends, -jnp.inf, sums), sums.shape[1] // 2)


def can_win(best: Float[Array, "B"], worst: Float[Array, "B"], i, rules: Rules) -> Bool[Array, "B"]:
    """Return whether a row's best live beam, by its sum, may yet beat its worst ended hypothesis.

    The worst score is -inf as long as fewer than K have ended.
    """
    if rules.early_stopping is True:
        return (worst == -jnp.inf) & (best > -jnp.inf)
    # Log-probabilities are at most 0, so no sum grows: only the divisor may.
    longest = rules.early_stopping == "never" and rules.length_penalty > 0
    return best / norms(rules)[-1 if longest else i] > worst


def log_probs(logits: Float[Array, "B K V"], i, rules: Rules) -> Float[Array, "B K V"]:
    """Return log-probabilities of the i-th token, changed by what is forced or banned."""
    values = jax.nn.log_softmax(logits.astype(jnp.float32))
    if rules.banned:
        values = values.at[..., jnp.array(rules.banned)].set(-jnp.inf)
    if rules.forced_eos:
        only_eos = jnp.where(jnp.arange(logits.shape[-1]) == rules.eos, 0.0, -jnp.inf)
        values = jnp.where(i == rules.length - 1, only_eos, values)
    return values


def norms(rules: Rules) -> Float[Array, "L"]:
    """Return the divisors of hypotheses of 1 to L new tokens, the end token counted."""
    return jnp.asarray(np.arange(1.0, rules.length + 1) ** rules.length_penalty, jnp.float32)


def of_beams(cache, parents: Int[Array, "B K"]):
    """Return the cache whose rows are those of the beams that the live ones continue."""
    def rows(leaf):                                                                 # (B*K, ...)
        return pick(leaf.reshape(*parents.shape, *leaf.shape[1:]), parents).reshape(leaf.shape)
    return jax.tree.map(rows, cache)


def check(rules: Rules, beams, size: int) -> None:
    """Check the options of a beam search. The size is the vocabulary's."""
    check_length(rules.length)
    if not is_whole(beams, 1):
        raise UserError(f"beams: expected a whole number of at least 1, found {beams!r}; 1 is "
                        "greedy decoding, 5 is usual for translation")
    if not math.isfinite(rules.length_penalty):
        raise UserError(f"length_penalty: expected a finite number, found "
                        f"{rules.length_penalty}; 1 compares the mean log-probability of a token, "
                        "0 the sum")
    if not isinstance(rules.early_stopping, bool) and rules.early_stopping != "never":
        raise UserError(f"early_stopping: expected True, False or 'never', found "
                        f"{rules.early_stopping!r}; False is the default")
    if rules.forced_eos and rules.eos < 0:
        raise UserError(f"forced_eos: expected an end token, found eos={rules.eos}; give the id of "
                        "one, or forced_eos=False")
    # A negative id would count from the end of the vocabulary.
    if wrong := [token for token in rules.banned if not 0 <= token < size]:
        raise UserError(f"banned: expected ids of 0 to {size - 1}, found {wrong[0]}; leave it out")
    if not -1 <= rules.eos < size:
        raise UserError(f"eos: expected an id of 0 to {size - 1}, or -1 for none, found "
                        f"{rules.eos}; no hypothesis would end")
