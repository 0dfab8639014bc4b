"""The scale of a network's inputs, which a run reports at its start.

A mean and deviation of other data (the digits' 0 to 16 on pixels of 0 to 255) train, but badly, and
nothing else would report it.
"""
import numpy as np

from karpjax.core.errors import UserError

ROWS = 64                  # of the training data, spread evenly: folders of classes come in order
# Data of configs/ come to means of at most 0.1 and deviations of 1.0 to 1.2, the last by ImageNet's
# statistics on CIFAR-10 and on photographs. Pixels of 0 to 1 come to 0.5 and 0.3.
MEAN, LOW, HIGH = 2, 0.02, 3


def input_notes(exp) -> list[str]:
    """Return a line on each input of floats, or of raw pixels: its mean and deviation.

    Inputs are prepared as for evaluation. Far from 0 and 1 the line is a warning.
    """
    source, inputs, n = exp.source, exp.task.inputs, exp.source.num_examples
    rows = np.linspace(0, n - 1, min(n, ROWS)).astype(int)
    try:
        batch = source.preprocess(source.rows("train", rows)) if n else None
    except (NotImplementedError, UserError):  # a source of one's own; training names a bad row
        batch = None
    if batch is None:
        return []
    named = {inputs: batch[inputs]} if isinstance(inputs, str) else inputs(batch)
    return [note for name, x in named.items() for note in input_note(name, np.asarray(x), rows)]


def input_note(name: str, x: np.ndarray, rows: np.ndarray) -> list[str]:
    """Return the line on one input, [] for tokens, classes and one number an example.

    rows  the numbers (B,) of its rows in the training data
    """
    pixels = x.dtype == np.uint8 and x.ndim >= 4
    # Not `floating`: NumPy does not know bfloat16.
    if x.ndim < 2 or not pixels and x.dtype.kind in "iub":
        return []
    x = x.astype(np.float64)
    mean, deviation = x.mean(), x.std()
    line = (f"{name} after preprocessing: mean {mean:.2f}, deviation {deviation:.2f} "
            f"({len(x)} rows of the training data)")
    if not np.isfinite(mean):
        row, *at = place = tuple(map(int, np.argwhere(~np.isfinite(x))[0]))
        return [f"warning: {line}; expected finite numbers, found {x[place]} at {tuple(at)} of "
                f"row {rows[row]}"]
    if abs(mean) <= MEAN and LOW <= deviation <= HIGH:
        return [line]
    fix = "scale these pixels in the network, or" if pixels else "check, or"
    return [f"warning: {line}; expected about 0 and 1; {fix} give config.data.mean and std (or a "
            "preprocess of your own) the statistics of these data"]
