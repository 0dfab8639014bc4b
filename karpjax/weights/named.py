"""A file's arrays by the names of a table: without prefixes, counters, copies and other tasks."""
import dataclasses
import difflib
import re

import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.trees import listed
from karpjax.weights.copies import Copy, choose, find_copies, under, without_wrappers
from karpjax.weights.fcos import IDS, without_gaps
from karpjax.weights.files import PART
from karpjax.weights.names import COUNTERS, OTHER_TASKS, RENAMED, TIED
from karpjax.weights.tables import root_of, tables_of


@dataclasses.dataclass
class Named:
    """The network's arrays in a file, by the names of a table.

    table    of the project whose names they are
    prefix   of the names in the file
    choices  lines about what was left out or taken for another
    facts    lines about what no network has a use for
    """
    arrays: dict[str, np.ndarray]
    table: list
    prefix: str
    choices: list[str]
    facts: list[str]

    @property
    def under(self) -> str:
        """Return words on the prefix, "" if there is none."""
        return f" under {self.prefix.replace(PART, '.')!r}" if self.prefix else ""


def name_arrays(model, arrays: dict, where, part: str = "") -> Named:
    """Return a file's arrays by a table's names, or raise if float32 cannot hold one.

    part   the prefix of the arrays to read alone, if not all are of the network

    Arrays that have these names already keep them.
    """
    whole = {name: array for name, array in without_wrappers(arrays, where, RENAMED).items()
             if not re.fullmatch(COUNTERS, name)}
    arrays = under(whole, part, where) if part else whole
    project, copies = network_in(model, arrays)
    copy = choose(copies, arrays, where)
    theirs, used = read_copy(copy, copies, arrays, where)
    left = sorted({place_of(name, copies, part) for name in whole.keys() - used})
    choices = []
    if left:
        read = repr(part or copy.label) if part or copy.label else "what has no prefix"
        choices.append(f"read {read}, left out {listed(left)} (karpjax convert --part=NAME)")
    theirs = untied(theirs, where)
    unused = sorted(name for name in theirs if re.fullmatch(OTHER_TASKS, name))
    if unused:
        choices.append(f"left out, of other tasks: {listed(unused)}")
    theirs = {name: array for name, array in theirs.items() if name not in unused}
    check_numbers(theirs, where)
    theirs, facts = without_gaps(theirs) if getattr(model, "classes", 0) != IDS else (theirs, [])
    return Named(theirs, tables_of(model)[project], copy.prefix, choices, facts)


def network_in(model, names) -> tuple[str, list[Copy]]:
    """Return (the project whose table knows most of these names, the network's copies)."""
    copies = {project: find_copies(table, names, root_of(model))
              for project, table in tables_of(model).items()}
    project = max(copies, key=lambda each: len(copies[each][0].ours) if copies[each] else 0)
    return project, copies[project] or [Copy("", "", {})]


def knows_more(model, other, names) -> bool:
    """Return whether a model's tables know more of a file's names than those of another model.

    A model without tables knows least.
    """
    def known(network) -> int:
        try:
            return len(network_in(network, names)[1][0].ours)
        except UserError:
            return -1
    return known(model) > known(other)


def read_copy(copy: Copy, copies: list[Copy], arrays: dict, where) -> tuple[dict, set]:
    """Return ({the table's name: array} of a copy and of what no copy has, the names in the file).
    """
    others = [each for each in copies if each is not copy]
    part = copy.prefix.partition(PART)[0] + PART
    theirs, used = {}, set()
    for name, array in arrays.items():
        if any(other.has(name) for other in others) or PART in name and not name.startswith(part):
            continue
        table_name = copy.table_name(name)
        if table_name in theirs:
            raise UserError(f"{where}: {name} and another array are both {table_name}; expected "
                            "one; remove the other")
        theirs[table_name] = array
        used.add(name)
    return theirs, used


def place_of(name: str, copies: list[Copy], part: str) -> str:
    """Return words on where an array is that is left out: beside a part, in a copy, or its name."""
    if part:
        return ".".join(name.replace(PART, ".").split(".")[:part.count(".") + 1])
    within = [copy.label for copy in copies if copy.has(name) and copy.label]
    return name.partition(PART)[0] if PART in name else within[0] if within else name


def untied(theirs: dict, where) -> dict:
    """Return arrays without those that copy another one, as an output embedding does."""
    pairs = [(name, match.expand(other)) for pattern, other in TIED for name in theirs
             if (match := re.fullmatch(pattern, name))]
    differ = [f"{copy} from {name}" for copy, name in pairs
              if name in theirs and not np.array_equal(theirs[copy], theirs[name])]
    if differ:
        raise UserError(f"{where}: {', '.join(differ)} differs, but the model has one array for "
                        "both; expected tied weights")
    return {name: array for name, array in theirs.items() if name not in dict(pairs)}


def check_numbers(theirs: dict, where) -> None:
    """Raise UserError if an array is empty, not finite, or of numbers that float32 cannot hold."""
    empty = [f"{name} {array.shape}" for name, array in theirs.items() if not array.size]
    if empty:
        raise UserError(f"{where}: expected numbers in every array, found none in "
                        f"{', '.join(empty[:5])}; get the file again")
    inexact = [f"{name} {array.dtype}" for name, array in theirs.items()
               if not np.can_cast(array.dtype, np.float32)]
    if inexact:
        raise UserError(f"{where}: expected float32 or less, found {', '.join(inexact)}; store "
                        "them as float32")
    wild = [name for name, array in theirs.items() if not np.isfinite(array).all()]
    if wild:
        raise UserError(f"{where}: expected finite numbers, found others in {listed(wild, 3)}; get "
                        "the file again, or weights from before they diverged")


def nearest(missing, others, most: int = 3) -> str:
    """Return words on which of other names are like the first that are missing, "" if none is."""
    others = sorted(others)
    close = {name: difflib.get_close_matches(name, others, n=1, cutoff=0.6)
             for name in sorted(missing)[:most]}
    pairs = [f"{name} is like {names[0]}" for name, names in close.items() if names]
    return "; " + ", ".join(pairs) if pairs else ""
