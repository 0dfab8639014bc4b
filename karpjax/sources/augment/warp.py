"""Geometric augmentation: one affine moves the image, the boxes and the masks of an example.

    config.augment = [dict(name="scale_jitter", size=(512, 512), scale=(0.1, 2.0), flip=0.5)]

Flip, scale, crop and margin are parameters of one affine, so an image is resampled once.
Coordinates are continuous: pixel (row r, column c) covers x from c to c + 1 and y from r to r + 1.
An affine is a matrix (2, 3) that maps (x, y, 1) of the input to (x, y) of the output.

    image          (H, W, C)   bilinear; `fill` outside
    mask           (H, W)      classes, nearest neighbour; `ignore` outside
    masks          (N, H, W)   one an object, nearest neighbour; 0 outside
    boxes          (N, 4)      x1, y1, x2, y2; clipped to the output
    valid          (N,)        1 for boxes that are there and still have area, else 0

Scaling down far samples every few pixels without antialiasing, as bilinear resizing does elsewhere.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from karpjax.core.errors import UserError

Affine = Float[Array, "2 3"]


def scale_jitter(size, scale=(1.0, 1.0), flip: float = 0.5, fill: float = 0.0, ignore: int = 255):
    """Mirror, scale and place an example in an output of fixed size (Ghiasi et al. 2021, sec. 3).

    size    output (H, W), or one number for a square
    scale   drawn between these; 1 fits the whole image, larger ones are cropped, smaller ones
            leave a margin. The place is drawn in what room there is
    flip    the probability of a mirrored image
    fill    the image's value in margins; 0: the mean's colour
    ignore  the class of `mask` in margins
    """
    size, low, high = pair(size), *pair(scale)
    if not 0 < low <= high:
        raise UserError(f"config.augment: scale_jitter's scale: expected 0 < low <= high, found "
                        f"{scale!r}")

    def augment(example, key):
        shape = example["image"].shape[:2]
        flip_key, scale_key, place_key = jax.random.split(key, 3)
        factor = jax.random.uniform(scale_key, minval=low, maxval=high)
        matrix = placed(shape, size, factor, jax.random.uniform(place_key, (2,)),
                        jax.random.bernoulli(flip_key, flip))
        return warp(example, matrix, size, fill, ignore)
    return augment


def placed(shape, size, scale, place, mirrored) -> Affine:
    """Return the affine that scales an image (H, W) and places it in an output (H, W).

    scale     times the largest scale at which the whole image fits
    place     shares (x, y) of the room, which is negative where the image is larger than the output
    mirrored  left to right
    """
    (H, W), (height, width) = shape, size
    factor = scale * min(height / H, width / W)
    room = jnp.stack([width - factor * W, height - factor * H])
    x, y = room * jnp.asarray(place, jnp.float32)
    along_x = jnp.where(mirrored, -factor, factor)
    return jnp.array([[along_x, 0.0, x + jnp.where(mirrored, factor * W, 0.0)],
                      [0.0, factor, y]], jnp.float32)


def warp(example: dict, matrix: Affine, size, fill: float = 0.0, ignore: int = 255) -> dict:
    """Return an example moved by an affine, in an output (H, W). Other entries stay."""
    size = pair(size)
    points = sources_of(matrix, size)                                              # (H', W', 2)
    moved = {}
    if "image" in example:
        moved["image"] = bilinear(example["image"], points, fill)
    if "mask" in example:
        moved["mask"] = nearest(example["mask"], points, ignore)
    if "masks" in example:
        moved["masks"] = jax.vmap(lambda mask: nearest(mask, points, 0))(example["masks"])
    if "boxes" in example:
        there = example.get("valid", jnp.ones(len(example["boxes"]), jnp.float32))
        boxes, has_area = move_boxes(example["boxes"], matrix, size)
        there = there * has_area
        moved |= {"boxes": jnp.where(there[:, None] > 0, boxes, 0.0), "valid": there}
    return {**example, **moved}


def move_boxes(boxes: Float[Array, "N 4"], matrix: Affine, size
               ) -> tuple[Float[Array, "N 4"], Bool[Array, "N"]]:
    """Return boxes around the moved corners, clipped to the output, and which still have area."""
    height, width = pair(size)
    corners = boxes[:, jnp.array([[0, 1], [2, 1], [0, 3], [2, 3]])]                # (N, 4, 2)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    limit = jnp.array([width, height], boxes.dtype)
    low, high = (jnp.clip(edge, 0, limit) for edge in (corners.min(1), corners.max(1)))
    return jnp.concatenate([low, high], 1), (high > low).all(1)


# ---------------------------------------------------------------------------------- small parts

def sources_of(matrix: Affine, size) -> Float[Array, "H W 2"]:
    """Return the point (x, y) of the input that each pixel's centre of the output comes from."""
    height, width = size
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    (a, b, left), (c, d, top) = matrix
    # Written out: a matrix product would round differently, and the identity must be exact.
    x, y, area = x - left, y - top, a * d - b * c
    return jnp.stack([(d * x - b * y) / area, (a * y - c * x) / area], -1)


def inside(points, H: int, W: int):
    """Return which points lie in the input."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x < W) & (y >= 0) & (y < H)


def nearest(mask, points, fill: int):
    """Return the values (H', W') of the pixels that the points lie in, and `fill` outside."""
    H, W = mask.shape
    column, row = jnp.unstack(jnp.floor(points).astype(jnp.int32), axis=-1)
    values = mask[jnp.clip(row, 0, H - 1), jnp.clip(column, 0, W - 1)]
    return jnp.where(inside(points, H, W), values, jnp.asarray(fill, mask.dtype))


def bilinear(image, points, fill: float):
    """Return values (H', W', C) between the four nearest centres, and `fill` outside.

    Within half a pixel of the edge the edge's own value goes on.
    """
    H, W, _ = image.shape
    x, y = jnp.unstack(points - 0.5, axis=-1)
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]                     # (H', W', 1)

    def at(row, column):
        row, column = row.astype(jnp.int32), column.astype(jnp.int32)
        return image[jnp.clip(row, 0, H - 1), jnp.clip(column, 0, W - 1)]

    upper = (1 - across) * at(top, left) + across * at(top, left + 1)
    lower = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1)
    values = (1 - down) * upper + down * lower
    return jnp.where(inside(points, H, W)[..., None], values, fill).astype(image.dtype)


def pair(value) -> tuple:
    """Return two numbers, from two or from one."""
    return tuple(value) if hasattr(value, "__len__") else (value, value)
