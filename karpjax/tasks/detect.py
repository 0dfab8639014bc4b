"""Object detection with FCOS (Tian et al. 2019): which objects are where.

    config.task = "detect"; config.model (name="fcos"), config.data (karpjax/sources/boxes.py, or
    name="scenes": karpjax/sources/scenes.py), config.augment (scale_jitter alone: it moves the
    boxes along), config.frozen_statistics (as in tasks/classify.py)
    config.score, config.overlap    of `detect` in models/fcos.py: 0.05 and 0.6

Losses: "class" (focal), "box" (1 - GIoU) and "centerness", each divided by the number of locations
that answer for an object in the global batch, at least 1. Metrics: "AP", "AP50", "AP75" and those
by size (tasks/average_precision.py), in the coordinates of the original pictures, over a whole
split. summary.json holds "AP_by_class". detections.png shows the truth beside what is found.

    run = karpjax.restore("runs/bccd")
    run.detect(["street.jpg"])      # [{"boxes": (N, 4), "scores": (N,), "labels": (N,), "names"}]

What to expect: configs/detect_scenes.py, configs/detect_bccd.py.
"""
import functools

import jax
import numpy as np

import karpjax as kj
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.models.fcos import detect, losses
from karpjax.run import pictures
from karpjax.sources import augment
from karpjax.sources.letterbox import fitted, listed
from karpjax.sources.scenes import scenes
from karpjax.tasks.average_precision import average_precision, evaluator

SHOWN = 6            # pictures of detections.png
CERTAIN = 0.3        # score from which a detection is shown, and returned by `run.detect`
TRUTH = ("boxes", "labels", "valid", "crowd", "area", "scale")


def build(config) -> kj.Task:
    """Build the task: (B, H, W, 3) -> objects."""
    check_own_keys(config, "augment", "frozen_statistics", "score", "overlap")
    moved, _ = augment.make(augment.check_moves(config.get("augment", ())))
    make_source = scenes if config.data.get("name", "") == "scenes" else kj.sources.boxes
    source = make_source(config.data, augment=moved)
    names = source.class_names
    model = kj.models.make_model(config.model, classes=source.classes)
    frozen = config.get("frozen_statistics", False)

    def network(params, model_state, batch, key):
        """Return the outputs, the losses as pairs, and model_state."""
        outputs, model_state = kj.apply(model, params, model_state, batch["image"],
                                        None if frozen else key)
        grid = model.grid(*batch["image"].shape[1:3])
        truth = [batch[name] for name in ("boxes", "labels", "valid", "weight")]
        return outputs, losses(grid, outputs, *truth), model_state

    def loss(params, model_state, batch, key):
        _, parts, model_state = network(params, model_state, batch, key)
        return parts, {}, model_state

    def found_in(outputs, images, content) -> dict:
        """Return the detections in images (B, H, W, 3), of which pictures fill `content` (B, 2)."""
        return detect(model.grid(*images.shape[1:3]), outputs, content, config.get("score", 0.05),
                      config.get("overlap", 0.6))

    def evaluate(variables, batch):
        evaluator()  # or an error, at the start of the training: this is traced there
        outputs, parts, _ = network(*split_variables(variables), batch, None)
        count = parts["class"][1]
        whole = (sum(total for total, _ in parts.values()), count)
        found = found_in(outputs, batch["image"], batch["content"])
        return {"loss": whole, **parts, "found": kj.rows(found),
                "truth": kj.rows({name: batch[name] for name in TRUTH})}

    def summarize(totals, rows):
        found, truth = (in_originals(rows[name], rows["truth"]["scale"])
                        for name in ("found", "truth"))
        return average_precision(found, truth, names)

    @jax.jit
    def predict(variables, images, content=None):
        """Return detections in prepared images (B, H, W, 3), in their pixels.

        content  (B, 2), the heights and widths that pictures fill; None: all
        """
        params, model_state = split_variables(variables)
        outputs, _ = kj.apply(model, params, model_state, images)
        return found_in(outputs, images, images.shape[1:3] if content is None else content)

    def detect_files(variables, files, score: float = CERTAIN):
        """Return what is in pictures, files or PIL's: a dict each, boxes in their own pixels.

        score  the least of what is returned, and at least config.score
        """
        return [found_in_file(functools.partial(predict, variables), source, file, score)
                for file in listed(files)]

    def show(variables, batch):
        batch = jax.tree.map(lambda rows: rows[:SHOWN], batch)
        found = [certain(each, CERTAIN) for each in in_originals(
            jax.device_get(predict(variables, batch["image"], batch["content"])))]
        truth = in_originals({name: np.asarray(batch[name]) for name in TRUTH})
        return {"detections.png": pictures.boxes(source.pixels(batch["image"]), truth, found,
                                                 names)}

    return kj.Task(model, source, loss, evaluate=evaluate, summarize=summarize, show=show,
                   predict=predict, methods={"detect": detect_files})


def found_in_file(predict, source, file, score: float) -> dict:
    """Return the objects in a picture with at least that score, in the picture's own pixels."""
    images, scales, (size,) = source.letterbox([file])
    content = np.float32([fitted(size, images.shape[1:3])])                        # (1, 2)
    found = predict(source.preprocess({"image": images})["image"], content)
    (each,) = in_originals(jax.device_get(found), scales)
    kept = certain(each, score)
    return {**kept, "names": [source.class_names[label] for label in kept["labels"]]}


def certain(found: dict, score: float) -> dict:
    """Return the detections of a picture with at least that score."""
    return {name: values[found["scores"] >= score] for name, values in found.items()}


def in_originals(rows: dict, scales=None) -> list[dict]:
    """Return a dict a picture of rows (N, M, ...), without places that are left or have no area.

    scales  (N, 2), pixels a pixel of the original, into whose coordinates boxes go; None: none
    """
    there = rows["labels"] >= 0 if "scores" in rows else rows["valid"] + rows["crowd"] > 0
    boxes = rows["boxes"] if scales is None else rows["boxes"] / np.tile(scales, 2)[:, None]
    there = there & (boxes[..., 2:] > boxes[..., :2]).all(-1)                      # (N, M)
    columns = {**{name: rows[name] for name in rows if name != "scale"}, "boxes": boxes}
    return [{name: column[i][there[i]] for name, column in columns.items()}
            for i in range(len(there))]
