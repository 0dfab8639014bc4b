"""Tables of names: which variable of a model is which array of a PyTorch file.

    TABLE = [("stem",                      "conv1",              CONV),
             ("stage{s}_block{b}/norm{i}", "layer{s}.{b}.bn{i}", NORM), ...]

A row is (our module, theirs, layout). {s} stands for a number, the same on both sides. A layout
maps each of our leaves to their leaf and the order of its axes: ours = theirs.transpose(order).
None is an axis of 1 that ours lacks. A tuple names several modules of theirs that are one of ours
(a fused query, key, value). They are equal parts, joined along our last axis.
"""
from collections.abc import Iterable
import dataclasses
import re

import numpy as np

from karpjax.core.errors import UserError

VECTOR = (0,)
# Theirs OIHW, ours HWIO; depthwise too.
CONV = {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", VECTOR)}
DENSE = {"kernel": ("weight", (1, 0)), "bias": ("bias", VECTOR)}               # theirs OI, ours IO
STATISTICS = ("mean", "var")
NORM = {"scale": ("weight", VECTOR), "bias": ("bias", VECTOR),
        "mean": ("running_mean", VECTOR), "var": ("running_var", VECTOR)}
# Without a counterpart in ours: what training counts, constants (GPT-2's causal mask, Marian's
# sinusoids), and the parts of BERT and ViT that only their other tasks use.
COUNTERS = (r"(.*\.)?(num_batches_tracked|position_ids|n_averaged|h\.\d+\.attn\.(masked_)?bias|"
            r"(en|de)coder\.embed_positions\.weight)")
OTHER_TASKS = r"(bert|roberta|vit|resnet)\.pooler\..*|cls\.seq_relationship\..*"
# Other names of the same arrays: BERT's first files; MAE as transformers 5 saves it.
RENAMED = [(r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"),
           (r"\bdecoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.")]
# Copies of other arrays, which files may hold or leave out: ours is one array. Pairs of (regular
# expression on the copy's name, the other's).
TIED = [(r"cls\.predictions\.decoder\.weight", "bert.embeddings.word_embeddings.weight"),
        (r"cls\.predictions\.decoder\.bias", "cls.predictions.bias"),
        (r"lm_head\.decoder\.weight", "roberta.embeddings.word_embeddings.weight"),
        (r"lm_head\.decoder\.bias", "lm_head.bias"),
        (r"lm_head\.weight", "transformer.wte.weight"), (r"lm_head\.weight", "model.shared.weight"),
        # of a file without the head, too
        (r"(model\.(en|de)coder|decoder)\.embed_tokens\.weight", "model.shared.weight"),
        (r"transformer_blocks\.[1-9]\d*\.norm1\.emb\.(.*)", r"transformer_blocks.0.norm1.emb.\1")]


@dataclasses.dataclass
class Place:
    """One of our variables in their file.

    names   its parts, joined along our last axis
    order   of its axes; None is an axis of 1 that ours lacks
    """
    names: list[str]
    order: tuple[int | None, ...]

    def ours(self, arrays: dict) -> np.ndarray:
        """Return our variable from their arrays."""
        parts = [arrays[name].squeeze(self.ones).transpose(self.axes) for name in self.names]
        return np.concatenate(parts, axis=-1)

    def fits(self, shapes: list[tuple]) -> bool:
        """Return whether `ours` can join arrays of these shapes."""
        axes = all(len(shape) == len(self.order) and all(shape[i] == 1 for i in self.ones)
                   for shape in shapes)
        joined = self.axes[-1] if axes else 0
        return axes and len({(*s[:joined], *s[joined + 1:]) for s in shapes}) == 1

    def theirs(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return their arrays from our variable."""
        back = np.argsort(self.axes)
        parts = [np.expand_dims(part.transpose(back), self.ones)
                 for part in np.split(array, len(self.names), axis=-1)]
        return {name: np.ascontiguousarray(part)
                for name, part in zip(self.names, parts, strict=True)}

    @property
    def ones(self) -> tuple[int, ...]:
        """Return the numbers of their axes that ours lacks."""
        return tuple(i for i, axis in enumerate(self.order) if axis is None)

    @property
    def axes(self) -> list[int]:
        """Return the order of the axes that both have."""
        return [axis for axis in self.order if axis is not None]

    def shapes(self, ours: tuple) -> dict[str, tuple]:
        """Return {their name: its shape} for our variable's shape."""
        parts = self.theirs(np.broadcast_to(np.float32(0), ours))
        return {name: part.shape for name, part in parts.items()}


def places(table: list, names: Iterable[str]) -> dict[str, Place]:
    """Return {our variable: its place in their file}.

    names   as in the parameter table: "stem/kernel", "batch_stats/stem_norm/mean"
    """
    rows = [(pattern_of(ours), parts_of(theirs), layout) for ours, theirs, layout in table]
    by_variable = {}
    for name in names:
        module, _, leaf = name.removeprefix("batch_stats/").rpartition("/")
        matches = [(match, theirs, layout[leaf]) for pattern, theirs, layout in rows
                   if (match := pattern.fullmatch(module)) and leaf in layout]
        if len(matches) != 1:
            raise UserError(f"the table of PyTorch's names has {len(matches)} rows for {name}, "
                            "expected one")
        match, theirs, (their_leaf, order) = matches[0]
        numbers = match.groupdict()
        parts = [join_names(part.format(**numbers), their_leaf, ".") for part in theirs]
        by_variable[name] = Place(parts, order)
    return by_variable


def ours_of(table: list, names: Iterable[str]) -> dict[str, str]:
    """Return {their name: our variable}, the way back, without the names that no row has."""
    leaves = [(ours, pattern_of(part), their_leaf, leaf) for ours, theirs, layout in table
              for part in parts_of(theirs) for leaf, (their_leaf, _) in layout.items()]
    by_name = {}
    for name in names:
        module, _, last = name.rpartition(".")
        for ours, pattern, their_leaf, leaf in leaves:
            if last == their_leaf and (match := pattern.fullmatch(module)):
                collection = "batch_stats/" if leaf in STATISTICS else ""
                variable = join_names(ours.format(**match.groupdict()), leaf, "/")
                by_name[name] = collection + variable
                break
    return by_name


def parts_of(theirs) -> tuple[str, ...]:
    """Return the modules of a row: one, or several that are one of ours."""
    return (theirs,) if isinstance(theirs, str) else theirs


def pattern_of(name: str) -> re.Pattern:
    """Return a pattern that matches a row's name with numbers for {s}."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(name)))


def join_names(module: str, leaf: str, separator: str) -> str:
    """Return the leaf's whole name, in which module "" is the top."""
    return f"{module}{separator}{leaf}" if module else leaf
