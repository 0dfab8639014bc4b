"""Geometric augmentation: image, boxes and masks move by one affine, against a NumPy reference."""
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax.core import sharding
from karpjax.core.errors import UserError
from karpjax.sources import augment
from karpjax.sources.augment.warp import placed, scale_jitter, warp

H, W = 12, 16
IDENTITY = np.eye(2, 3, dtype=np.float32)
FLIP = np.array([[-1, 0, W], [0, 1, 0]], np.float32)


def example(boxes=((2, 3, 9, 8), (5, 1, 16, 12)), seed=0):
    """Return an image of noise, and boxes that are drawn as masks, too."""
    rng = np.random.default_rng(seed)
    boxes = np.asarray(boxes, np.float32)
    masks = np.stack([drawn(box, (H, W)) for box in boxes])
    return {"image": rng.normal(size=(H, W, 3)).astype(np.float32), "boxes": boxes,
            "masks": masks, "mask": masks[0] + 2 * masks[1], "label": np.int32(3)}


def drawn(box, size):
    """Return a mask (H, W) of the pixels whose centres lie in a box."""
    y, x = np.mgrid[:size[0], :size[1]] + 0.5
    return ((x > box[0]) & (y > box[1]) & (x < box[2]) & (y < box[3])).astype(np.int32)


