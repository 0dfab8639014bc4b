"""Augmentations: the effect of each on an image, and on the labels."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax.core.errors import UserError
from karpjax.sources import augment
from karpjax.sources.augment import mixing

KEYS = jax.random.split(jax.random.key(0), 400)


def views(function, image, keys=KEYS, **entries):
    """Return the image, augmented once with each key: (N, H, W, C)."""
    def view(key):
        return function({"image": image, **entries}, key)["image"]
    return np.asarray(jax.vmap(view)(keys))


def test_pad_crop_moves_the_image():
    """A dot comes to every place within the padding and to no other, and is never lost."""
    dot = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
    moved = views(augment.pad_crop(1), dot)[..., 0]
    assert (moved.sum((1, 2)) == 1).all()
    places = set(map(tuple, np.argwhere(moved.sum(0) > 0).tolist()))
    assert places == set(itertools.product((1, 2, 3), repeat=2))


@pytest.mark.parametrize("mode, corner", [("constant", 0), ("min", 1), ("edge", 4), ("reflect", 1)])
def test_what_pad_crop_pads_with(mode, corner):
    image = jnp.array([[4.0, 2.0], [3.0, 1.0]])[..., None]
    seen = views(augment.pad_crop(1, mode), image)[..., 0]
    moved = seen[seen[:, 1, 1] == 4]  # down and right: the corner is padding
    assert len(moved) > 20 and set(moved[:, 0, 0].tolist()) == {corner}


def test_flip_half_of_the_time():
    image = jnp.arange(6.0).reshape(2, 3, 1)
    seen = views(augment.flip(), image)
    mirrored = (seen == np.asarray(image[:, ::-1])).all((1, 2, 3))
    assert ((seen == np.asarray(image)).all((1, 2, 3)) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_alternating_flip_shows_both_ways_in_two_epochs():
    image, rows = jnp.arange(6.0).reshape(2, 3, 1), jnp.arange(400, dtype=jnp.uint32)

    def mirrored(epoch, seed=0):
        flip = augment.alternating_flip(seed)

        def one(row, key):
            return flip({"image": image, "row": row, "epoch": jnp.uint32(epoch)}, key)["image"]
        seen = jax.vmap(one)(rows, KEYS)
        return np.asarray((seen == image[:, ::-1]).all((1, 2, 3)))
    assert 150 < mirrored(0).sum() < 250
    assert (mirrored(0) ^ mirrored(1)).all() and (mirrored(0) == mirrored(2)).all()
    assert (mirrored(0) != mirrored(0, seed=1)).any()


@pytest.mark.full
def test_random_resized_crop_is_a_part_of_the_image():
    """A crop of a ramp is a ramp, whose slope gives the crop's size and whose values its place."""
    rows, columns = jnp.meshgrid(jnp.arange(48.0), jnp.arange(64.0), indexing="ij")
    seen = views(augment.random_resized_crop(16, area=(0.25, 1.0)),
                 jnp.stack([rows, columns], -1))[:, 2:-2, 2:-2]
    height, width = (np.diff(seen[..., 0], axis=1).mean((1, 2)) * 16,
                     np.diff(seen[..., 1], axis=2).mean((1, 2)) * 16)
    part, ratio = height * width / (48 * 64), width / height
    assert seen.shape == (400, 12, 12, 2) and seen[..., 0].min() >= 0 and seen[..., 1].max() <= 63
    assert part.min() > 0.22 and part.max() < 1.02 and 0.45 < part.mean() < 0.7
    assert ratio.min() > 0.7 and ratio.max() < 1.4 and ratio.std() > 0.1
    # If no rectangle fits, the crop is the largest in the middle.
    middle = views(augment.random_resized_crop(4, area=(9.0, 9.1)), jnp.stack([rows, columns], -1),
                   KEYS[:2])
    np.testing.assert_allclose(middle.mean((1, 2)), [[23.5, 31.5]] * 2, atol=0.1)


def test_cutout_is_a_square_anywhere():
    seen = views(augment.cutout(4), jnp.ones((8, 8, 1)))[..., 0]
    holes = (seen == 0).sum((1, 2))
    assert holes.max() == 16 and holes.min() >= 4 and (seen.mean(0) < 1).all()


def batch_of(n=64):
    """Return a batch whose image i has the value i everywhere and the label i % 4."""
    i = jnp.arange(n)
    return {"image": jnp.ones((n, 8, 8, 1)) * i[:, None, None, None], "label": i % 4, "index": i}


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_are_mixed_as_the_images_are(name):
    mixed = augment.TOGETHER[name](1.0)(batch_of(), KEYS[:64])
    image, i = np.asarray(mixed["image"])[..., 0], np.arange(64)
    share = (image.mean((1, 2)) - i[::-1]) / (i - i[::-1])       # the row's own image's part
    targets = np.asarray(augment.targets(mixed, 4))
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    own, other, share = np.eye(4)[i % 4], np.eye(4)[i[::-1] % 4], share[:, None]
    np.testing.assert_allclose(targets, share * own + (1 - share) * other, atol=1e-5)
    assert share.std() > 0.15
    if name == "cutmix":
        assert set(np.unique(image[5])) <= {5.0, 58.0}  # a pixel is of one image or the other
    again = augment.TOGETHER[name](1.0)(mixed, KEYS[64:128])     # mixing what is mixed
    np.testing.assert_allclose(np.asarray(augment.targets(again, 4)).sum(1), 1, atol=1e-5)


def test_shares_of_mixup_are_of_the_beta_distribution():
    shares = np.asarray(mixing.sample(mixing.beta_quantiles(0.2),
                                      jax.random.split(jax.random.key(1), 20_000)))
    # The variance is 1 / (4 (2 alpha + 1)).
    assert abs(shares.mean() - 0.5) < 0.01 and abs(shares.var() - 0.25 / 1.4) < 0.005


def test_augmentations_in_order_have_keys_of_their_own():
    each, together = augment.make([dict(name="flip"), dict(name="pad_crop", pixels=1),
                                   dict(name="flip")], seed=0)
    image = jnp.arange(16.0).reshape(4, 4, 1)
    assert together is None and len(np.unique(views(each, image).reshape(400, -1), axis=0)) == 18
    assert augment.make([], seed=0) == (None, None)


@pytest.mark.parametrize("spec, message", [
    (dict(name="flipp"), "did you mean 'flip'"), (dict(name="pad_crop"), "needs pixels"),
    (dict(name="pad_crop", pixels=2, mode="mirror"), "expected one of"),
    (dict(name="cutout", sise=8), "did you mean 'size'"),
    (dict(name="alternating_flip", seed=3), "no option 'seed'"),
    (dict(name="mixup", alpha=0.0), "more than 0")])
def test_bad_augmentation(spec, message):
    with pytest.raises(UserError, match=message):
        augment.make([spec], seed=0)
