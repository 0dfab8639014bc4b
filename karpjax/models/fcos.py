"""FCOS: a detector without anchors (Tian et al. 2019, arXiv:1904.01355), in torchvision's form.

    config.model = dict(name="fcos", backbone=dict(name="efficientnet_lite0"), width=96)
    config.model = dict(name="fcos", backbone=dict(name="resnet", depth=50), **kj.models.FCOS_COCO)

Every location of every level of a pyramid says of which class the object there is, how far its
sides are, and how central the location is. Which location answers for which object follows from the
boxes alone (`assign`). With FCOS_COCO the network takes torchvision's fcos_resnet50_fpn, whose
published weights reach 39.2 AP on COCO's val2017 (karpjax/weights/fcos.py).
"""
from collections.abc import Sequence
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np
import optax

from karpjax.core import metric
from karpjax.models.layers import Natural
from karpjax.models.layers import boxes as box
from karpjax.models.layers.conv import Conv
from karpjax.models.layers.largest import largest, pick
from karpjax.models.pyramid import GROUPS, OnBackbone, Pyramid, check_width

# torchvision's: its locations are the cells' corners.
FCOS_COCO = dict(strides=(8, 16, 32, 64, 128), width=256, place=0.0)
PRIOR = 0.01   # probability of an object at a location, at the start (Lin et al. 2017, focal loss)
RADIUS = 1.5   # strides around a box's centre within which locations answer for it
RANGE = (4, 8)  # strides: the longest distance to a side that a level answers for
normal = jax.nn.initializers.normal(0.01)


