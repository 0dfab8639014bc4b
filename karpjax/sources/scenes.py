"""Scenes made on the fly: handwritten digits on clutter, with exact boxes and masks.

    config.data = dict(name="scenes", train=20_000, validation=200, test=500, batch_size=32,
                       size=(64, 64), objects=5)

A scene is a pure function of its number, drawn inside the compiled program. So `train` numbers are
an epoch, and no two splits share a number or a digit: the digits of each are those of the same
split of the embedded set (datasets/digits.py). Up to `objects` digits of 8 to 20 pixels stand in
cells of their own. Clutter is smooth noise of colours, fine noise, and bars.
"""
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32
from ml_collections import ConfigDict
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.digits import FILE, SPLITS
from karpjax.sources.arrays import Arrays
from karpjax.sources.augment.warp import bilinear, sources_of
from karpjax.sources.boxes import check_size, normalisation, with_files
from karpjax.sources.source import Source

NAMES = [str(digit) for digit in range(10)]
CELL, SMALLEST, LARGEST = 21, 8, 20  # pixels
INK, BARS, GRID = 0.3, 3, 8          # share of ink from which a pixel is the digit's


def scenes(data, augment=None, masks: bool = False) -> Source:
    """Return a source of scenes, as `boxes` (boxes.py), or as `masks` (masks.py) with class 10,
    "background", for the rest of the picture.

    data is config.data: name, train, validation and test (numbers of scenes), batch_size, size,
    objects, and mean and std of pixels 0 to 255 (127.5)
    """
    data = ConfigDict({"mean": 127.5, "std": 127.5, **dict(data)})
    check_keys(data, ("name", "train", "validation", "test", "batch_size", "size", "objects",
                      "mean", "std", "described"), "config.data",
               required=("train", "batch_size", "size", "objects"))
    normalise, pixels, fill = normalisation(data)
    size = check_size(data)
    for name in ("train", "validation", "test", "objects"):
        if not isinstance(data.get(name, 0), Integral):
            raise UserError(f"config.data.{name}: expected a number of "
                            f"{'objects' if name == 'objects' else 'scenes'}, found {data[name]!r}")
    cells = (size[0] // CELL) * (size[1] // CELL)
    if not 1 <= data.objects <= cells:
        raise UserError(f"config.data.objects = {data.objects}: expected 1 to {cells}, the cells "
                        f"of {CELL} pixels in {size[0]} x {size[1]}")
    images, labels, bounds = digits()
    starts, splits = 0, {}
    for split in ("train", "validation", "test"):
        if count := data.get(split, 0):
            numbers = np.arange(starts, starts + count, dtype=np.uint32)
            low, high = bounds[split]
            splits[split] = {"scene": numbers, "digits": np.tile(np.int32([low, high]), (count, 1))}
            starts += count

    def draw(batch):
        if "scene" not in batch:  # a user's pictures
            return normalise(batch)

        def one(number, low_high):
            return scene(number, low_high, images, labels, size, data.objects)
        made = jax.vmap(one)(batch["scene"], batch["digits"])
        if masks:
            made = {name: made[name] for name in ("image", "mask")}
        return normalise({**batch, **made})
    source = Arrays(splits.pop("train"), splits=splits, batch_size=data.batch_size,
                    preprocess=draw, augment=augment)
    source.classes = 10 + masks
    source.spec = {"classes": source.classes, "shape": [*size, 3],
                   "names": [*NAMES, *["background"] * masks]}
    source.pixels = pixels
    return with_files(source, fill)


def digits() -> tuple[Float[Array, "N 8 8 1"], Array, dict]:
    """Return the digits in 0 to 1, their labels, and {split: (first, behind the last)}."""
    with np.load(FILE) as file:
        order = np.random.default_rng(0).permutation(len(file["label"]))
        return (jnp.asarray(file["image"][order], jnp.float32) / 16,
                jnp.asarray(file["label"][order], jnp.int32), SPLITS)


def scene(number: UInt32[Array, ""], low_high, images, labels, size: tuple, most: int) -> dict:
    """Return {"image" (H, W, 3) in 0 to 255, "boxes" (M, 4), "labels", "mask" (H, W), ...}.

    low_high   (2,), the numbers of the digits to draw from
    """
    (H, W), M = size, most
    key = jax.random.fold_in(jax.random.key(0), number)
    count_key, cell_key, digit_key, side_key, place_key, colour_key, clutter_key = \
        jax.random.split(key, 7)
    there = jnp.arange(M) < jax.random.randint(count_key, (), 0, M + 1)                # (M,)
    rows, columns = H // CELL, W // CELL
    cells = jax.random.permutation(cell_key, rows * columns)[:M]                       # (M,)
    chosen = jax.random.randint(digit_key, (M,), low_high[0], low_high[1])
    side = jax.random.uniform(side_key, (M,), minval=SMALLEST, maxval=LARGEST)
    room = jax.random.uniform(place_key, (M, 2)) * (CELL - side)[:, None]              # x, y
    corner = jnp.stack([cells % columns, cells // columns], -1) * CELL + room          # (M, 2)

    def place(image, side, corner):
        factor = side / 8
        matrix = jnp.array([[factor, 0, corner[0]], [0, factor, corner[1]]])
        return bilinear(image, sources_of(matrix, size), 0.0)[..., 0]                  # (H, W)
    ink = jax.vmap(place)(images[chosen], side, corner) * there[:, None, None]         # (M, H, W)
    inked = ink > INK
    boxes, seen = jax.vmap(box_of)(inked)                                             # (M, 4), (M,)
    there = there & seen
    colour = jax.random.uniform(colour_key, (M, 3), minval=0.6, maxval=1.0)
    alpha = ink.max(0)[..., None]                                                      # (H, W, 1)
    paint = jnp.einsum("mhw,mc->hwc", inked.astype(jnp.float32), colour)
    paint = jnp.where(inked.any(0)[..., None], paint, 0.8)
    picture = clutter(clutter_key, size) * (1 - alpha) + paint * alpha                 # (H, W, 3)
    mask = jnp.where(inked.any(0), jnp.einsum("mhw,m->hw", inked.astype(jnp.int32),
                                              labels[chosen]), 10)
    valid = there.astype(jnp.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    return {"image": 255 * picture, "mask": mask.astype(jnp.uint8),
            "boxes": boxes * valid[:, None], "labels": labels[chosen] * there, "valid": valid,
            "crowd": jnp.zeros(M), "area": sides[:, 0] * sides[:, 1] * valid,
            "scale": jnp.ones(2), "content": jnp.array([H, W], jnp.float32)}


def box_of(inked) -> tuple[Float[Array, "4"], Array]:
    """Return the box around the true pixels (H, W), and whether there are any."""
    (H, W), rows, columns = inked.shape, inked.any(1), inked.any(0)
    low = jnp.array([columns.argmax(), rows.argmax()])
    high = jnp.array([W - columns[::-1].argmax(), H - rows[::-1].argmax()])
    return jnp.concatenate([low, high]).astype(jnp.float32), inked.any()


def clutter(key, size: tuple) -> Float[Array, "H W 3"]:
    """Return a background in 0 to 0.7: smooth noise of colours, and bars."""
    H, W = size
    noise_key, bar_key, colour_key, fine_key = jax.random.split(key, 4)
    coarse = jax.random.uniform(noise_key, (GRID, GRID, 3), maxval=0.6)
    picture = jax.image.resize(coarse, (H, W, 3), "linear")
    picture += jax.random.uniform(fine_key, (H, W, 1), minval=-0.05, maxval=0.05)
    angle, offset = jnp.unstack(jax.random.uniform(bar_key, (BARS, 2)), axis=-1)       # (BARS,)
    y, x = jnp.meshgrid(jnp.arange(H) / H, jnp.arange(W) / W, indexing="ij")
    turn = np.pi * angle[:, None, None]
    along = jnp.cos(turn) * (x - 0.5) + jnp.sin(turn) * (y - 0.5)                     # (BARS, H, W)
    bars = jnp.abs(along + 0.7 * (offset[:, None, None] - 0.5)) < 0.02
    colours = jax.random.uniform(colour_key, (BARS, 3), maxval=0.7)
    for bar, colour in zip(bars, colours, strict=True):
        picture = jnp.where(bar[..., None], colour, picture)
    return jnp.clip(picture, 0, 0.7)
