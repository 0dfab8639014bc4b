"""Boxes (x1, y1, x2, y2): areas, overlaps, and which of overlapping detections stay.

Coordinates are continuous: pixel (row r, column c) covers x from c to c + 1 and y from r to r + 1,
and an area is (x2 - x1) (y2 - y1), without the 1 that Pascal VOC adds.
"""
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def area(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Return the areas of boxes."""
    x1, y1, x2, y2 = jnp.unstack(boxes, axis=-1)
    return (x2 - x1) * (y2 - y1)


def overlap(a: Float[Array, "... 4"], b: Float[Array, "... 4"]
            ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return (intersection, union), areas of boxes and those in the same places, which broadcast.
    """
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    sides = jnp.maximum(high - low, 0)                                            # (..., 2)
    shared = sides[..., 0] * sides[..., 1]
    return shared, area(a) + area(b) - shared


def iou(a: Float[Array, "N 4"], b: Float[Array, "M 4"]) -> Float[Array, "N M"]:
    """Return the intersection over union of every pair, 0 for two boxes without area."""
    shared, union = overlap(a[:, None], b[None])                                  # (N, M) each
    return shared / jnp.where(union > 0, union, 1)


def giou_loss(a: Float[Array, "*N 4"], b: Float[Array, "*N 4"],
              eps: float = 1e-7) -> Float[Array, "*N"]:
    """Return 1 - GIoU of boxes and those in the same places (Rezatofighi et al. 2019): 0 to 2.

    eps  keeps a quotient finite where neither box has an area, as in torchvision
    """
    shared, union = overlap(a, b)
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    hull = jnp.prod(high - low, axis=-1)
    return 1 - (shared / (union + eps) - (hull - union) / (hull + eps))


def suppress(boxes: Float[Array, "K 4"], scores: Float[Array, "K"], labels: Int[Array, "K"],
             threshold: float) -> tuple[Int[Array, "K"], Bool[Array, "K"]]:
    """Return (order, kept): detections by falling score, and which stay in that order.

    Non-maximum suppression: a box goes if its IoU with one of a higher score and the same label,
    which stays, is above the threshold. Of equal scores the first comes first.
    """
    order = jnp.argsort(-scores, stable=True)                                     # (K,)
    boxes, labels = boxes[order], labels[order]
    # rivals[i, j]: i comes first and would take j's place
    rivals = (iou(boxes, boxes) > threshold) & (labels[:, None] == labels[None])
    rivals = jnp.triu(rivals, 1)                                                  # (K, K)

    def body(i, kept):
        return kept & ~(rivals[i] & kept[i])
    return order, lax.fori_loop(0, len(order), body, jnp.ones(len(order), bool))


def best(boxes: Float[Array, "B N 4"], scores: Float[Array, "B N"], labels: Int[Array, "B N"],
         threshold: float, most: int):
    """Return the detections of each picture that stay, the best first: (boxes, scores, labels).

    They are (B, most, 4), (B, most) and (B, most). Places that are left have score 0 and label -1.
    Candidates of score 0 are none.
    """
    def of_picture(boxes, scores, labels):
        order, kept = suppress(boxes, scores, labels, threshold)
        kept = kept & (scores[order] > 0)
        # those that stay move to the front, in their order
        places = order[jnp.argsort(~kept, stable=True)[:most]]                    # (most,)
        there = jnp.arange(len(places)) < kept.sum()
        return (jnp.where(there[:, None], boxes[places], 0.0),
                jnp.where(there, scores[places], 0.0), jnp.where(there, labels[places], -1))
    return jax.vmap(of_picture)(boxes, scores, labels)
