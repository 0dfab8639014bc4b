"""ImageNet ResNets: the names of torchvision."""
from karpjax.convert.names import CONV, DENSE, NORM

TABLE = [
    ("stem",                            "conv1",                     CONV),
    ("stem_norm",                       "bn1",                       NORM),
    ("stage{s}_block{b}/conv{i}",       "layer{s}.{b}.conv{i}",      CONV),
    ("stage{s}_block{b}/norm{i}",       "layer{s}.{b}.bn{i}",        NORM),
    ("stage{s}_block{b}/shortcut",      "layer{s}.{b}.downsample.0", CONV),
    ("stage{s}_block{b}/shortcut_norm", "layer{s}.{b}.downsample.1", NORM),
    ("head",                            "fc",                        DENSE),
]
