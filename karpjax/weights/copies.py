"""The network in a file: the prefix of its names, and which copy of it is read.

A state dict may hold a network under `model.`, `module.`, `backbone.`, in any order, and twice, as
`state_dict` and `state_dict_ema`. A table knows the names without them. So the prefix is the one
behind which the table knows most names.
"""
import collections
from collections.abc import Iterable, Iterator
import dataclasses
import re

import numpy as np

from karpjax.core.errors import UserError
from karpjax.weights.files import PART
from karpjax.weights.names import ours_of

# Of torch.compile, activation checkpoints and FSDP. They may stand anywhere in a name.
WRAPPERS = re.compile(r"\b(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
FIRST = ("", f"state_dict{PART}", f"model{PART}")  # of the copy that is read if none is asked for
BARE = ("embeddings.", "embedder.", "encoder.", "layernorm.", "pooler.")  # of a bare encoder


@dataclasses.dataclass(frozen=True)
class Copy:
    """A network in a file.

    prefix   of its names in the file: "model::module."
    root     stands before them in the table: "bert.", if the file holds the encoder alone
    ours     {name in the file: our variable} of the names that the table knows
    """
    prefix: str
    root: str
    ours: dict[str, str]

    @property
    def label(self) -> str:
        """Return the prefix as a person writes it: model.module."""
        return self.prefix.replace(PART, ".").removesuffix(".")

    def has(self, name: str) -> bool:
        """Return whether a name of the file is of this copy."""
        return name in self.ours or bool(self.prefix) and name.startswith(self.prefix)

    def table_name(self, name: str) -> str:
        """Return the table's name for one of the file's."""
        rest = name.removeprefix(self.prefix)
        known = name in self.ours or rest.startswith(BARE)
        return self.root + rest if known and name.startswith(self.prefix) else rest


def find_copies(table: list, names: Iterable[str], root: str) -> list[Copy]:
    """Return the copies of a table's network among the names of a file, the fullest first.

    root   of the table's names of an encoder, "" if they have none
    """
    names = list(names)
    whole = ours_of(table, names)
    if len(whole) == len(names):
        return [Copy("", "", whole)]
    roots = dict.fromkeys(("", root))
    rests = {rest for name in names for _, rest in splits(name)}
    ours = ours_of(table, [first + rest for first in roots for rest in rests])
    known = collections.defaultdict(dict)
    for name in names:
        for prefix, rest in splits(name):
            for first in roots:
                if first + rest in ours:
                    known[prefix, first][name] = ours[first + rest]
    copies = []
    for (prefix, first), theirs in sorted(
            known.items(), key=lambda item: (-len(item[1]), len(item[0][0]), item[0][1])):
        if not copies or is_another(theirs, copies):
            copies.append(Copy(prefix, first, theirs))
    return copies


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield (prefix, rest) for each place where a prefix may end, the start included."""
    for match in re.finditer(rf"^|(?<=\.)|(?<={PART})", name):
        yield name[:match.start()], name[match.start():]


def is_another(theirs: dict, copies: list[Copy]) -> bool:
    """Return whether names, {theirs: ours}, are of one more copy of the fullest network."""
    first = copies[0].ours
    shared = len(set(theirs.values()) & set(first.values()))
    return 2 * shared > len(first) and all(theirs.keys().isdisjoint(copy.ours) for copy in copies)


def choose(copies: list[Copy], arrays: dict, where) -> Copy:
    """Return the copy to read, the one that begins with FIRST, or raise UserError if none does."""
    if all(same(copy, copies[0], arrays) for copy in copies[1:]):
        return copies[0]
    for first in FIRST:
        for copy in copies:
            if copy.prefix == first or first and copy.prefix.startswith(first):
                return copy
    labels = " and ".join(repr(copy.label) for copy in copies)
    raise UserError(f"{where}: has the network {len(copies)} times, under {labels}; expected to be "
                    "told which one to read, found no choice; give karpjax convert "
                    f"--part={copies[-1].label}")


def under(arrays: dict, part: str, where) -> dict:
    """Return the arrays whose names begin with a part, written as `Copy.label` is."""
    kept = {name: array for name, array in arrays.items()
            if name.replace(PART, ".").startswith(f"{part}.")}
    if not kept:
        tops = sorted({re.split(rf"\.|{PART}", name)[0] for name in arrays})
        raise UserError(f"{where}: --part={part}: no array is under that name; expected one of "
                        f"{', '.join(tops[:8])}, or a longer one")
    return kept


def same(a: Copy, b: Copy, arrays: dict) -> bool:
    """Return whether two copies hold the same numbers."""
    theirs = {b.table_name(name): name for name in b.ours}
    return len(theirs) == len(a.ours) and all(
        (table_name := a.table_name(name)) in theirs
        and np.array_equal(arrays[name], arrays[theirs[table_name]]) for name in a.ours)


def without_wrappers(arrays: dict, where, renamed=()) -> dict:
    """Return arrays by names without WRAPPERS, and by today's for old ones.

    renamed   pairs of (regular expression, new)
    """
    clean = {}
    for name, array in arrays.items():
        new = WRAPPERS.sub("", name)
        for pattern, today in renamed:
            new = re.sub(pattern, today, new)
        if new in clean and not np.array_equal(clean[new], array):
            raise UserError(f"{where}: two arrays are called {new}, apart from wrappers as in "
                            f"{name}, and they differ; expected one; remove the other")
        clean[new] = array
    return clean
