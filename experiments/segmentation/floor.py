"""The mIoU of no network: the most frequent class of each place in the training masks."""
import numpy as np

import karpjax
from karpjax.tasks.segment import scores


def by_place(data_dir: str, name: str, train: str, test: str, size=(360, 480)) -> dict:
    """Return the scores on `test` of the class that each pixel has most often in `train`."""
    source = karpjax.sources.masks(dict(name=name, data_dir=data_dir, train=train, test=test,
                                        batch_size=1, size=size))
    K = source.classes
    counts = sum(mask == np.arange(K)[:, None, None] for mask in masks(source, "train"))
    predicted = counts.argmax(0)                                             # (H, W)
    confusion = np.zeros((K, K), np.int64)
    for mask in masks(source, "test"):
        there = mask < K
        confusion += np.bincount(K * mask[there].astype(int) + predicted[there],
                                 minlength=K * K).reshape(K, K)
    return scores(confusion, source.class_names)


def masks(source, split: str):
    """Yield the masks (H, W) of a split."""
    for batch in source.eval_batches(split):
        yield np.asarray(batch["mask"][0])
