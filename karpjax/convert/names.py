"""Tables of names: which variable of a model is which array of a PyTorch file, and how its axes lie.

    TABLE = [("stem",                      "conv1",              CONV),
             ("stage{s}_block{b}/norm{i}", "layer{s}.{b}.bn{i}", NORM), ...]

A row is (our module, theirs, layout); {s} stands for a number, the same on both sides. A layout maps each of our leaves to
their leaf and the order of its axes: ours = theirs.transpose(order). Where several of their modules are one of ours (a fused
query, key, value) the row names them in a tuple: equal parts, joined along our last axis.
"""
from collections.abc import Iterable
import dataclasses
import re

import numpy as np

from karpjax.errors import UserError

VECTOR = (0,)
CONV = {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", VECTOR)}          # theirs OIHW, ours HWIO; depthwise too
DENSE = {"kernel": ("weight", (1, 0)), "bias": ("bias", VECTOR)}               # theirs OI, ours IO
NORM = {"scale": ("weight", VECTOR), "bias": ("bias", VECTOR), "mean": ("running_mean", VECTOR), "var": ("running_var", VECTOR)}
IGNORED = ("num_batches_tracked",)                                             # their leaves that have no place in ours


@dataclasses.dataclass
class Place:
    """One of our variables in their file."""
    names: list[str]          # its parts, joined along our last axis
    order: tuple[int, ...]

    def ours(self, arrays: dict) -> np.ndarray:
        return np.concatenate([np.transpose(arrays[name], self.order) for name in self.names], axis=-1)

    def theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        back = np.argsort(self.order)
        parts = np.split(array, len(self.names), axis=-1)
        return {name: np.ascontiguousarray(part.transpose(back)) for name, part in zip(self.names, parts)}

    def shapes(self, ours: tuple) -> dict[str, tuple]:
        """{their name: its shape} for our variable's shape."""
        return {name: part.shape for name, part in self.theirs(np.broadcast_to(np.float32(0), ours)).items()}


def places(table: list, names: Iterable[str]) -> dict[str, Place]:
    """{our variable: its place}, for names as in the parameter table: "stem/kernel", "batch_stats/stem_norm/mean"."""
    rows = [(re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(ours))),
             (theirs,) if isinstance(theirs, str) else theirs, layout) for ours, theirs, layout in table]
    found = {}
    for name in names:
        module, _, leaf = name.removeprefix("batch_stats/").rpartition("/")
        matches = [(match, theirs, layout[leaf]) for pattern, theirs, layout in rows
                   if (match := pattern.fullmatch(module)) and leaf in layout]
        if len(matches) != 1:
            raise UserError(f"the table of PyTorch's names has {len(matches)} rows for {name}, expected one")
        match, theirs, (their_leaf, order) = matches[0]
        found[name] = Place([f"{part.format(**match.groupdict())}.{their_leaf}" for part in theirs], order)
    return found


def ignored(name: str) -> bool:
    return name.rpartition(".")[2] in IGNORED
