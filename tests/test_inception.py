"""Inception-v3 equals pytorch-fid's with the same weights, which go there and back; FID by it."""
import pathlib

from data.goldens import make_inception
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax import UserError, weights
from karpjax.core.files import write_arrays
from karpjax.core.task_file import build_task, load_task_module
from karpjax.core.trees import named
from karpjax.models.inception import InceptionV3, prepared
from karpjax.run.restore import building
from karpjax.tasks import flow_networks

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "inception.npz")
MODEL = InceptionV3()


@pytest.fixture(scope="module")
def drawn():
    """Return its variables' shapes, and arrays by pytorch-fid's names."""
    like = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    names = {name: array.shape for name, array in weights.to_pytorch(MODEL, zeros).items()}
    return like, make_inception.drawn(names)


def test_prepared_pictures():
    """A smaller and a larger one, as PyTorch's interpolate makes them; grey is three channels."""
    places = (slice(None), make_inception.PLACES, make_inception.PLACES)
    for picture, expected in zip(make_inception.pictures(), GOLDEN["places"], strict=True):
        found = prepared(jnp.asarray(picture))
        assert found.shape == (1, 299, 299, 3)
        np.testing.assert_allclose(found[places][0], expected, atol=1e-5)
    grey = jnp.asarray(picture[..., :1])
    np.testing.assert_array_equal(prepared(grey), prepared(grey.repeat(3, axis=-1)))


def test_features(drawn):
    """Also the logits, by which FID's weights are told from others of 1,000 classes."""
    variables = weights.to_karpjax(MODEL, *drawn, "drawn")
    pictures = jnp.concatenate([prepared(jnp.asarray(each)) for each in make_inception.pictures()])
    logits, features = jax.jit(MODEL.apply)(variables, pictures)
    for found, expected in ((features["pooled"], GOLDEN["features"]), (logits, GOLDEN["logits"])):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-4)
        assert np.abs(expected[0] - expected[1]).max() > 0.1 * scale   # they show the picture


def test_there_and_back(drawn):
    """All names of pytorch-fid's file are written, and no bit changes."""
    like, arrays = drawn
    back = weights.to_pytorch(MODEL, weights.to_karpjax(MODEL, like, arrays, "drawn"))
    assert sorted(back) == sorted(GOLDEN["names"])
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("change, said", [
    ({"fc.weight": np.zeros((1000, 2048), np.float32), "fc.bias": np.zeros(1000, np.float32)},
     r"of another shape: \['head/kernel|of another shape: \['fc.bias \(1000,\) -> \(1008,\)"),
    ({"AuxLogits.fc.bias": np.zeros(1000, np.float32)}, "AuxLogits.fc.bias"),
    ({"Mixed_7b.branch1x1.conv.weight": None}, "missing.*Mixed_7b.branch1x1.conv.weight"),
    ({"fc.bias": np.full(1008, np.nan, np.float32)}, "expected finite numbers")])
def test_other_weights_are_refused(drawn, change, said):
    """Torchvision's own, with 1,000 classes and a second head, would make another FID."""
    like, arrays = drawn
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(UserError, match=said):
        weights.to_karpjax(MODEL, like, arrays, "theirs.pth")


# ------------------------------------------------------------------------------ FID of a flow's run

def task_of(**scores):
    """Return a flow's task on a few digits, which are 0 to 16 of 255: dark pictures."""
    config, _ = config_of("flow", scores=scores, **{
        "data.train": "train[:10]", "data.test": "test[:6]", "data.mean": [127.5],
        "data.std": [127.5]})
    return build_task(config, load_task_module("flow")[0])


def test_a_file_that_is_not_here(tmp_path):
    """A new run is refused. A restored one makes pictures, and has no scores."""
    nowhere = str(tmp_path / "inception.npz")
    with pytest.raises(UserError, match="no such file"):
        task_of(inception=nowhere)
    with building("runs/flow"):
        scored = task_of(inception=nowhere).summarize.__self__
    with pytest.raises(UserError, match="runs/flow: this needs config.scores.inception"):
        scored.extractor.outputs(np.zeros((1, 8, 8, 1), np.uint8))


@pytest.mark.full
def test_fid(drawn, tmp_path, monkeypatch):
    """Of samples, and 0 of the reference itself. Its features are Inception's, and named."""
    monkeypatch.setattr(flow_networks, "BATCH", 10)
    file = tmp_path / "inception.npz"
    write_arrays(file, drawn[1])
    task = task_of(inception=str(file))
    scored, source = task.summarize.__self__, task.source
    assert set(named(scored.extractor.variables)) == set(named(drawn[0]))
    train, test = source.rows("train", range(10)), source.rows("test", range(6))
    noise = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8, 1)).astype(np.uint8)
    of_noise, copies = (scored.summarize({}, {"made": {
        "pictures": pictures, "data": test["image"], "label": train["label"]}})
        for pictures in (noise, train["image"][:, None]))
    assert "FD" not in copies and copies["FID"] == pytest.approx(0, abs=1e-6 * of_noise["FID"])
    assert copies["precision"] == copies["recall"] == 1 and copies["distance_to_training"] == 0
    assert copies["scored"] == {"samples": 10, "reference": 10, "compared": 10, "features": 2048,
                                "extractor": scored.extractor.checksum}
    assert len(scored.extractor.checksum) == 12
