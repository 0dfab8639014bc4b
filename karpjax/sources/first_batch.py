"""The first batch of a source, again and again: a network that cannot learn one batch by heart has a fault (config.overfit)."""
import functools

from karpjax.core.errors import UserError
from karpjax.sources.source import Source


class FirstBatch(Source):
    """A source whose state never advances: every step sees the first batch of another source."""

    def __init__(self, source: Source):
        if source.depends_on_policy:
            raise UserError("config.overfit repeats the first batch of a data set, but a rollout changes with the policy: "
                            "leave it off")
        for name in Source.__annotations__:
            setattr(self, name, getattr(source, name))
        self.init, self.batch, self.preprocess = source.init, source.batch, source.preprocess
        self.eval_batches, self.first = source.eval_batches, source.first
        self._source, self._first = source, functools.cache(lambda seed: source.next_batch(0, seed))

    @property
    def examples_per_step(self) -> float:
        return self._source.examples_per_step

    def advance(self, arrays, source_state, variables):
        return source_state, self._source.advance(arrays, source_state, variables)[1]

    def next_batch(self, step: int, seed: int):
        return self._first(seed)
