"""The choice of the next token from its logits: the most probable one, or a draw.

`choose(logits (B, V), keys (B,)) -> tokens (B,)` is what `generate` asks for.

Sources: top-k, Fan et al. 2018, "Hierarchical neural story generation", section 5.1; top-p
("nucleus"), Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from karpjax.core.errors import UserError
from karpjax.generation.decode import is_whole

# of float32, in which tokens are drawn
SMALLEST, LARGEST = float(jnp.finfo(jnp.float32).tiny), float(jnp.finfo(jnp.float32).max)


def greedy(logits: Float[Array, "B V"], keys=None) -> Int[Array, "B"]:
    """Return each row's most probable token, the first of equal ones."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def sampler(temperature=1.0, top_k=0, top_p=1.0) -> Callable:
    """Return a function that draws each row's token with that row's key.

    temperature  divides the logits, before anything is left out. 0: no draw, as `greedy`
    top_k        the number of most probable tokens that stay. 0: all
    top_p        the tokens that stay are the fewest whose probabilities sum to at least top_p.
                 The probabilities are those after temperature and top_k
    """
    check(temperature, top_k, top_p)
    if temperature < SMALLEST:
        return greedy

    def draw(logits, key):                                                          # (V,)
        logits = logits.astype(jnp.float32)
        # The largest becomes 0. Divided by a small temperature, several could become infinite.
        logits = (logits - logits.max()) / temperature
        return jax.random.categorical(key, truncate(logits, top_k, top_p)).astype(jnp.int32)
    # By row: XLA would gather a batch that is sharded, to put its sorted logits back in place.
    return jax.vmap(draw)


def truncate(logits: Float[Array, "V"], top_k=0, top_p=1.0) -> Float[Array, "V"]:
    """Return a row's logits with -inf for the tokens that top_k and then top_p leave out.

    Of equal logits the first ones stay, so that top_k is the exact number of tokens.
    """
    if not top_k and top_p == 1:
        return logits
    V, = logits.shape
    order = jnp.argsort(logits, descending=True, stable=True)                       # (V,)
    ranked = logits[order]
    if top_k:
        ranked = jnp.where(jnp.arange(V) < min(top_k, V), ranked, -jnp.inf)
    if top_p < 1:
        # A token stays if those before it do not reach top_p, so the one that crosses it stays.
        # The sum before the first is 0: at least one stays, if top_p is not 0 in float32.
        sums = jnp.cumsum(jax.nn.softmax(ranked))                                   # (V,)
        before = jnp.pad(sums[:-1], (1, 0))
        ranked = jnp.where(before < max(top_p, SMALLEST), ranked, -jnp.inf)
    return jnp.zeros_like(logits).at[order].set(ranked)


def check(temperature, top_k, top_p) -> None:
    """Check the three numbers of a sampler. A NaN is none of them."""
    if not 0 <= temperature <= LARGEST:
        raise UserError(f"temperature: expected a number of at least 0, found {temperature}; 1 "
                        "draws from the model's own distribution, 0 takes the most probable token")
    if not is_whole(top_k, 0):
        raise UserError(f"top_k: expected a whole number of at least 0, found {top_k!r}; it is how "
                        "many tokens may be drawn, and 0 allows all")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p: expected a number above 0 and at most 1, found {top_p}; 1 allows "
                        "all tokens")
