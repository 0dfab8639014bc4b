"""A random permutation of 0..n-1, computed one index at a time, and sources drawn in that order.

So an epoch's order costs no memory and no sort. The method is the swap-or-not shuffle (Hoang,
Morris and Rogaway 2012). In each round x is paired with (k - x) mod n. A coin that both ends of the
pair compute alike decides whether they swap. Every data order is then a pure function of (key,
epoch, position). A resume needs no permutation and no iterator, and devices need not communicate.
A Feistel network would need a loop until all indices are below n, on all devices.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32
import numpy as np

from karpjax.core.trees import mix
from karpjax.sources.source import Source, augmented, local_rows, ones, unchanged

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


class Shuffled(Source):
    """A source on the device, whose draws are a pure function of (key, step).

    Every epoch is a new permutation of the rows, and batches run across its end. Splits other than
    train are evaluated in order. A subclass says how rows are gathered, and how the host reads
    them (`rows`).

    counts      {"train": rows, "validation": rows, ...}
    preprocess, view, augment, mix    as in karpjax.sources.Arrays
    """

    def __init__(self, counts: dict[str, int], batch_size: int, *,
                 preprocess: Callable | None = None, view: Callable | None = None,
                 augment: Callable | None = None, mix: Callable | None = None):
        self._counts, self.batch_size = counts, batch_size
        self.num_examples, self.splits = counts["train"], tuple(counts)[1:]
        self._preprocess, self._view = preprocess or unchanged, view or unchanged
        self._augment, self._mix = augment, mix

    def gather(self, arrays, chosen: UInt32[Array, "B"]) -> dict:
        """Return the raw training rows of these numbers, in the compiled program."""
        raise NotImplementedError

    def init(self, key):
        # The key's data rather than a typed key: plain arrays are all a checkpoint holds.
        return {"key": jax.random.key_data(key), "epoch": jnp.uint32(0),
                "position": jnp.uint32(0), "draw": jnp.uint32(0)}

    def advance(self, arrays, source_state, variables):
        # epoch and position rather than one counter: it would overflow 32 bits in a long run.
        # `draw` may wrap: it is a key.
        end = source_state["position"] + self.batch_size
        after = {**source_state, "epoch": source_state["epoch"] + end // self.num_examples,
                 "position": end % self.num_examples,
                 "draw": source_state["draw"] + self.batch_size}
        return after, source_state

    def batch(self, arrays, chunk, i):
        order_key, augment_key = jax.random.split(jax.random.wrap_key_data(chunk["key"]))
        rows = jnp.arange(self.batch_size, dtype=jnp.uint32)                              # (B,)
        position = chunk["position"] + rows
        epoch = chunk["epoch"] + position // self.num_examples                            # (B,)
        chosen = shuffled(position % self.num_examples, epoch, order_key, self.num_examples)
        batch = {**self._preprocess(self.gather(arrays, chosen)), "index": chunk["draw"] + rows,
                 "row": chosen, "epoch": epoch, "weight": ones(self.batch_size)}
        return augmented(batch, self._augment, self._mix, augment_key)

    def preprocess(self, batch):
        return self._view(self._preprocess(batch))

    def eval_batches(self, split):
        n = self._counts[split]
        for start in range(0, n, self.batch_size):
            index = np.arange(start, start + self.batch_size)[local_rows(self.batch_size)]
            yield {**self.rows(split, np.minimum(index, n - 1)), "index": index.astype(np.uint32),
                   "weight": (index < n).astype(np.float32)}