def reference(example, matrix, size):
    """Compute pixel by pixel what `warp` computes."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]).astype(np.float64))
    image, mask = np.zeros((*size, 3)), np.full(size, 255)
    for r in range(size[0]):
        for c in range(size[1]):
            x, y, _ = back @ [c + 0.5, r + 0.5, 1]
            if not (0 <= x < W and 0 <= y < H):
                continue
            mask[r, c] = example["mask"][int(y), int(x)]
            rows = np.clip([np.floor(y - 0.5), np.floor(y - 0.5) + 1], 0, H - 1).astype(int)
            columns = np.clip([np.floor(x - 0.5), np.floor(x - 0.5) + 1], 0, W - 1).astype(int)
            down, across = (y - 0.5) % 1, (x - 0.5) % 1
            weights = np.outer([1 - down, down], [1 - across, across])
            image[r, c] = (weights[..., None] * example["image"][np.ix_(rows, columns)]).sum((0, 1))
    boxes = []
    for x1, y1, x2, y2 in example["boxes"]:
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ matrix.T
        low, high = corners.min(0), corners.max(0)
        boxes.append([*np.clip(low, 0, size[::-1]), *np.clip(high, 0, size[::-1])])
    return image, mask, np.array(boxes)


def test_identity_is_exact():
    before = example()
    after = jax.jit(lambda e: warp(e, IDENTITY, (H, W)))(before)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert after["valid"].tolist() == [1, 1]


def test_flip_twice_is_identity():
    before = example()
    once = warp(before, FLIP, (H, W))
    np.testing.assert_array_equal(once["image"], before["image"][:, ::-1])
    np.testing.assert_array_equal(once["masks"], before["masks"][:, :, ::-1])
    np.testing.assert_array_equal(once["boxes"][0], [W - 9, 3, W - 2, 8])
    twice = warp(once, FLIP, (H, W))
    for name in before:
        np.testing.assert_array_equal(twice[name], before[name], err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_random_affines_against_numpy(seed):
    rng, before, size = np.random.default_rng(seed), example(seed=seed), (10, 18)
    matrix = np.array([[1, 0, 2], [0, 1, -1]]) + rng.normal(0, 0.3, (2, 3)) * [[1, 1, 8]]
    matrix = matrix.astype(np.float32)
    after = jax.jit(lambda e, m: warp(e, m, size))(before, matrix)
    image, mask, boxes = reference(before, matrix, size)
    np.testing.assert_allclose(after["image"], image, atol=2e-4)
    assert (after["mask"] != mask).mean() < 0.01  # a centre on an edge may round to either side
    there = np.asarray(after["valid"]) > 0
    assert there.any()
    np.testing.assert_allclose(np.asarray(after["boxes"])[there], boxes[there], atol=1e-4)


@pytest.mark.parametrize("scale,place,mirrored", [
    (0.5, (0.3, 0.9), False), (1.0, (0.5, 0.5), True), (2.5, (0.2, 0.6), True),
    (4.0, (0.5, 0.4), False)])
def test_a_box_drawn_as_a_mask_moves_like_the_box(scale, place, mirrored):
    size, before = (64, 96), example()
    after = warp(before, placed((H, W), size, scale, place, mirrored), size)
    for box, mask, there in zip(after["boxes"], after["masks"], after["valid"], strict=True):
        assert there == (np.asarray(mask).sum() > 0)
        both, either = np.asarray(mask) & drawn(box, size), np.asarray(mask) | drawn(box, size)
        assert both.sum() > 0.97 * either.sum(), (both.sum(), either.sum())


def test_a_box_that_leaves_is_not_valid():
    away = np.array([[1, 0, 10], [0, 1, 0]], np.float32)  # the first box begins at 12 of 16
    after = warp({**example(((2, 3, 9, 8), (8, 1, 12, 5), (0, 0, 0, 0))),
                  "valid": np.array([1, 1, 0], np.float32)}, away, (H, W))
    assert after["valid"].tolist() == [1, 0, 0]
    assert after["boxes"].tolist() == [[12, 3, 16, 8], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (np.asarray(after["mask"])[:, :10] == 255).all() and (after["image"][:, :10] == 0).all()


def test_a_margin_above_and_below():
    """A picture of 12 x 16 in a square of 40 fills its width, in the middle, and has no class
    beyond.
    """
    after = warp(example(), placed((H, W), (40, 40), 1.0, (0.5, 0.5), False), 40)
    assert after["image"].shape == (40, 40, 3) and after["mask"].shape == (40, 40)
    margin, middle = np.asarray(after["mask"])[:5], np.asarray(after["mask"])[5:35]
    assert (margin == 255).all() and (middle < 9).all()
    np.testing.assert_allclose(after["boxes"], 2.5 * example()["boxes"] + [0, 5, 0, 5], atol=1e-5)


@pytest.mark.full
def test_jitter_covers_its_range():
    jitter = scale_jitter((24, 32), scale=(0.5, 2.0))
    keys = jax.random.split(jax.random.key(0), 300)
    box = {"image": jnp.zeros((H, W, 1)), "boxes": jnp.array([[7.0, 5.0, 9.0, 7.0]])}
    after = jax.vmap(lambda key: jitter(box, key))(keys)
    whole = np.asarray(after["boxes"])[(np.asarray(after["valid"]) > 0)[:, 0], 0]
    width = whole[:, 2] - whole[:, 0]
    assert width.max() < 8.01 and 7.5 < width.max() and width.min() < 2.5
    assert whole[:, 0].min() < 4 and whole[:, 2].max() > 28
    with pytest.raises(UserError, match="0 < low <= high"):
        scale_jitter(8, scale=(2.0, 1.0))


def moved_on(devices):
    """Return a training batch of a source that jitters, on a mesh."""
    parts = [example(seed=i) for i in range(16)]
    columns = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    each, _ = augment.make([dict(name="scale_jitter", size=(9, 20), scale=(0.4, 2.0))])
    source = kj.sources.arrays(columns, batch_size=16, augment=each)
    mesh = mesh_of(devices)

    @jax.jit
    def batch(arrays, state):
        _, chunk = source.advance(arrays, state, {})
        return sharding.constrain_batch(mesh, source.batch(arrays, chunk, 0))
    arrays = sharding.put(source.arrays, sharding.replicated(mesh))
    return jax.device_get(batch(arrays, source.init(jax.random.key(1))))


def test_keyed_by_the_example():
    """One and eight devices see the same; equal examples are moved apart from each other."""
    one, eight = moved_on(1), moved_on(8)
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], atol=1e-5, err_msg=name)
    assert len(np.unique(one["boxes"][:, 0], axis=0)) > 8 and one["image"].shape == (16, 9, 20, 3)
