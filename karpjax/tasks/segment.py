"""Semantic segmentation: the class of every pixel (Long et al. 2015).

    config.task = "segment"; config.model (name="semantic_fpn", "fcn" or "deeplab"), config.data
    (karpjax/sources/masks.py, or name="scenes": karpjax/sources/scenes.py), config.augment
    (scale_jitter alone: it moves the mask along), config.frozen_statistics (as of classify)
    config.auxiliary   weight of the loss of a model's second head: 0.5

With config.frozen_statistics the BatchNorm of fcn's and deeplab's heads is frozen too, which
weights of a backbone alone do not have.

The loss is the cross-entropy's mean over all pixels of the global batch that have a class. Metrics,
of one confusion matrix of a whole split, counted in integers, of masks scaled to config.data.size:

    mIoU               mean of the intersection over union of each class that the truth has
    pixel_accuracy     share of the pixels that are right
    mIoU_of_pictures   another number: the mean over pictures of each one's mIoU

summary.json holds "IoU_by_class". segments.png shows pictures, the truth, and what is predicted.

    run = karpjax.restore("runs/camvid")
    run.segment(["street.jpg"])         # [(h, w) of class numbers, as large as the picture]

What to expect: configs/segment_scenes.py, configs/segment_camvid.py.
"""
import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core import metric
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.models.pyramid import resized
from karpjax.run import pictures
from karpjax.sources import augment
from karpjax.sources.letterbox import fitted, listed
from karpjax.sources.scenes import scenes

SHOWN = 4  # pictures of segments.png


def build(config) -> kj.Task:
    """Build the task: (B, H, W, 3) -> logits (B, H, W, K)."""
    check_own_keys(config, "augment", "frozen_statistics", "auxiliary")
    moved, _ = augment.make(augment.check_moves(config.get("augment", ())))
    source = scenes(config.data, moved, masks=True) if config.data.get("name", "") == "scenes" \
        else kj.sources.masks(config.data, augment=moved)
    names, classes = source.class_names, source.classes
    model = kj.models.make_model(config.model, classes=classes)
    frozen = config.get("frozen_statistics", False)
    both = {"both": True} if frozen and getattr(model, "auxiliary", False) else {}

    def xent(logits, batch):
        """Return the cross-entropy of the pixels that have a class, as a pair."""
        mask = batch["mask"].astype(jnp.int32)                                         # (B, H, W)
        has_class = mask < classes
        nll = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.where(has_class, mask, 0))                                     # (B, H, W)
        return kj.mean(nll, has_class * batch["weight"][:, None, None])

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"],
                                       None if frozen else key, **both)         # (B, H, W, K)
        if not isinstance(logits, tuple):
            return {"xent": xent(logits, batch)}, {}, model_state
        (total, count), share = xent(logits[1], batch), config.get("auxiliary", 0.5)
        return {"xent": xent(logits[0], batch),
                "auxiliary": (share * total, count)}, {}, model_state

    def predict(variables, images):
        """Return logits (B, H, W, K) of prepared images."""
        params, model_state = split_variables(variables)
        return kj.apply(model, params, model_state, images)[0]

    def evaluate(variables, batch):
        logits = predict(variables, batch["image"])
        predicted = logits.argmax(-1)                                                  # (B, H, W)
        weight = jnp.broadcast_to(batch["weight"][:, None, None], predicted.shape)
        counts = jax.vmap(lambda *each: metric.confusion(*map(jnp.ravel, each), classes).array)(
            batch["mask"].astype(jnp.int32), predicted, weight)                        # (B, K, K)
        nll = xent(logits, batch)
        of_pictures, there = mean_iou(counts)                                          # (B,) each
        return {"loss": nll, "xent": nll, "confusion": kj.total(counts.sum(0)),
                "mIoU_of_pictures": kj.mean(of_pictures, batch["weight"] * there)}

    def summarize(totals, rows):
        return scores(totals["confusion"], names)

    logits_of = jax.jit(predict)

    def segment(variables, files):
        """Return the class numbers (h, w) of pictures, files or PIL's, each in its own size."""
        results = []
        for file in listed(files):
            images, _, ((h, w),) = source.letterbox([file])
            logits = logits_of(variables, source.preprocess({"image": images})["image"])
            H, W = fitted((h, w), images.shape[1:3])
            results.append(np.asarray(resized(logits[:, :H, :W], (h, w)).argmax(-1)[0], np.uint8))
        return results

    def show(variables, batch):
        images, truth = batch["image"][:SHOWN], np.asarray(batch["mask"][:SHOWN])
        predicted = np.asarray(logits_of(variables, images).argmax(-1))
        return {"segments.png": pictures.masks(source.pixels(images), truth, predicted, names)}

    return kj.Task(model, source, loss, evaluate=evaluate, summarize=summarize, show=show,
                   predict=predict, methods={"segment": segment})


def iou_by_class(confusion):
    """Return the IoU of each class of counts (..., K, K), and which classes the truth has.

    The counts are of numpy or jax, the true class by row
    """
    right = confusion.diagonal(axis1=-2, axis2=-1)                                     # (..., K)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    return right / (truth + predicted - right).clip(1), truth > 0


def mean_iou(confusion):
    """Return the mean IoU over the classes of the truth (..., K, K), and whether there are any."""
    iou, there = iou_by_class(confusion)                                               # (..., K)
    mean = jnp.where(there, iou, 0.0).sum(-1) / jnp.maximum(there.sum(-1), 1)
    return mean, there.any(-1)


def scores(confusion: np.ndarray, names: list[str]) -> dict:
    """Return {"mIoU", "pixel_accuracy", "IoU_by_class"} of counts (K, K), the true class by row."""
    iou, there = iou_by_class(confusion)                                               # (K,) each
    return {"mIoU": float(iou[there].mean()) if there.any() else float("nan"),
            "pixel_accuracy": float(confusion.trace() / max(1, confusion.sum())),
            "IoU_by_class": dict(zip(names, np.where(there, iou, np.nan).tolist(), strict=True))}
