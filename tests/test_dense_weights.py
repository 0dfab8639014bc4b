"""torchvision's detector and segmenters: outputs, losses, detections and NMS, from their own code.

The goldens are of data/goldens/make_dense.py.
"""
import pathlib

from data.goldens import make_dense
from data.goldens.make_dense import CLASSES, SIZE, SIZES
from data.goldens.make_vision import images, weights as drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import weights
from karpjax.core.metric import quotient
from karpjax.core import files
from karpjax.models import fcos
from karpjax.models.layers import boxes as box
from karpjax.models.pyramid import resized
from karpjax.run.published import into_file, published
from karpjax.weights.fcos import COCO, GAPS

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "dense.npz")
RESNET = dict(name="resnet", depth=50)
SEGMENTERS = {"fcn_resnet50": dict(name="fcn"), "deeplabv3_resnet50": dict(name="deeplab")}


def pictures(size):
    return jnp.asarray(images(2, 128)[:, :size[0], :size[1]] / 128 - 1)


def filled(options: dict, draw, classes: int = CLASSES):
    """Return a model and its variables, drawn by PyTorch's names."""
    model = kj.models.make_model(options, classes=classes)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    arrays = draw({name: array.shape for name, array in weights.to_pytorch(model, zeros).items()})
    return model, weights.to_karpjax(model, like, arrays, "drawn")


@pytest.fixture(scope="module")
def detector():
    """Return the detector, its variables, and outputs for two pictures."""
    model, variables = filled(dict(name="fcos", backbone=RESNET, **kj.models.FCOS_COCO),
                              make_dense.detector_weights)
    return model, variables, jax.jit(model.apply)(variables, pictures(SIZE))


@pytest.mark.full
def test_outputs(detector):
    outputs = detector[2]
    for ours, theirs in (("class", "cls_logits"), ("sides", "bbox_regression"),
                         ("centerness", "bbox_ctrness")):
        expected = GOLDEN[theirs].reshape(outputs[ours].shape)
        np.testing.assert_allclose(outputs[ours], expected, rtol=1e-4, atol=1e-4)
        assert np.abs(expected[0] - expected[1]).max() > 0.01


@pytest.mark.full
@pytest.mark.parametrize("batch", ["both", "none"])
def test_losses(detector, batch):
    """With a picture without boxes in the batch, and in a batch without any."""
    listed = make_dense.truth() if batch == "both" else make_dense.truth()[1:] * 2
    boxes, labels, valid = np.zeros((2, 8, 4), np.float32), np.zeros((2, 8), int), np.zeros((2, 8))
    for i, each in enumerate(listed):
        n = len(each["boxes"])
        boxes[i, :n], labels[i, :n], valid[i, :n] = each["boxes"], each["labels"], 1
    model, _, outputs = detector
    parts = fcos.losses(model.grid(*SIZE), outputs, jnp.asarray(boxes), jnp.asarray(labels),
                        jnp.asarray(valid), jnp.ones(2))
    losses = [quotient(*jax.device_get(parts[name])) for name in ("class", "box", "centerness")]
    np.testing.assert_allclose(losses, GOLDEN[f"losses_{batch}"], rtol=1e-4, atol=1e-4)
    assert (GOLDEN[f"losses_{batch}"][1:] > 0).all() == (batch == "both")


@pytest.mark.full
@pytest.mark.parametrize("i", range(len(SIZES)))
def test_detections(detector, i):
    """A picture of each size, in the upper left corner of a square, the rest as after its mean."""
    model, variables, _ = detector
    (H, W), square = SIZES[i], np.zeros((1, 128, 128, 3), np.float32)
    square[0, :H, :W] = pictures((H, W))[0]
    outputs = jax.jit(model.apply)(variables, square)
    found = fcos.detect(model.grid(128, 128), outputs, (H, W), threshold=0.2, candidates=1000)
    np.testing.assert_allclose(found["scores"][0], GOLDEN[f"scores_{i}"], rtol=1e-4)
    np.testing.assert_allclose(found["boxes"][0], GOLDEN[f"boxes_{i}"], atol=1e-2)
    np.testing.assert_array_equal(found["labels"][0], GOLDEN[f"labels_{i}"])


