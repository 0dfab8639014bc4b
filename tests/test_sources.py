"""Sources: every order is a permutation, every batch a function of the step, and evaluation is
exact."""
import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MLP

import karpjax as kj
from karpjax.core import sharding
from karpjax.run.evaluator import make_evaluator
from karpjax.sources.shuffle import shuffled
from karpjax.sources.text import unigram_entropy


def permutation(n, epoch=0, seed=0):
    positions = jnp.arange(n, dtype=jnp.uint32)
    return np.asarray(shuffled(positions, jnp.full(n, epoch, jnp.uint32), jax.random.key(seed), n))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65, 1000, 4099])
def test_shuffle_is_a_permutation(n):
    assert sorted(permutation(n)) == list(range(n))


def test_shuffle_depends_on_key_and_epoch():
    orders = [tuple(permutation(50, epoch, seed)) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9


def test_shuffle_is_uniform():
    """Over 4,000 epochs each of 12 positions holds each element about equally often, and neighbours
    are not kept together.

    Chi-squared with 121 degrees of freedom (12 x 12 cells, rows and columns fixed): beyond 190 in 1
    of 10,000 cases.
    """
    n, epochs = 12, 4000
    epoch = jnp.repeat(jnp.arange(epochs, dtype=jnp.uint32), n)
    order = np.asarray(shuffled(jnp.tile(jnp.arange(n, dtype=jnp.uint32), epochs), epoch,
                                jax.random.key(1), n)).reshape(-1, n)
    cells = np.stack([np.bincount(order[:, p], minlength=n) for p in range(n)])
    assert ((cells - epochs / n) ** 2 / (epochs / n)).sum() < 190
    # element k + 1 right after k: 1 / n of the pairs
    follows = np.mean(np.diff(order, axis=1) == 1)
    assert abs(follows - 1 / n) < 0.01


def draws(source, steps):
    """Yield the label column of the batches of some steps."""
    state = source.init(jax.random.key(0))
    begin, batch = jax.jit(source.advance), jax.jit(source.batch)
    for _ in range(steps):
        state, chunk = begin(source.arrays, state, {})
        yield batch(source.arrays, chunk, 0)


def test_arrays_epochs_run_across_batches():
    source = kj.sources.arrays({"x": np.arange(10.0, dtype=np.float32), "label": np.arange(10)},
                               batch_size=4)
    labels = np.concatenate([b["label"] for b in draws(source, 10)])  # 40 draws: 4 epochs of 10
    for epoch in labels.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert len({tuple(e) for e in labels.reshape(4, 10)}) == 4
    index = np.concatenate([b["index"] for b in draws(source, 10)])
    assert index.tolist() == list(range(40))


def test_arrays_larger_batch_than_set():
    source = kj.sources.arrays({"label": np.arange(3)}, batch_size=8)
    assert max(collections.Counter(
        np.concatenate([b["label"] for b in draws(source, 3)]).tolist()).values()) == 8


def test_augmentation_is_keyed_by_draw():
    """The same example in another draw is augmented otherwise, the same draw always alike."""
    def noise(example, key):
        return {**example, "x": example["x"] + jax.random.normal(key)}

    source = kj.sources.arrays({"x": np.zeros(2, np.float32)}, batch_size=4, augment=noise)
    first, again = [np.concatenate([b["x"] for b in draws(source, 3)]) for _ in range(2)]
    assert len(set(first.tolist())) == 12 and (first == again).all()


def test_rows_know_their_record_and_epoch():
    """A draw, on the device or from the host, knows its row of the data set and the epochs before
    it."""
    columns = {"label": np.arange(10) * 7}
    records = [{"label": np.int64(value)} for value in columns["label"]]
    host = kj.sources.Loader(records, batch_size=4)
    for batches in ([*draws(kj.sources.arrays(columns, batch_size=4), 6)],
                    [host.next_batch(step, 0) for step in range(6)]):
        joined = {name: np.concatenate([b[name] for b in batches])
                  for name in ("label", "row", "epoch")}
        assert (joined["label"] == 7 * joined["row"]).all()
        assert joined["epoch"].tolist() == [0] * 10 + [1] * 10 + [2] * 4
    assert (host.first(3)["label"] == [0, 7, 14]).all()


def test_mixing_sees_the_whole_batch():
    """Mixing comes after augmentation, in training alone, with one key for each draw."""
    seen = []

    def mix(batch, keys):
        seen.append(keys.shape)
        return {**batch, "x": batch["x"] + batch["x"][::-1]}
    source = kj.sources.arrays({"x": np.arange(4.0, dtype=np.float32)}, batch_size=4,
                               mix=mix, splits={
        "test": {"x": np.ones(4, np.float32)}},
                               augment=lambda example, key: {**example, "x": 10 * example["x"]})
    batch = next(draws(source, 1))
    assert (batch["x"] == batch["x"][::-1]).all() and batch["x"].sum() == 2 * 60 and seen[0] == (4,)
    assert (next(source.eval_batches("test"))["x"] == 1).all()


def test_columns_of_unequal_length():
    with pytest.raises(kj.UserError, match="columns of one length"):
        kj.sources.arrays({"x": np.zeros(3), "label": np.zeros(4)}, batch_size=2)


@pytest.mark.parametrize("batch_size", [8, 16, 40])
def test_evaluation_is_exact_whatever_the_batch(batch_size):
    """Means over 27 examples on 8 devices, the last batch padded, equal numpy's."""
    x = np.random.default_rng(0).normal(size=(27, 4)).astype(np.float32)
    source = kj.sources.arrays({"x": x}, batch_size=batch_size, splits={"test": {"x": x}})

    def loss(params, model_state, batch, key):
        return {"a": kj.mean(batch["x"][:, 0], batch["weight"]),
                "b": kj.mean(batch["x"] ** 2, batch["weight"])}, {}, {}
    task = kj.Task(MLP(8, 1, 2), source, loss, inputs="x")
    metrics = make_evaluator(task, sharding.make_mesh())({"params": {"w": jnp.zeros(1)}}, "test")
    np.testing.assert_allclose([metrics["a"], metrics["b"], metrics["loss"]],
                               [x[:, 0].mean(), (x**2).mean(), x[:, 0].mean() + (x**2).mean()],
                               rtol=1e-5)


def test_host_source_holds_no_more_than_asked():
    """Reads run ahead of the step by at most `ahead` batches and what the threads have in hand."""
    read = []

    class Records(list):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)
    source = kj.sources.Loader(Records({"x": np.float32(i)} for i in range(64)), batch_size=4,
                               ahead=2, threads=2)
    read.clear()
    for step in range(3):
        batch = source.next_batch(step, seed=0)
        assert len(read) <= 4 * (step + 1 + 2) + 2 * 2
    assert batch["x"].shape == (4,) and batch["index"].tolist() == [8, 9, 10, 11]


