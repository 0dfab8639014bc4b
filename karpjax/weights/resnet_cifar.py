"""CIFAR ResNets: the names of akamaster/pytorch_resnet_cifar10."""
from karpjax.weights.names import CONV, DENSE, NORM

TABLE = [
    ("stem",                      "conv1",                CONV),
    ("stem_norm",                 "bn1",                  NORM),
    ("stage{s}_block{b}/conv{i}", "layer{s}.{b}.conv{i}", CONV),
    ("stage{s}_block{b}/norm{i}", "layer{s}.{b}.bn{i}",   NORM),
    ("head",                      "linear",               DENSE),
]
