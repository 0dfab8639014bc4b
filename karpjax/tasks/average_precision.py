"""Average precision of detections, as COCO defines it (Lin et al. 2014), by faster-coco-eval.

    AP                 mean over classes and over IoU thresholds of 0.5 to 0.95
    AP50, AP75         at one threshold
    AP_small, AP_medium, AP_large    of objects below 32^2, to 96^2 and above, in pixels of the
                       original picture
    AR                 the share of objects that 100 detections a picture find, over the thresholds

It is over a whole split at once: a mean over batches, pictures or processes is another number. A
metric of which the split has no object is nan.
"""
import contextlib
import io


from karpjax.core.errors import UserError

NAMES = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR": 8}


def average_precision(found: list[dict], truth: list[dict], classes: list[str]) -> dict:
    """Return {"AP": ..., "AP50": ..., "AP_by_class": {name: AP}} of pictures, shares of 1.

    found   {"boxes": (N, 4), "scores": (N,), "labels": (N,)} a picture
    truth   {"boxes": (M, 4), "labels": (M,), "crowd": (M,), "area": (M,)} a picture, in the same
            order and coordinates
    """
    COCO, Evaluation = evaluator()
    data = {"images": [{"id": i} for i in range(1, len(truth) + 1)],
            "categories": [{"id": c, "name": name} for c, name in enumerate(classes, 1)],
            "annotations": []}
    for i, each in enumerate(truth, 1):
        for box, label, crowd, area in zip(each["boxes"], each["labels"], each["crowd"],
                                           each["area"], strict=True):
            data["annotations"].append({
                "id": 1 + len(data["annotations"]), "image_id": i, "category_id": 1 + int(label),
                "bbox": as_coco(box), "area": float(area), "iscrowd": int(crowd)})
    detections = [{"image_id": i, "category_id": 1 + int(label), "bbox": as_coco(box),
                   "score": float(score)}
                  for i, each in enumerate(found, 1)
                  for box, score, label in zip(each["boxes"], each["scores"], each["labels"],
                                               strict=True)]
    if not detections:  # which the library cannot load: one that is nowhere
        detections = [{"image_id": 1, "category_id": 1, "bbox": [-2, -2, 1, 1], "score": 0.0}]
    with contextlib.redirect_stdout(io.StringIO()):
        whole = COCO(data)
        evaluation = Evaluation(whole, whole.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {name: float(evaluation.stats[place]) for name, place in NAMES.items()}
    # (thresholds, recalls, classes, areas, numbers of detections)
    precision = evaluation.eval["precision"]
    by_class = {name: float(precision[:, :, c, 0, -1].mean()) for c, name in enumerate(classes)}
    return {**known(values), "AP_by_class": known(by_class)}


def known(values: dict[str, float]) -> dict[str, float]:
    """Return the library's values with nan for its -1, of which there is no object."""
    return {name: value if value >= 0 else float("nan") for name, value in values.items()}


def as_coco(box) -> list[float]:
    """Return x, y, width, height of x1, y1, x2, y2."""
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def evaluator():
    """Return the library's classes, or raise a UserError that they are needed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError('the score of detections needs the package faster-coco-eval; '
                        'pip install "karpjax[detect]"') from error
    return COCO, COCOeval_faster
