"""Boxes: overlaps, suppression, which location answers for which object, average precision."""
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.models import fcos
from karpjax.models.fcos import FCOS, centerness, losses
from karpjax.models.layers import boxes as box
from karpjax.tasks.average_precision import average_precision


def random_boxes(rng, n: int, size: float = 60) -> np.ndarray:
    corner, sides = rng.uniform(0, size * 0.7, (n, 2)), rng.uniform(4, size * 0.5, (n, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def grid(H=64, W=64, strides=(8, 16)):
    return FCOS(nn.Module(), 3, strides).grid(H, W)


def test_iou_and_giou():
    """Half an overlap, none, the same box, and boxes without area: values by hand."""
    a = jnp.array([[0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]], jnp.float32)
    b = jnp.array([[0, 1, 2, 3], [3, 0, 4, 1], [3, 3, 3, 3]], jnp.float32)
    np.testing.assert_allclose(box.iou(a, b), [[1 / 3, 0, 0], [0, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(box.giou_loss(a, a)[:2], 0, atol=1e-6)
    # hull of the second pair 4, union 2
    np.testing.assert_allclose(box.giou_loss(a, b)[:2], [2 / 3, 1.5], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda a: box.giou_loss(a, b).sum())(a)).all()


def test_what_stays():
    """Another class stays, a chain does not pull down the third, of ties the first stays."""
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18],
                       [0, 1, 10, 11]], jnp.float32)
    scores, labels = jnp.array([0.5, 0.5, 0.4, 0.3, 0.5]), jnp.array([0, 1, 0, 0, 0])
    kept_boxes, kept_scores, kept_labels = box.best(boxes[None], scores[None], labels[None],
                                                    threshold=0.4, most=4)
    np.testing.assert_array_equal(kept_labels[0], [0, 1, 0, -1])
    np.testing.assert_array_equal(kept_boxes[0, :3], boxes[jnp.array([0, 1, 3])])
    np.testing.assert_array_equal(kept_scores[0], np.float32([0.5, 0.5, 0.3, 0]))


def test_assignment_by_hand():
    """A box as large as the picture is of the coarser level; of two the smaller takes its middle.
    """
    where = grid(128, 128)
    boxes = jnp.array([[0, 0, 128, 128], [80, 0, 112, 32], [88, 8, 96, 16]], jnp.float32)
    chosen, there = map(np.asarray, where.assign(boxes, jnp.ones(3)))
    found = [{tuple(point) for point in where.points[there & (chosen == i)].tolist()}
             for i in range(3)]
    assert found == [{(56, 56), (56, 72), (72, 56), (72, 72)}, {(100, 12), (92, 20), (100, 20)},
                     {(92, 12)}]


def test_padded_boxes_never_win():
    """A place without an object has a box of no area, the smallest of all, and may hold junk."""
    where, boxes = grid(), jnp.array([[4, 4, 60, 60], [20, 20, 40, 40]], jnp.float32)
    alone = where.assign(boxes[:1], jnp.ones(1))
    padded = where.assign(boxes, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(alone[1], padded[1])
    np.testing.assert_array_equal(np.where(padded[1], padded[0], 0), 0)
    both = where.assign(boxes, jnp.ones(2))                                        # the mutant
    assert (np.asarray(both[0])[np.asarray(both[1])] == 1).any()


def test_centerness_has_a_gradient_outside():
    """Outside of its box a point's product of distances may be below 0, whose root is no number."""
    sides = jnp.array([[-1.0, 2, 3, 4], [1, 2, 3, 4], [0, 1, 1, 1], [-1, -2, 3, 4]])
    np.testing.assert_allclose(centerness(sides), [0, (1 / 3 * 2 / 4)**0.5, 0, 0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda s: centerness(s).sum())(sides)).all()

    def unguarded(s):                                                              # the mutant
        inside = s.min(-1) > 0
        share = s[:, 0] * s[:, 1] / (s[:, 2] * s[:, 3])
        return jnp.where(inside, jnp.sqrt(share), 0.0).sum()
    assert not np.isfinite(jax.grad(unguarded)(sides)).all()


def outputs_of(where, rng, B=2, K=3):
    L = len(where.points)
    return {"class": jnp.asarray(rng.normal(size=(B, L, K)), jnp.float32),
            "sides": jnp.asarray(rng.uniform(0.1, 3, (B, L, 4)), jnp.float32),
            "centerness": jnp.asarray(rng.normal(size=(B, L)), jnp.float32)}


def test_losses_of_padding_and_of_no_boxes():
    """A picture of weight 0 changes nothing. Without boxes the background loss is divided by 1."""
    rng, where = np.random.default_rng(0), grid()
    outputs = outputs_of(where, rng)
    boxes = jnp.stack([random_boxes(rng, 4), random_boxes(rng, 4)])
    labels, valid = jnp.zeros((2, 4), jnp.int32), jnp.ones((2, 4))

    def of(outputs, boxes, labels, valid, weight):
        parts = losses(where, outputs, boxes, labels, valid, weight)
        return {name: (float(total), float(count.value), count.floor)
                for name, (total, count) in parts.items()}
    both = of(outputs, boxes, labels, valid, jnp.array([1.0, 0.0]))
    first = jax.tree.map(lambda x: x[:1], (outputs, boxes, labels, valid))
    alone = of(*first, jnp.ones(1))
    for name in alone:
        np.testing.assert_allclose(both[name], alone[name], rtol=1e-5)
    none = of(outputs, boxes, labels, 0 * valid, jnp.ones(2))
    assert none["class"][0] > 0 and none["class"][1:] == (0.0, 1.0)
    assert none["box"][0] == none["centerness"][0] == 0


def test_counts_do_not_depend_on_outputs():
    """With accumulation the counts of a batch are computed before its network."""
    rng, where = np.random.default_rng(0), grid()
    truth = (jnp.asarray(random_boxes(rng, 3))[None], jnp.zeros((1, 3), jnp.int32),
             jnp.ones((1, 3)), jnp.ones(1))
    outputs = outputs_of(where, rng, 1)
    unknown = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), outputs)
    counts = [[float(count.value) for _, count in losses(where, each, *truth).values()]
              for each in (outputs, unknown)]
    assert counts[0] == counts[1] and min(counts[0]) > 0


