"""Image classification: cross-entropy with label smoothing (Szegedy et al. 2016, section 7) on any TFDS image set.

    config.task = "classify"; config.model, config.data (karpjax/sources/images.py), config.augment (karpjax/sources/augment.py),
    config.label_smoothing, config.tta, config.frozen_statistics

Metrics: "accuracy" (top 1); with config.tta evaluation adds "accuracy_tta", of the mean over several views of each image:
"mirror", or "mirror_translate" (6 views: mirrored or not, moved by a pixel down and right, up and left, or not). The loss is
smoothed in training and plain in evaluation, so the two are not of one scale. With config.frozen_statistics the network trains
as it is evaluated: BatchNorm uses, and leaves, the statistics it came with, and nothing is dropped. A frozen backbone
(config.optimizer.freeze) needs it: what its norms saw of a few new images would change its features.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core.errors import check_choice
from karpjax.core.settings import check_own_keys
from karpjax.sources import augment
from karpjax.sources.source import SpecOnly

VIEWS = ("", "mirror", "mirror_translate")
START_IMAGES = 5000  # training images that a data-dependent start sees


def build(config) -> kj.Task:
    check_own_keys(config, "augment", "label_smoothing", "tta", "frozen_statistics")
    each, together = augment.make(config.get("augment", ()), seed=config.seed)
    source = kj.sources.images(config.data, augment=each, mix=together)
    classes = check_classes(config, source.classes)
    model = kj.models.make_model(config.model, classes=classes)
    smoothing, tta = config.get("label_smoothing", 0.0), config.get("tta", "")
    frozen = config.get("frozen_statistics", False)
    check_choice(tta, VIEWS, "config.tta")

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], None if frozen else key)  # (B, C)
        target = optax.smooth_labels(augment.targets(batch, classes), smoothing if key is not None else 0.0)  # (B, C)
        xent = optax.softmax_cross_entropy(logits, target)                                                # (B,)
        accuracy = lambda logits: kj.mean((logits.argmax(-1) == batch["label"]).astype(jnp.float32), batch["weight"])
        metrics = {"accuracy": accuracy(logits)}
        if tta and key is None:
            predict = lambda images: kj.apply(model, params, model_state, images)[0]
            metrics["accuracy_tta"] = accuracy(mean_of_views(predict, batch["image"], logits, tta))
        return {"xent": kj.mean(xent, batch["weight"])}, metrics, model_state

    @functools.cache
    def start():
        with jax.ensure_compile_time_eval():
            return model.start(np.asarray(source.preprocess(source.first(START_IMAGES))["image"]))           # (5000, H, W, C)

    # A restored run brings its parameters along, where the data may not be.
    from_data = start if hasattr(model, "start") and not isinstance(source, SpecOnly) else None
    return kj.Task(model, source, loss, init_from_data=from_data)


def mean_of_views(predict, images, logits, tta: str):
    """(B, C): half the mirrored views, and with "mirror_translate" half the moved ones (Jordan 2024)."""
    both = lambda images, logits: (logits + predict(images[:, :, ::-1])) / 2
    still = both(images, logits)
    if tta == "mirror":
        return still
    H, W = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [padded[:, :H, :W], padded[:, 2:, 2:]]
    return still / 2 + sum(both(view, predict(view)) for view in moved) / 4


def check_classes(config, classes: int) -> int:
    """The number of classes: the data set's; a config that says otherwise must not say less."""
    wanted = config.model.get("classes", classes)
    if wanted < classes:
        raise kj.UserError(f"config.model.classes = {wanted}, but the data set has labels 0 to {classes - 1}; "
                           f"expected at least {classes}: leave it out, or correct the data set")
    return wanted
