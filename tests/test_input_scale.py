"""The mean and deviation of a network's inputs, reported at the start of a run."""
import types

from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.run.experiment import assemble
from karpjax.run.input_scale import input_notes

# mean 127.5, deviation 78.37
PIXELS = np.tile(np.arange(0, 256, 17, np.uint8).reshape(4, 4, 1), (100, 1, 1, 1))
FIX = ("expected about 0 and 1; check, or give config.data.mean and std (or a preprocess of your "
       "own) the statistics of these data")


def notes(column, preprocess=None, inputs="image", **others) -> list[str]:
    """Return what a run on these rows reports."""
    source = kj.sources.arrays({"image": column, **others}, batch_size=2, preprocess=preprocess)
    return input_notes(types.SimpleNamespace(source=source,
                                             task=types.SimpleNamespace(inputs=inputs)))


def scaled(mean, std):
    return lambda batch: {**batch, "image": (batch["image"].astype(np.float32) - mean) / std}


def test_the_statistics_of_other_pixels():
    """The digits' mean and deviation, of pixels of 0 to 16, on pixels of 0 to 255."""
    assert notes(PIXELS, scaled(4.88, 6.02)) == [
        "warning: image after preprocessing: mean 20.37, deviation 13.02 (64 rows of the training "
        f"data); {FIX}"]


@pytest.mark.parametrize("mean, std, says", [
    (127.5, 74, "mean 0.00, deviation 1.06"), (0, 255, "mean 0.50, deviation 0.31"),
    (123.7, 58.4, "mean 0.07, deviation 1.34")])
def test_usual_scales_are_reported_alone(mean, std, says):
    """Standardised, of 0 to 1, and by the statistics of another data set."""
    assert notes(PIXELS, scaled(mean, std)) == [
        f"image after preprocessing: {says} (64 rows of the training data)"]


def test_pictures_scaled_twice():
    """Of 0 to 1, and then by the statistics of 0 to 255: nearly constant."""
    twice = (PIXELS / 255).astype(np.float32)
    assert notes(twice, scaled(127.5, 74)) == [
        "warning: image after preprocessing: mean -1.72, deviation 0.00 (64 rows of the training "
        f"data); {FIX}"]
    assert notes(twice, scaled(0, 255))[0].startswith("warning: ")


def test_raw_pixels_are_warned_of():
    assert notes(PIXELS) == [
        "warning: image after preprocessing: mean 127.50, deviation 78.37 (64 rows of the training "
        "data); expected about 0 and 1; scale these pixels in the network, or give "
        "config.data.mean and std (or a preprocess of your own) the statistics of these data"]


def test_numbers_that_are_not_finite():
    rows = np.zeros((70, 3), np.float32)
    rows[69, 1] = np.nan
    assert notes(rows) == [
        "warning: image after preprocessing: mean nan, deviation nan (64 rows of the training "
        "data); expected finite numbers, found nan at (1,) of row 69"]


def test_what_has_no_scale():
    """Tokens, and one number an example, as a flow's time. Of several inputs each has a line."""
    assert notes(np.arange(12).reshape(4, 3)) == []
    two = notes(np.ones((4, 3), np.float32) * [[-1.0], [1], [-1], [1]], inputs=lambda batch: {
        "x": batch["image"], "again": 2 * batch["image"].astype(jnp.bfloat16), "t": batch["t"]},
        t=np.full(4, 1e6, np.float32))
    assert two == [f"{name} after preprocessing: mean 0.00, deviation {deviation} (4 rows of the "
                   "training data)" for name, deviation in (("x", "1.00"), ("again", "2.00"))]


def test_a_source_without_rows():
    """A rollout has none, nor has a source of one's own that cannot give them."""
    class Own(kj.sources.Source):
        num_examples = 9
    task = types.SimpleNamespace(inputs="x")
    for source in (Own(), kj.sources.Source()):
        assert input_notes(types.SimpleNamespace(source=source, task=task)) == []


@pytest.mark.parametrize("name", ["digits", "digits_host"])
def test_shipped_configs_are_not_warned_of(name):
    """In memory, and streamed."""
    assert input_notes(assemble(*config_of(name), mesh_of(1))) == [
        "image after preprocessing: mean 0.01, deviation 1.00 (64 rows of the training data)"]