def test_detections_of_what_is_certain():
    """Outputs that say the truth give it back, the best first; nothing certain gives nothing."""
    where, B, K = grid(), 1, 3
    boxes = jnp.array([[8, 8, 24, 24], [4, 2, 60, 62]], jnp.float32)
    chosen, there = where.assign(boxes, jnp.ones(2))
    sides = where.sides(boxes[chosen], where.points) / where.strides[:, None]
    labels = jnp.array([2, 1])[chosen]
    sure = jnp.where(there[:, None], jax.nn.one_hot(labels, K) * 20 - 10, -10.0)
    central = centerness(where.sides(boxes[chosen], where.points))
    outputs = {"class": sure[None], "sides": sides[None],
               "centerness": jax.scipy.special.logit(jnp.clip(central, 0.01, 0.99))[None]}
    found = fcos.detect(where, outputs, (64, 64), threshold=0.05)
    assert found["boxes"].shape == (B, min(100, 2 * 300), 4)
    np.testing.assert_array_equal(np.sort(found["labels"][0])[::-1][:3], [2, 1, -1])
    for label, expected in ((2, boxes[0]), (1, boxes[1])):
        at = int(np.flatnonzero(found["labels"][0] == label)[0])
        np.testing.assert_allclose(found["boxes"][0, at], expected, atol=1e-3)
    nothing = fcos.detect(where, {**outputs, "class": jnp.full_like(outputs["class"], -10)},
                          (64, 64))
    assert (np.asarray(nothing["labels"]) == -1).all() and not np.asarray(nothing["scores"]).any()


def test_boxes_end_at_the_picture():
    """A box that reaches into the margin is cut there, in each picture at its own size."""
    where = grid()
    L = len(where.points)
    outputs = {"class": jnp.full((2, L, 3), 4.0), "sides": jnp.full((2, L, 4), 9.0),
               "centerness": jnp.full((2, L), 4.0)}
    found = fcos.detect(where, outputs, jnp.array([[64.0, 64.0], [20.0, 40.0]]))
    assert found["boxes"][0].max() == 64
    np.testing.assert_array_equal(found["boxes"][1].max(0), [0, 0, 40, 20])
    one = fcos.detect(where, outputs, (64, 64))
    np.testing.assert_array_equal(one["boxes"][0], found["boxes"][0])


