"""Columns of arrays and keys of config.data that would be lost, or mean nothing: one line each."""
import numpy as np
import pytest

import karpjax as kj
from karpjax.core.errors import UserError

TRAIN = {"image": np.zeros((4, 8, 8, 3), np.uint8), "label": np.arange(4)}


@pytest.mark.parametrize("name", ["weight", "index", "row", "epoch", "record"])
def test_a_column_that_a_source_would_replace(name):
    """Weights of one's own would be lost to those of padding, without a word."""
    with pytest.raises(UserError, match=f"split 'train', column '{name}': expected other names"):
        kj.sources.arrays({**TRAIN, name: np.arange(4)}, batch_size=2)
    with pytest.raises(UserError, match=f"split 'train', column '{name}': expected other names"):
        kj.sources.Loader([{"label": 0, name: 1.0}] * 4, batch_size=2)


@pytest.mark.parametrize("source, rows", [(kj.sources.arrays, TRAIN),
                                          (kj.sources.Loader, [{"label": 0}] * 4)],
                         ids=["arrays", "loader"])
def test_a_second_train(source, rows):
    """A split of that name would replace the rows that are learned from."""
    with pytest.raises(UserError, match="^splits: expected splits to evaluate, .* found 'train'"):
        source(rows, batch_size=2, splits={"train": rows})


@pytest.mark.parametrize("column, found", [([0, 1, 2, 3], "list"), (3, "int"),
                                           (np.float32(3), "float32")])
def test_a_column_without_rows(column, found):
    with pytest.raises(UserError, match=f"with an axis of rows, found 'label' of {found}; give"):
        kj.sources.arrays({**TRAIN, "label": column}, batch_size=2)


@pytest.mark.parametrize("key, value, says", [
    ("mean", [1.0, 2.0], r"a number, or one a channel \(1\), found \[1.0, 2.0\]"),
    ("std", "a", "a number, or one a channel, found 'a'"),
    ("resize", (0, 8), r"\(H, W\), or \(\) for none, found \(0, 8\)"),
    ("resize", (8.5, 8), r"\(H, W\), or"), ("resize", ("8", "8"), r"\(H, W\), or"),
    ("crop", -4, "a whole number, or 0 for none, found -4"),
    ("crop", (4, 4), r"a whole number, or 0 for none, found \(4, 4\)"),
    ("channels", -1, "a whole number, or 0 for none, found -1")])
def test_a_key_of_images(key, value, says):
    data = kj.config(data={"name": "digits", "train": "train", "batch_size": 4, key: value}).data
    with pytest.raises(UserError, match=rf"^config.data.{key}: expected {says}"):
        kj.sources.images(data)


@pytest.mark.parametrize("values, shape", [
    (dict(mean=[1.0, 2.0, 3.0]), (1, 8, 8, 3)), (dict(mean=4.9, std=[6.0]), (1, 8, 8, 1)),
    (dict(channels=3, mean=[1.0] * 3, std=2.0), (1, 8, 8, 3)),
    (dict(resize=[16, 16]), (1, 16, 16, 1))])
def test_numbers_of_a_channel(values, shape):
    """Three of them repeat grey images, as for weights that were trained on colours."""
    data = kj.config(data={"name": "digits", "train": "train", "batch_size": 4, **values}).data
    assert kj.sources.images(data).example["image"].shape == shape
