"""Image classification: cross-entropy with label smoothing (Szegedy et al. 2016, section 7).

    config.task = "classify"; config.model, config.data (karpjax/sources/images.py),
    config.augment (karpjax/sources/augment), config.label_smoothing, config.class_weights,
    config.tta, config.frozen_statistics

Metrics: "accuracy" (top 1). With config.tta evaluation adds "accuracy_tta", computed from the mean
over several views of each image: "mirror", or "mirror_translate" (6 views: mirrored or not, moved
by a pixel down and right, up and left, or not). The loss is smoothed in training and plain in
evaluation, so the two are not on one scale.

config.class_weights is a number for each class, in the order of their names: in training an example
of a class of weight 3 counts as three would, and a mixed one by its shares. Evaluation is plain.

At the end of a run summary.json holds "accuracy_by_class". confusion.png shows which classes are
taken for which, and mistakes.png the pictures of highest loss with a wrong prediction.

With config.frozen_statistics the network trains as it is evaluated: BatchNorm uses, and leaves, the
statistics that it came with, and nothing is dropped. A frozen backbone (config.optimizer.freeze)
needs it: the statistics of a few new images would change its features.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core import metric
from karpjax.core.errors import check_choice
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.run import pictures
from karpjax.sources import augment
from karpjax.sources.source import SpecOnly

VIEWS = ("", "mirror", "mirror_translate")
START_IMAGES = 5000  # training images that a data-dependent start sees
SHOWN = 24           # mistakes at the end of a run


def build(config) -> kj.Task:
    check_own_keys(config, "augment", "label_smoothing", "class_weights", "tta",
                   "frozen_statistics")
    each, together = augment.make(config.get("augment", ()), seed=config.seed)
    source = kj.sources.images(config.data, augment=each, mix=together)
    classes = check_classes(config, source.classes)
    names = source.class_names + list(map(str, range(source.classes, classes)))
    class_weights = check_class_weights(config.get("class_weights", ()), names)
    model = kj.models.make_model(config.model, classes=classes)
    smoothing, tta = config.get("label_smoothing", 0.0), config.get("tta", "")
    frozen = config.get("frozen_statistics", False)
    check_choice(tta, VIEWS, "config.tta")

    def network(params, model_state, batch, key, smoothing):
        """Return logits (B, C), their cross-entropy (B,), the accuracy, and model_state."""
        logits, model_state = kj.apply(model, params, model_state, batch["image"],
                                       None if frozen else key)                        # (B, C)
        target = optax.smooth_labels(augment.targets(batch, classes), smoothing)       # (B, C)
        xent = optax.softmax_cross_entropy(logits, target)                             # (B,)
        return logits, xent, accuracy(logits, batch), model_state

    def loss(params, model_state, batch, key):
        _, xent, right, model_state = network(params, model_state, batch, key,
                                              smoothing if key is not None else 0.0)
        weight = batch["weight"]
        if class_weights and key is not None:
            weight = weight * (augment.targets(batch, classes) @ jnp.array(class_weights))   # (B,)
        return {"xent": kj.mean(xent, weight)}, {"accuracy": right}, model_state

    def evaluate(variables, batch):
        params, model_state = split_variables(variables)
        logits, xent, right, _ = network(params, model_state, batch, None, 0.0)
        metrics = {"loss": kj.mean(xent, batch["weight"]), "xent": kj.mean(xent, batch["weight"]),
                   "accuracy": right}
        if tta:
            def predict(images):
                return kj.apply(model, params, model_state, images)[0]
            views = mean_of_views(predict, batch["image"], logits, tta)
            metrics["accuracy_tta"] = accuracy(views, batch)
        predicted = logits.argmax(-1)                                                  # (B,)
        confusion = metric.confusion(batch["label"], predicted, batch["weight"], classes)
        examples = {"loss": xent, "label": batch["label"], "predicted": predicted}
        return {**metrics, "confusion": confusion, "examples": kj.rows(examples, at_end=True)}

    def summarize(totals, rows):
        return {"accuracy_by_class": accuracy_by_class(totals["confusion"], names)}

    def show_errors(totals, rows, split):
        return errors_shown(totals["confusion"], rows["examples"], split, source, names)

    @functools.cache
    def start():
        with jax.ensure_compile_time_eval():
            images = source.preprocess(source.first(START_IMAGES))["image"]          # (N, H, W, C)
            return model.start(np.asarray(images))

    # A restored run brings its parameters along, where the data may not be.
    from_data = start if hasattr(model, "start") and not isinstance(source, SpecOnly) else None
    return kj.Task(model, source, loss, evaluate=evaluate, summarize=summarize,
                   pictures=show_errors, init_from_data=from_data)


def accuracy(logits, batch):
    """Return the mean over a batch of whether the largest logit is the label's."""
    return kj.mean((logits.argmax(-1) == batch["label"]).astype(jnp.float32), batch["weight"])