@pytest.mark.full
@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters(name):
    options = dict(**SEGMENTERS[name], backbone=dict(**RESNET, dilated=2), auxiliary=True)
    model, variables = filled(options, drawn_weights)
    logits = jax.jit(lambda x: model.apply(variables, x, both=True))(pictures(SIZE))
    for ours, key in zip(logits, (name, f"{name}_aux"), strict=True):
        expected = GOLDEN[key].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours[:, ::6, ::6], expected, rtol=1e-4, atol=1e-4)


def test_bilinear():
    x = jnp.asarray(images(1, 24))
    for size in ((37, 24), (96, 80), (11, 13)):
        expected = GOLDEN[f"bilinear_{size[0]}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(resized(x, size), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.full
def test_suppression_keeps_what_batched_nms_keeps():
    """On random sets, with ties in scores and equal boxes."""
    run = jax.jit(box.suppress, static_argnums=3)
    ends = np.cumsum(GOLDEN["nms_counts"], dtype=int)
    for each, expected in zip(make_dense.sets_of_boxes(), np.split(GOLDEN["nms"], ends[:-1]),
                              strict=True):
        boxes, scores, labels, threshold = each
        n = len(boxes)
        # of one size, so that one program does: the others have no score and no box
        order, kept = run(jnp.zeros((40, 4)).at[:n].set(boxes), jnp.zeros(40).at[:n].set(scores),
                          jnp.full(40, -1).at[:n].set(labels), threshold)
        ours = np.asarray(order)[np.asarray(kept)]
        np.testing.assert_array_equal(ours[ours < n], expected)


# ------------------------------------------------------------------------------- published files

PUBLISHED = {
    "fcos_resnet50_fpn": (dict(name="fcos", backbone=RESNET, **kj.models.FCOS_COCO), 80),
    "fcn_resnet50": (dict(name="fcn", backbone=dict(**RESNET, dilated=2), auxiliary=True), 21),
    "deeplabv3_resnet50": (dict(name="deeplab", backbone=dict(**RESNET, dilated=2)), 21)}


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=pytest.mark.full) for arch in PUBLISHED])
def test_a_published_file_becomes_a_checkpoint_and_a_file_again(arch, tmp_path, capsys):
    """Of COCO's 91 ids those with a name stay, in the order that prepare gives them."""
    options, classes = PUBLISHED[arch]
    model, variables = filled(options, drawn_weights, classes)
    arrays = weights.to_pytorch(model, variables)
    theirs = {**arrays, "backbone.body.bn1.num_batches_tracked": np.int64(3)}
    if arch == "fcos_resnet50_fpn":
        for name in ("weight", "bias"):
            name = f"head.classification_head.cls_logits.{name}"
            rows = np.full((91, *arrays[name].shape[1:]), 99, np.float32)  # junk in the gaps
            rows[np.delete(np.arange(91), GAPS)] = arrays[name]
            theirs[name] = rows
    files.write_arrays(tmp_path / "theirs.npz", theirs)
    published(tmp_path / "theirs.npz", arch, tmp_path / "run")
    said = capsys.readouterr().out
    assert ("80 classes of COCO's 91 ids" in said) == (classes == 80) and "assumed mean" in said
    run = kj.restore(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    assert len(run.class_names) == classes
    assert run.class_names[17 if classes == 80 else 13] == "horse" == COCO[17]
    assert run.config.model.get("auxiliary", False) == (arch == "fcn_resnet50")
    into_file(tmp_path / "run", tmp_path / "again.npz", "newest")
    again = files.read_arrays(tmp_path / "again.npz")
    assert again.keys() == arrays.keys()
    assert all(again[name].tobytes() == arrays[name].tobytes() for name in again)
