"""The first batch of a source at every step: config.overfit.

A network that cannot learn one batch by heart has a fault.
"""
import functools

from karpjax.core.errors import UserError
from karpjax.sources.source import Source


class FirstBatch(Source):
    """A source around another that never advances: every step sees the other's first batch.

    Its state, its example and its evaluation are the other's.
    """

    def __init__(self, source: Source):
        if source.depends_on_policy:
            raise UserError("config.overfit repeats the first batch of a data set, but a rollout "
                            "changes with the policy: leave it off")
        for name in Source.__annotations__:
            setattr(self, name, getattr(source, name))
        self._source = source
        self._first = functools.cache(source.next_batch)  # the host reads it once

    @property
    def examples_per_step(self) -> float:
        return self._source.examples_per_step

    def init(self, key):
        return self._source.init(key)

    def advance(self, arrays, source_state, variables):
        return source_state, self._source.advance(arrays, source_state, variables)[1]

    def batch(self, arrays, chunk, i):
        return self._source.batch(arrays, chunk, 0)

    def preprocess(self, batch):
        return self._source.preprocess(batch)

    def next_batch(self, step, seed):
        return self._first(0, seed)

    def rows(self, split, numbers):
        return self._source.rows(split, numbers)

    def first(self, n):
        return self._source.first(n)

    def eval_batches(self, split):
        return self._source.eval_batches(split)

    def eval_shapes(self, split):
        return self._source.eval_shapes(split)