def mean_of_views(predict, images, logits, tta: str):
    """Return logits (B, C): half of mirrored views, and half of moved ones (Jordan 2024)."""
    def both(images, logits):
        return (logits + predict(images[:, :, ::-1])) / 2
    still = both(images, logits)
    if tta == "mirror":  # no moved views
        return still
    H, W = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [padded[:, :H, :W], padded[:, 2:, 2:]]
    return still / 2 + sum(both(view, predict(view)) for view in moved) / 4


def accuracy_by_class(confusion, names: list[str]) -> dict:
    """Return {class: share of its examples that are right}, nan for a class without examples."""
    with np.errstate(invalid="ignore"):
        shares = confusion.diagonal() / confusion.sum(1)                               # (C,)
    return dict(zip(names, shares.tolist(), strict=True))


def errors_shown(confusion, examples: dict, split: str, source, names: list[str]) -> dict:
    """Return the pictures of a run's end: the confusion matrix, and the worst mistakes."""
    right = confusion.diagonal().sum() / max(1, confusion.sum())
    title = f"{split}: {right:.1%} of {confusion.sum():,} right"
    wrong = np.flatnonzero(examples["predicted"] != examples["label"])
    worst = wrong[np.argsort(-examples["loss"][wrong], kind="stable")][:SHOWN]
    shown = {"confusion.png": pictures.confusion(confusion, names, title)}
    if len(worst):
        images = source.preprocess(source.rows(split, worst))["image"]               # (N, H, W, C)
        captions = [f"{names[examples['label'][i]]}, not {names[examples['predicted'][i]]}\n"
                    f"loss {examples['loss'][i]:.2f}" for i in worst]
        title = f"{split}: {len(worst)} of {len(wrong):,} mistakes, the highest loss first"
        shown["mistakes.png"] = pictures.gallery(source.pixels(images), captions, title)
    return shown


def check_class_weights(weights, names: list[str]) -> list[float]:
    """Return config.class_weights, one a class, or [] for none."""
    given = weights if isinstance(weights, (list, tuple)) else [weights]
    numbers = [w for w in given if isinstance(w, (int, float)) and 0 <= w < np.inf]
    if given and not (len(numbers) == len(given) == len(names) and any(numbers)):
        raise kj.UserError(f"config.class_weights: expected {len(names)} numbers of at least 0, "
                           f"in the order of {', '.join(names)}, or () for none; found "
                           f"{' '.join(str(weights).split())}")
    return list(map(float, numbers))


def check_classes(config, classes: int) -> int:
    """Return the number of classes: the data set's, or a larger one that the config states."""
    wanted = config.model.get("classes", classes)
    if wanted < classes:
        raise kj.UserError(f"config.model.classes = {wanted}, but the data set has labels 0 to "
                           f"{classes - 1}; expected at least {classes}: leave it out, or correct "
                           "the data set")
    return wanted
