"""The average precision of no network: the right class of each picture, with its median box.

It says what is left to find once the class is known. Nothing that does not look at the picture can
score more on pictures of one object.
"""
import jax
import numpy as np

import karpjax
from karpjax.tasks.average_precision import average_precision

SIDE = 64  # of the pictures


def median_boxes(data_dir: str, name: str, train: str, test: str) -> dict:
    """Return the metrics on `test` of the median box of each class in `train`."""
    source = karpjax.sources.boxes(dict(name=name, data_dir=data_dir, train=train, test=test,
                                        batch_size=1, size=(SIDE, SIDE), objects=1))
    seen = pictures(source, "train")
    boxes, labels = (np.concatenate([each[name] for each in seen]) for name in ("boxes", "labels"))
    median = {label: np.median(boxes[labels == label], axis=0) for label in np.unique(labels)}
    truth = pictures(source, "test")
    found = [{"boxes": np.array([median[label] for label in each["labels"]]).reshape(-1, 4),
              "labels": each["labels"], "scores": np.ones(len(each["labels"]))} for each in truth]
    return average_precision(found, truth, source.class_names)


def pictures(source, split: str) -> list[dict]:
    """Return the objects of each picture of a split."""
    rows = [jax.tree.map(lambda column: column[0], batch) for batch in source.eval_batches(split)]
    return [{name: row[name][row["valid"] > 0] for name in ("boxes", "labels", "crowd", "area")}
            for row in rows]
