"""The scale of a network's inputs, which a run reports at its start.

A mean and deviation of other data (the digits' 0 to 16 on pixels of 0 to 255) train, but badly, and
nothing else would report it.
"""
import contextlib

import numpy as np

ROWS = 64                  # of the training data, spread evenly: folders of classes come in order
MEAN, LOW, HIGH = 2, 0.02, 3  # all data of configs/ lie well within: one-hot boards have 0.35, and
#                            pictures by another set's statistics 0.3 and 1.1


def input_notes(exp) -> list[str]:
    """Return a line on each input of floats, or of raw pixels: its mean and deviation.

    Inputs are prepared as for evaluation. Far from 0 and 1 the line is a warning.
    """
    source, inputs = exp.source, exp.task.inputs
    batch = None
    with contextlib.suppress(NotImplementedError):  # a source may have no rows
        n = source.num_examples
        batch = source.rows("train", np.linspace(0, n - 1, min(n, ROWS)).astype(int)) if n else None
    if batch is None:
        return []
    batch = source.preprocess(batch)
    named = {inputs: batch[inputs]} if isinstance(inputs, str) else inputs(batch)
    return [note for name, x in named.items() for note in input_note(name, np.asarray(x))]


def input_note(name: str, x: np.ndarray) -> list[str]:
    """Return the line on one input, [] for tokens, classes and one number an example."""
    pixels = x.dtype == np.uint8 and x.ndim >= 4
    # Not `floating`: NumPy does not know bfloat16.
    if x.ndim < 2 or not pixels and x.dtype.kind in "iub":
        return []
    x = x.astype(np.float64)
    mean, deviation = x.mean(), x.std()
    line = (f"{name} after preprocessing: mean {mean:.2f}, deviation {deviation:.2f} "
            f"({len(x)} rows of the training data)")
    if not np.isfinite(mean):
        at = tuple(map(int, np.argwhere(~np.isfinite(x))[0]))
        return [f"warning: {line}; expected finite numbers, found {x[at]} at {at} of these rows"]
    if abs(mean) <= MEAN and LOW <= deviation <= HIGH:
        return [line]
    fix = "scale these pixels in the network, or" if pixels else "check, or"
    return [f"warning: {line}; expected about 0 and 1; {fix} give config.data.mean and std (or a "
            "preprocess of your own) the statistics of these data"]
