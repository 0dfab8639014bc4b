"""The contract of a source: where batches come from. Data sets and rollouts differ in nothing else.

    advance(arrays, source_state, variables) -> (source_state, chunk)   once a chunk: a rollout,
                                                                        or next to nothing
    batch(arrays, chunk, i)                  -> batch                   once a step: gather,
                                                                        augment, mask; i < chunk

Both are pure and run inside the compiled program. Axis 0 of every leaf of a batch is the batch
axis; the step shards it. Every batch of a data set carries "index" (uint32, the number of the draw)
and "weight" (0 for padding). In training it also carries "row" and "epoch": the draw's row of the
data set, and how often all rows came before. Randomness is keyed by the index (a rollout's by the
environment), never by the device, so 1 and 8 devices see the same bits.

Every batch of an evaluation carries "index", from 0 and each once (a rollout's: "seed"), and
"weight".
"""
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import old_names


@old_names.old_attributes(begin="advance", chunk="steps_per_chunk", n="num_examples",
                          host_fed="streamed", feed="next_batch", described="spec",
                          lends="eval_state", prepare="preprocess")
class Source:
    """Base of all sources, with the defaults of what others read from one."""
    # ------------------------------------------------------------------ what the step and loop read
    # Held in device memory for the whole run: arguments of the program, not in checkpoints. A
    # streamed source gives the shapes of next_batch's arrays.
    arrays: Any = {}
    steps_per_chunk: int = 1        # steps fed by one `advance`
    batch_size: int = 0             # global
    num_examples: int = 0           # rows of the training split; 0: there is none
    splits: tuple[str, ...] = ()    # names for `eval_batches`; "test" only once, at the end
    sharded: tuple[str, ...] = ()   # entries of source_state whose axis 0 is split as batches are
    example: dict = {}              # a prepared batch of 1, for shapes
    streamed: bool = False          # True: `arrays` is fresh for every step, from next_batch(step)
    depends_on_policy: bool = False  # True: data follows from the parameters, as in a rollout
    on_host: bool = False           # True: `advance` calls back to Python, as Gymnasium does
    eval_state: tuple[str, ...] = ()  # entries of source_state that evaluation and restored models
    #                                   see, as variables["source"]

    # ------------------------------------------------- what tasks, restored runs and pictures read
    stored: dict = {}               # {entry: dtype} of rows before `preprocess`; {}: not known
    spec: dict = {}                 # JSON, kept in checkpoints: what `SpecOnly` needs without data
    files: dict[str, str] = {}      # texts kept in the workdir: {"tokenizer.json": ...}
    classes: int = 0                # of its labels; 0: there are none
    vocabulary: Any = None          # of texts: a karpjax.datasets.tokenizer.Vocabulary
    encode: Callable | None = None  # [file, image or text] -> inputs as the data set has them
    detokenize: Callable | None = None  # outputs for such inputs, ids -> texts
    pixels: Callable | None = None  # prepared images (B, H, W, C) -> the same in 0 to 1, to look at

    @property
    def examples_per_step(self) -> float:
        """Examples that a run's examples_per_second counts: environment steps of a rollout."""
        return self.batch_size

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers if the data set has no names."""
        return list(self.spec.get("names") or map(str, range(self.classes)))

    def init(self, key) -> dict:
        """Return the state at step 0, part of every checkpoint. The key is the source's own."""
        raise NotImplementedError

    def advance(self, arrays, source_state, variables):
        """Return (source_state, chunk): the state after a chunk, and whatever `batch` cuts up."""
        raise NotImplementedError

    def batch(self, arrays, chunk, i):
        """Return batch i of a chunk."""
        raise NotImplementedError

    def preprocess(self, batch: dict) -> dict:
        """Return raw entries, stored or a user's, as the model reads them. Pure; also in jit."""
        return batch

    def next_batch(self, step: int, seed: int):
        """Return this process's rows (numpy) for a step of the run with that seed, if streamed."""
        raise NotImplementedError

    def rows(self, split: str, numbers) -> dict:
        """Return the raw rows of these numbers (numpy), the same on every process."""
        raise NotImplementedError

    def first(self, n: int) -> dict:
        """Return the first n raw rows of the training split: for a data-dependent start."""
        return self.rows("train", range(min(n, self.num_examples)))

    def eval_batches(self, split: str) -> Iterator[dict]:
        """Yield this process's rows (numpy, raw) of the batches of a split, in order.

        The last batch is padded with weight 0.
        """
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Return lines on the data that a training shows at its start."""
        return []

    def eval_shapes(self, split: str) -> dict | None:
        """Return the shapes of a global batch of `eval_batches`, None for a split without any."""
        def global_shape(rows):
            rows = np.asarray(rows)
            return jax.ShapeDtypeStruct((len(rows) * jax.process_count(), *rows.shape[1:]),
                                        jax.dtypes.canonicalize_dtype(rows.dtype))
        local = next(iter(self.eval_batches(split)), None)
        return local and jax.tree.map(global_shape, local)


class SpecOnly(Source):
    """A source without its data, as a checkpoint describes it: for the model and `predict`."""

    @old_names.old_keywords(prepare="preprocess", missing="error")
    def __init__(self, example: dict, preprocess: Callable, error: Exception):
        self.preprocess, self.error = preprocess, error
        self.stored = {name: x.dtype for name, x in example.items() if hasattr(x, "dtype")}
        self.example = jax.tree.map(np.asarray, preprocess(jax.tree.map(jnp.asarray, example)))

    def init(self, key):
        return {}

    def eval_batches(self, split):
        raise self.error


def example_keys(key, index):
    """Return one key an example, from its draw number: (B,) keys."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def local_rows(batch_size: int) -> slice:
    """Return the slice of a global batch that belongs to this process."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def augmented(batch: dict, augment, mix, key) -> dict:
    """Return a batch after augment(example, key) on every row, then mix(batch, keys) on them all.

    Every draw has one key of each kind.
    """
    each, together = jax.random.split(key)
    batch = {**batch, "record": batch["row"]}  # version 1's name, which its losses may read
    if augment is not None:
        examples = {k: v for k, v in batch.items() if k not in ("index", "weight")}
        batch = {**batch, **jax.vmap(augment)(examples, example_keys(each, batch["index"]))}
    return batch if mix is None else mix(batch, example_keys(together, batch["index"]))


def unchanged(batch: dict) -> dict:
    """Return a batch as it is: the default of `preprocess`, `view` and `decode`."""
    return batch


def ones(n: int):
    """Return the weights (n,) of a batch without padding."""
    return jnp.ones(n, jnp.float32)
