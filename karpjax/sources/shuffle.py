"""A random permutation of 0..n-1, computed one index at a time.

So an epoch's order costs no memory and no sort. The method is the swap-or-not shuffle (Hoang,
Morris and Rogaway 2012). In each round x is paired with (k - x) mod n. A coin that both ends of the
pair compute alike decides whether they swap. Every data order is then a pure function of (key,
epoch, position). A resume needs no permutation and no iterator, and devices need not communicate.
A Feistel network would need a loop until all indices are below n, on all devices.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from karpjax.core.trees import mix

# Each element moves with probability 1/2 a round. After 2 log2(n) rounds pairs of elements look
# independent: 48 serves sets of 16 million. It is arithmetic on B integers, one fused kernel.
ROUNDS = 48


def shuffled(position: UInt32[Array, "B"], epoch: UInt32[Array, "B"], key,
             n: int) -> UInt32[Array, "B"]:
    """Return the element at `position` (< n) of the permutation of `epoch`.

    Positions of one epoch map one to one.
    """
    words = jax.random.key_data(key)                                     # (2,)
    seed = mix(words[0] ^ mix(words[1] ^ mix(epoch)))                    # (B,), one an epoch

    @jax.jit                                       # traced and lowered once; XLA inlines its calls
    def a_round(x, salt):
        round_key = mix(seed + salt)                                     # (B,)
        partner = (round_key % n + (n - x)) % n                          # n < 2^31: no overflow
        coin = mix(jnp.maximum(x, partner) ^ (round_key * jnp.uint32(0x85EBCA6B) + 1)) >> 31
        return jnp.where(coin == 1, partner, x)

    x = position
    for r in range(ROUNDS):
        x = a_round(x, jnp.uint32(r * 0x9E3779B9 % 2**32))
    return x
