"""Inception-v3: the names of torchvision, and of pytorch-fid's file of FID's weights."""
from karpjax.weights.names import CONV, DENSE, NORM

STEM = {"conv1a": "Conv2d_1a_3x3", "conv2a": "Conv2d_2a_3x3", "conv2b": "Conv2d_2b_3x3",
        "conv3b": "Conv2d_3b_1x1", "conv4a": "Conv2d_4a_3x3"}
BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
BRANCHES = ("branch_pool", "branch{k}x{l}", "branch{k}x{l}_{i}", "branch{k}x{l}_{i}a",
            "branch{k}x{l}_{i}b", "branch{k}x{l}dbl_{i}", "branch{k}x{l}dbl_{i}a",
            "branch{k}x{l}dbl_{i}b", "branch{k}x{l}x{m}_{i}")
UNITS = STEM | {f"mixed{block}/{branch}": f"Mixed_{block}.{branch}"
                for block in BLOCKS for branch in BRANCHES}
TABLE = [
    *((f"{ours}/conv", f"{theirs}.conv", CONV) for ours, theirs in UNITS.items()),
    *((f"{ours}/norm", f"{theirs}.bn", NORM) for ours, theirs in UNITS.items()),
    ("head", "fc", DENSE),
]