class FCOS(OnBackbone):
    """The network: (B, H, W, C) -> {"class": (B, L, K), "sides": (B, L, 4), "centerness": (B, L)}.

    Classes and centerness are logits. The sides are the distances to the left, upper, right and
    lower side, in strides. The L locations are those of `grid`, level by level.

    backbone  a model with `levels` (models/pyramid.py)
    strides   of the levels
    width     of the pyramid and the heads
    depth     convolutions of a head before its last
    place     of a location in its cell: 0.5 is the middle, 0 the corner, as in torchvision
    """
    strides: Sequence[int] = (8, 16, 32)
    width: int = 96
    depth: Natural = 4
    place: float = 0.5

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"],
                 train: bool = False) -> dict[str, Float[Array, "B L *F"]]:
        maps = self.backbone.levels(images, train)
        check_width(self.width)
        levels = Pyramid(self.strides, self.width, name="pyramid")(maps)          # [(B, h, w, F)]
        classes = Head([("class", self.classes, -math.log((1 - PRIOR) / PRIOR))], self.depth,
                       name="class_head")
        sides = Head([("sides", 4, 0.0), ("centerness", 1, 0.0)], self.depth, name="side_head")
        outputs = [{**classes(level), **sides(level)} for level in levels]
        joined = {name: jnp.concatenate([level[name] for level in outputs], axis=1)
                  for name in outputs[0]}                                         # (B, L, F) each
        return {"class": joined["class"], "sides": nn.relu(joined["sides"]),
                "centerness": joined["centerness"][..., 0]}

    def grid(self, H: int, W: int) -> "Grid":
        """Return the locations of pictures (H, W)."""
        points, strides, level = [], [], []
        for i, stride in enumerate(self.strides):
            h, w = -(-H // stride), -(-W // stride)
            # torchvision's cells are a little narrower where the stride does not divide the side.
            rows, columns = (stride, stride) if self.place else (H // h, W // w)
            y, x = (np.arange(h) + self.place) * rows, (np.arange(w) + self.place) * columns
            points.append(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))         # (h w, 2)
            strides += [stride] * (h * w)
            level += [i] * (h * w)
        return Grid(np.concatenate(points).astype(np.float32), np.float32(strides),
                    np.array(level))


class Head(nn.Module):
    """Convolutions that all levels share, then one an output: (B, h, w, F) -> {name: (B, h w, n)}.

    outputs  (name, n, bias at the start)
    """
    outputs: Sequence[tuple[str, int, float]]
    depth: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"]) -> dict[str, Float[Array, "B N _"]]:
        B, _, _, F = x.shape

        def conv(width, name, bias=0.0):
            return Conv(width, (3, 3), padding=1, kernel_init=normal,
                        bias_init=nn.initializers.constant(bias), name=name)
        for i in range(self.depth):
            x = nn.GroupNorm(GROUPS, epsilon=1e-5, name=f"norm{i}")(conv(F, f"conv{i}")(x))
            x = nn.relu(x)
        return {name: conv(n, name, bias)(x).reshape(B, -1, n) for name, n, bias in self.outputs}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The L locations of a picture, level by level.

    points   (L, 2), x and y in pixels
    strides  (L,), of their levels
    level    (L,), the number of the level
    """
    points: np.ndarray
    strides: np.ndarray
    level: np.ndarray

    def assign(self, boxes: Float[Array, "M 4"],
               valid: Float[Array, "M"]) -> tuple[Int[Array, "L"], Bool[Array, "L"]]:
        """Return the object that each location answers for, and whether there is one.

        The location lies in the box and within RADIUS strides of its centre, and the longest
        distance to a side is one of the level's. Of several such the smallest box is taken. It
        depends on the boxes alone, so that a step can count before it predicts.
        """
        strides = self.strides[:, None]                                           # (L, 1)
        low = np.where(self.level[:, None] == 0, 0, RANGE[0] * strides)
        high = np.where(self.level[:, None] == self.level.max(), np.inf, RANGE[1] * strides)
        sides = self.sides(boxes[None], self.points[:, None])                     # (L, M, 4)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2                               # (M, 2)
        off = jnp.abs(self.points[:, None] - centers).max(-1)                     # (L, M)
        longest = sides.max(-1)
        fits = (sides.min(-1) > 0) & (off < RADIUS * strides) & (longest > low) & (longest < high)
        fits &= valid > 0
        areas = jnp.where(fits, box.area(boxes), jnp.inf)                         # (L, M)
        return areas.argmin(-1), fits.any(-1)

    @staticmethod
    def sides(boxes, points):
        """Return the distances of points (..., 2) to the sides of boxes (..., 4), in pixels."""
        return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)

    def boxes(self, sides: Float[Array, "*B L 4"]) -> Float[Array, "*B L 4"]:
        """Return the boxes of distances in strides."""
        pixels = sides * self.strides[:, None]                                    # (..., L, 4)
        return jnp.concatenate([self.points - pixels[..., :2], self.points + pixels[..., 2:]], -1)


def centerness(sides: Float[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Return how central points are to their box, 0 at a side and 1 in the middle, 0 outside.

    The root's argument is guarded, not its value: a gradient through `where` would be nan.
    """
    left, top, right, bottom = jnp.unstack(sides, axis=-1)
    inside = sides.min(-1) > 0
    share = jnp.minimum(left, right) * jnp.minimum(top, bottom)
    whole = jnp.maximum(left, right) * jnp.maximum(top, bottom)
    quotient = jnp.where(inside, share, 1.0) / jnp.where(inside, whole, 1.0)
    return jnp.where(inside, jnp.sqrt(quotient), 0.0)


def focal_loss(logits: Float[Array, "*B K"], target: Float[Array, "*B K"], alpha: float = 0.25,
               gamma: float = 2.0) -> Float[Array, "*B K"]:
    """Return the focal loss of each class by itself (Lin et al. 2017, "Focal Loss", eq. 5)."""
    p = jax.nn.sigmoid(logits)
    xent = optax.sigmoid_binary_cross_entropy(logits, target)
    missed = p * (1 - target) + (1 - p) * target
    return (alpha * target + (1 - alpha) * (1 - target)) * missed**gamma * xent


def losses(grid: Grid, outputs: dict, boxes: Float[Array, "B M 4"], labels: Int[Array, "B M"],
           valid: Float[Array, "B M"], weight: Float[Array, "B"]) -> dict[str, tuple]:
    """Return the three losses as (total, count) pairs: "class", "box" and "centerness".

    Each is divided by the number of locations that answer for an object, in the global batch, and
    by 1 if there are none. weight  0 leaves a picture out
    """
    chosen, is_object = jax.vmap(grid.assign)(boxes, valid)                       # (B, L) each

    def of_chosen(values):
        return jax.vmap(lambda rows, index: rows[index])(values, chosen)
    target, K = of_chosen(boxes), outputs["class"].shape[-1]                      # (B, L, 4)
    classes = jax.nn.one_hot(of_chosen(labels), K) * is_object[..., None]         # (B, L, K)
    central = centerness(grid.sides(target, grid.points))                         # (B, L)
    each = {"class": focal_loss(outputs["class"], classes).sum(-1),               # (B, L) each
            "box": box.giou_loss(grid.boxes(outputs["sides"]), target),
            "centerness": optax.sigmoid_binary_cross_entropy(outputs["centerness"], central)}
    every = jnp.broadcast_to(weight[:, None], chosen.shape)                       # (B, L)
    objects = every * is_object
    weights = {"class": every, "box": objects, "centerness": objects}
    _, count = metric.mean(central, objects, floor=1)
    return {name: (metric.mean(values, weights[name])[0], count) for name, values in each.items()}


def detect(grid: Grid, outputs: dict, size, threshold: float = 0.05, overlap: float = 0.6,
           candidates: int = 300, most: int = 100) -> dict[str, Array]:
    """Return the detections in pictures: "boxes" (B, most, 4), "scores" and "labels" (B, most).

    A score is the root of the class's probability times the centerness. The best come first, and
    places that are left have label -1.

    size        (H, W) of the pictures, or (B, 2), of each: boxes end there
    threshold   below which a location is no candidate
    overlap     IoU above which a detection gives way to a better one of its class
    candidates  the most of a level
    """
    scores = jnp.sqrt(jax.nn.sigmoid(outputs["class"])
                      * jax.nn.sigmoid(outputs["centerness"])[..., None])         # (B, L, K)
    B, K = len(scores), scores.shape[-1]
    ends = jnp.broadcast_to(jnp.asarray(size, jnp.float32)[..., ::-1], (B, 2))    # x, y
    boxes = jnp.clip(grid.boxes(outputs["sides"]), 0, jnp.tile(ends, 2)[:, None])  # (B, L, 4)
    found = []
    for level in range(grid.level.max() + 1):
        at = np.flatnonzero(grid.level == level)                                  # (l,)
        flat = scores[:, at[0]:at[-1] + 1].reshape(B, -1)                         # (B, l K)
        best, places = largest(flat, min(candidates, flat.shape[1]))              # (B, c) each
        found.append((pick(boxes[:, at[0]:at[-1] + 1], places // K), places % K,
                      jnp.where(best > threshold, best, 0.0)))
    boxes, labels, scores = (jnp.concatenate(parts, axis=1)
                             for parts in zip(*found, strict=True))               # (B, N, ...)
    boxes, scores, labels = box.best(boxes, scores, labels, overlap, most)
    return {"boxes": boxes, "scores": scores, "labels": labels}