def test_host_source_is_a_function_of_the_step():
    def make():
        return kj.sources.Loader([{"x": np.float32(i)} for i in range(10)], batch_size=4)

    straight, jumped = make(), make()
    batches = [straight.next_batch(step, 3)["x"] for step in range(6)]
    assert (jumped.next_batch(4, 3)["x"] == batches[4]).all()
    assert (jumped.next_batch(5, 3)["x"] == batches[5]).all()
    assert sorted(np.concatenate(batches)[:10]) == list(range(10))
    assert (make().next_batch(4, 4)["x"] != batches[4]).any()  # another seed, another order


ODD_ROWS = [
    (dict(x=np.zeros(2, np.float32)), ", column 'x': expected rows as in the first row, float32, "
     "found float32 of (2,); make them alike"),
    (dict(x=np.int32(1)), ", column 'x': expected rows as in the first row, float32, found int32; "
     "make them alike"),
    (dict(x=None), ": expected the columns of the first row (x, label), found label; missing: x"),
    (dict(y=1), ": expected the columns of the first row (x, label), found y too; make them alike"),
    (dict(label=np.int64(-1)), ": expected labels of 0 to 2, found -1; correct them, or the "
                               "classes"),
    (dict(label=np.int64(3)), ": expected labels of 0 to 2, found 3; correct them, or the classes")]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("change, says", ODD_ROWS, ids=["shape", "dtype", "lacks", "more", "below",
                                                        "above"])
def test_a_row_unlike_the_first(split, change, says):
    """A streamed row is looked at as it is read: one line names split and row."""
    rows = [{"x": np.float32(i), "label": np.int64(i % 3)} for i in range(8)]
    odd = {name: value for name, value in {**rows[5], **change}.items() if value is not None}
    splits = {"train": rows, "test": rows} | {split: [*rows[:5], odd, *rows[6:]]}
    source = kj.sources.Loader(splits.pop("train"), batch_size=4, splits=splits, classes=3)
    with pytest.raises(kj.UserError) as error:
        [source.next_batch(step, seed=0) for step in range(2)], [*source.eval_batches("test")]
    assert str(error.value) == f"split {split!r}, row 5{says}"


def test_no_rows_at_all():
    with pytest.raises(kj.UserError, match="^split 'train': expected records, found none; leave "):
        kj.sources.Loader([], batch_size=4)
    with pytest.raises(kj.UserError, match="^split 'train', column 'x': expected numbers, found "):
        kj.sources.Loader([{"x": "a"}], batch_size=4)


def test_digits_splits():
    from karpjax.datasets.tfds import open_split, prepared_builder
    builder = prepared_builder("digits")
    sizes = {split: len(open_split(builder, split))
             for split in ("train", "validation", "test", "train[:10%]")}
    assert sizes == {"train": 1297, "validation": 200, "test": 300, "train[:10%]": 130}
    train, validation, test = ({row["image"].tobytes() for row in open_split(builder, split)}
                               for split in builder.info.splits)
    assert not train & test and not train & validation and not validation & test


def test_unigram_entropy():
    assert unigram_entropy(np.array([0, 0, 1, 1], np.uint8)) == pytest.approx(np.log(2))