def test_locations_of_a_size_that_strides_do_not_divide():
    """They stay on the middles of the cells. torchvision's corners drift, and so do its boxes."""
    ours, theirs = (FCOS(nn.Module(), 3, (8, 16), place=place).grid(40, 40).points[25:]
                    for place in (0.5, 0.0))
    assert sorted({*ours[:, 0].tolist()}) == [8, 24, 40]
    assert sorted({*theirs[:, 0].tolist()}) == [0, 13, 26]


# ----------------------------------------------------------------------------- average precision

def sets(seed=0, pictures=30):
    """Return random truth and detections, with crowds, ties in scores and pictures without boxes.
    """
    rng, found, truth = np.random.default_rng(seed), [], []
    for _ in range(pictures):
        n = rng.integers(0, 8)
        boxes, labels = random_boxes(rng, n, 320).astype(np.float64), rng.integers(0, 4, n)
        truth.append({"boxes": boxes, "labels": labels, "crowd": rng.random(n) < 0.1,
                      "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * 0.8})
        near = boxes + rng.normal(0, 4, boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        others = random_boxes(rng, 3, 320)
        found.append({"boxes": np.concatenate([near, others]),
                      "scores": rng.integers(0, 10, n + 3) / 10,
                      "labels": np.concatenate([labels, rng.integers(0, 4, 3)])})
    return found, truth


PYCOCOTOOLS = {"AP": 0.2825298133905854, "AP50": 0.5083107936845489,
               "AP75": 0.28379759455035325, "AP_small": 0.06512651265126512,
               "AP_medium": 0.36560432171748586, "AP_large": 0.43689361793322185,
               "AR": 0.6061161616161617}


def test_average_precision_is_pycocotools():
    """To 1e-12, on random detections; the goldens are pycocotools 2.0.11's."""
    values = average_precision(*sets(), list("abcd"))
    for name, expected in PYCOCOTOOLS.items():
        assert abs(values[name] - expected) < 1e-12, (name, values[name], expected)


def test_the_truth_scores_1():
    _, truth = sets()
    found = [{**each, "scores": np.ones(len(each["labels"]))} for each in truth]
    values = average_precision(found, truth, list("abcd"))
    assert values["AP"] == values["AP50"] == 1 and set(values["AP_by_class"].values()) == {1.0}


def test_no_detections_and_absent_classes():
    """A class that no picture has is nan, and not in the mean. Nothing found is 0."""
    found, truth = sets()
    values = average_precision(found, truth, [*"abcd", "e"])
    assert np.isnan(values["AP_by_class"]["e"])
    assert values["AP"] == average_precision(found, truth, list("abcd"))["AP"]
    none = [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}] * 30
    values = average_precision(none, truth, list("abcd"))
    assert values["AP"] == 0 and set(values["AP_by_class"].values()) == {0.0}


def test_of_what_there_is_no_object():
    """It is nan, whether or not something is found: a class of crowds alone, large objects."""
    _, truth = sets()
    truth = [{**each, "crowd": each["labels"] == 0, "area": np.full(len(each["labels"]), 50.0)}
             for each in truth]
    none = [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}] * 30
    one = [{"boxes": np.array([[0.0, 0, 3, 3]]), "scores": np.ones(1), "labels": np.ones(1, int)},
           *none[1:]]
    for found in (none, one):
        values = average_precision(found, truth, list("abcd"))
        assert np.isnan(values["AP_large"]) and np.isnan(values["AP_by_class"]["a"])
        assert values["AP"] == values["AP_small"] == values["AP_by_class"]["b"] == 0


@pytest.mark.parametrize("mutant", ["by picture", "by half"])
def test_mutant_means(mutant):
    """The mean over pictures, or over two processes, is another number."""
    found, truth = sets()
    size = 1 if mutant == "by picture" else 15
    parts = [average_precision(found[i:i + size], truth[i:i + size], list("abcd"))["AP"]
             for i in range(0, 30, size)]
    assert abs(np.nanmean(parts) - average_precision(found, truth, list("abcd"))["AP"]) > 0.01
