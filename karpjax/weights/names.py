"""Tables of names: which variable of a model is which array of a PyTorch file, and how its axes lie.

    TABLE = [("stem",                      "conv1",              CONV),
             ("stage{s}_block{b}/norm{i}", "layer{s}.{b}.bn{i}", NORM), ...]

A row is (our module, theirs, layout); {s} stands for a number, the same on both sides. A layout maps each of our leaves to
their leaf and the order of its axes: ours = theirs.transpose(order); None is an axis of 1 that ours lacks. Where several of
their modules are one of ours (a fused query, key, value) the row names them in a tuple: equal parts, joined along our last
axis.
"""
from collections.abc import Iterable
import dataclasses
import re

import numpy as np

from karpjax.core.errors import UserError

VECTOR = (0,)
CONV = {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", VECTOR)}          # theirs OIHW, ours HWIO; depthwise too
DENSE = {"kernel": ("weight", (1, 0)), "bias": ("bias", VECTOR)}               # theirs OI, ours IO
STATISTICS = ("mean", "var")
NORM = {"scale": ("weight", VECTOR), "bias": ("bias", VECTOR), "mean": ("running_mean", VECTOR), "var": ("running_var", VECTOR)}
# What has no place in ours: counters, and the parts of BERT that only its other tasks use.
IGNORED = r".*\.num_batches_tracked|(bert|roberta|vit)\.pooler\..*|cls\.seq_relationship\..*|.*\.position_ids"
# Other names of the same arrays: BERT's first files; MAE as transformers 5 saves it.
RENAMED = [(r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"),
           (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.")]
BARE = ("embeddings.", "encoder.", "layernorm.", "pooler.")  # the parts of a bare encoder
# Copies of other arrays, which files may hold or leave out: ours is one array.
TIED = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"}


@dataclasses.dataclass
class Place:
    """One of our variables in their file."""
    names: list[str]          # its parts, joined along our last axis
    order: tuple[int | None, ...]

    def ours(self, arrays: dict) -> np.ndarray:
        parts = [arrays[name].squeeze(self.ones).transpose(self.axes) for name in self.names]
        return np.concatenate(parts, axis=-1)

    def theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        parts = [np.expand_dims(part.transpose(np.argsort(self.axes)), self.ones)
                 for part in np.split(array, len(self.names), axis=-1)]
        return {name: np.ascontiguousarray(part) for name, part in zip(self.names, parts)}

    @property
    def ones(self) -> tuple[int, ...]:
        return tuple(i for i, axis in enumerate(self.order) if axis is None)

    @property
    def axes(self) -> list[int]:
        return [axis for axis in self.order if axis is not None]

    def shapes(self, ours: tuple) -> dict[str, tuple]:
        """{their name: its shape} for our variable's shape."""
        return {name: part.shape for name, part in self.theirs(np.broadcast_to(np.float32(0), ours)).items()}


def places(table: list, names: Iterable[str]) -> dict[str, Place]:
    """{our variable: its place}, for names as in the parameter table: "stem/kernel", "batch_stats/stem_norm/mean"."""
    rows, found = [(pattern_of(ours), parts_of(theirs), layout) for ours, theirs, layout in table], {}
    for name in names:
        module, _, leaf = name.removeprefix("batch_stats/").rpartition("/")
        matches = [(match, theirs, layout[leaf]) for pattern, theirs, layout in rows
                   if (match := pattern.fullmatch(module)) and leaf in layout]
        if len(matches) != 1:
            raise UserError(f"the table of PyTorch's names has {len(matches)} rows for {name}, expected one")
        match, theirs, (their_leaf, order) = matches[0]
        found[name] = Place([join(part.format(**match.groupdict()), their_leaf, ".") for part in theirs], order)
    return found


def ours_of(table: list, names: Iterable[str]) -> dict[str, str]:
    """{their name: our variable}, the way back; without the names that no row has."""
    leaves = [(ours, pattern_of(part), their_leaf, leaf) for ours, theirs, layout in table for part in parts_of(theirs)
              for leaf, (their_leaf, _) in layout.items()]
    found = {}
    for name in names:
        module, _, last = name.rpartition(".")
        for ours, pattern, their_leaf, leaf in leaves:
            if last == their_leaf and (match := pattern.fullmatch(module)):
                found[name] = ("batch_stats/" if leaf in STATISTICS else "") + join(ours.format(**match.groupdict()), leaf, "/")
                break
    return found


def parts_of(theirs) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else theirs


def pattern_of(name: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(name)))


def join(module: str, leaf: str, by: str) -> str:
    return f"{module}{by}{leaf}" if module else leaf


def cleaned(arrays: dict, where, prefix: str = "") -> dict:
    """Their arrays by the names of the tables: without DataParallel's prefix, counters and copies; old names made new; those of
    a bare encoder with the prefix that they have inside a model with a head."""
    bare = prefix and not any(name.startswith(f"{prefix}.") for name in arrays)
    found = {}
    for name, array in arrays.items():
        name = name.removeprefix("module.")
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        found[f"{prefix}.{name}" if bare and name.startswith(BARE) else name] = array
    untied = [f"{copy} from {name}" for copy, name in TIED.items()
              if copy in found and name in found and not np.array_equal(found[copy], found[name])]
    if untied:
        raise UserError(f"{where}: {', '.join(untied)} differs, but the model has one array for both; expected tied weights")
    return {name: array for name, array in found.items() if name not in TIED and not re.fullmatch(IGNORED, name)}
