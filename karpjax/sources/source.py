"""The contract of a source: where batches come from. Data sets and rollouts differ in nothing else.

    begin(arrays, source_state, variables) -> (source_state, chunk)    once a chunk: a rollout, or next to nothing
    batch(arrays, chunk, i)                  -> batch                  once a step: gather, augment, mask; i < chunk

Both are pure and run inside the compiled program. Axis 0 of every leaf of a batch is the batch axis; the step shards it.
Every batch of a data set carries "index" (uint32, the number of the draw) and "weight" (0 for padding); in training also
"row" and "epoch", the draw's row of the data set and how often all rows came before. Randomness is keyed by the index (a
rollout's: by the environment), never by the device, so 1 and 8 devices see the same bits.
"""
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names


@old_names.old_attributes(begin="advance", chunk="steps_per_chunk", n="num_examples", host_fed="streamed", feed="next_batch",
                          described="spec", lends="eval_state", prepare="preprocess")
class Source:
    arrays: Any = {}                # held in device memory for the whole run; arguments of the program, not in checkpoints.
                                    # Host-fed sources: the shapes of what feed gives
    steps_per_chunk: int = 1                  # steps fed by one `begin`
    batch_size: int = 0             # global
    num_examples: int = 0                      # rows of the training split; 0: there is none
    splits: tuple[str, ...] = ()    # what can be evaluated; "test" only once, at the end
    sharded: tuple[str, ...] = ()   # entries of source_state whose axis 0 is split over devices as batches are
    example: dict = {}              # a prepared batch of 1, for shapes
    streamed: bool = False          # True: `arrays` is fresh for every step, from feed(step)
    depends_on_policy: bool = False # True: what comes next follows from what was learned, as in a rollout
    on_host: bool = False           # True: `begin` calls back to Python, as environments outside JAX do
    spec: dict = {}            # JSON, kept in checkpoints: what `SpecOnly` needs where the data is not at hand
    eval_state: tuple[str, ...] = ()     # entries of source_state that evaluation and restored models see, as variables["source"]
    files: dict[str, str] = {}      # texts that belong to the data, kept in the workdir: {"tokenizer.json": ...}

    @property
    def examples_per_step(self) -> float:
        """What a run's examples_per_second counts; a rollout's are environment steps."""
        return self.batch_size

    def init(self, key) -> dict:
        """The state at step 0; checkpointed. The key is the source's own."""
        raise NotImplementedError

    def advance(self, arrays, source_state, variables):
        raise NotImplementedError

    def batch(self, arrays, chunk, i):
        raise NotImplementedError

    def preprocess(self, batch: dict) -> dict:
        """Raw entries, as stored or as a user gives them to `predict`, to what the model reads. Pure; also in jit."""
        return batch

    def next_batch(self, step: int, seed: int):
        """Host-fed sources: this process's rows (numpy) for `step` of the run with that seed."""
        raise NotImplementedError

    def first(self, n: int) -> dict:
        """The first n raw rows of the training split (numpy), the same on every process: for a data-dependent start."""
        raise NotImplementedError

    def eval_batches(self, split: str) -> Iterator[dict]:
        """This process's rows (numpy, raw) of the batches of a split, in order; the last is padded with weight 0."""
        raise NotImplementedError


class SpecOnly(Source):
    """A source whose data is not at hand, as a checkpoint describes it: enough for the model and `predict`, no batches."""

    def __init__(self, example: dict, prepare, missing: Exception):
        self.preprocess, self.error = prepare, missing
        self.example = jax.tree.map(np.asarray, prepare(jax.tree.map(jnp.asarray, example)))

    def init(self, key):
        return {}

    def eval_batches(self, split):
        raise self.error


def example_keys(key, index):
    """One key an example, from its draw number: (B,) keys."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def local_rows(batch_size: int) -> slice:
    """The rows of a global batch that belong to this process."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def augmented(batch: dict, augment, mix, key) -> dict:
    """augment(example, key) -> example on every row, then mix(batch, keys) -> batch on them all; one key a draw and kind."""
    each, together = jax.random.split(key)
    batch = {**batch, "record": batch["row"]}  # version 1's name, which its losses may read
    if augment is not None:
        batch = {**batch, **jax.vmap(augment)({k: v for k, v in batch.items() if k not in ("index", "weight")},
                                              example_keys(each, batch["index"]))}
    return batch if mix is None else mix(batch, example_keys(together, batch["index"]))


def unchanged(batch: dict) -> dict:
    return batch


def ones(n: int):
    return jnp.ones(n, jnp.float32)
