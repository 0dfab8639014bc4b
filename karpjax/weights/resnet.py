"""ImageNet ResNets: the names of torchvision and of Hugging Face's ResNetForImageClassification.

timm has torchvision's.
"""
from karpjax.weights.names import CONV, DENSE, NORM

TORCHVISION = [
    ("stem",                            "conv1",                     CONV),
    ("stem_norm",                       "bn1",                       NORM),
    ("stage{s}_block{b}/conv{i}",       "layer{s}.{b}.conv{i}",      CONV),
    ("stage{s}_block{b}/norm{i}",       "layer{s}.{b}.bn{i}",        NORM),
    ("stage{s}_block{b}/shortcut",      "layer{s}.{b}.downsample.0", CONV),
    ("stage{s}_block{b}/shortcut_norm", "layer{s}.{b}.downsample.1", NORM),
    ("head",                            "fc",                        DENSE),
]


def stage(s: int) -> list:
    """Return the rows of Hugging Face's stage: it counts stages and a block's layers from 0."""
    ours = f"stage{s}_block{{b}}"
    theirs = f"resnet.encoder.stages.{s - 1}.layers.{{b}}"
    rows = [(f"{ours}/shortcut", f"{theirs}.shortcut.convolution", CONV),
            (f"{ours}/shortcut_norm", f"{theirs}.shortcut.normalization", NORM)]
    for i in (1, 2, 3):
        rows += [(f"{ours}/conv{i}", f"{theirs}.layer.{i - 1}.convolution", CONV),
                 (f"{ours}/norm{i}", f"{theirs}.layer.{i - 1}.normalization", NORM)]
    return rows


HUGGINGFACE = [
    ("stem",      "resnet.embedder.embedder.convolution",   CONV),
    ("stem_norm", "resnet.embedder.embedder.normalization", NORM),
    *[row for s in (1, 2, 3, 4) for row in stage(s)],
    ("head",      "classifier.1",                           DENSE),
]
