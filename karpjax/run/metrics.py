"""Metrics on disk: `metrics.jsonl`, one row a line, and TensorBoard events made from it.

A resumed run must leave the same file as one that never stopped. So rows are on disk before the
checkpoint that follows them, and on restore the file is cut back to the checkpoint's step: no row
is there twice and none is lost. Everything that depends on the clock is named "time/...".
"""
import codecs
import hashlib
import json
import re

from etils import epath
import jax

from karpjax.core import files
from karpjax.core.errors import UserError, storage
from karpjax.core.files import plain
from karpjax.run import tensorboard

NAME = "metrics.jsonl"


class Writer:
    """A file of rows {"step": ..., "train/loss": ...}, which process 0 alone writes.

    upto       rows after this step are dropped (a fresh run: -1), as are a line torn by a kill and
               the final test row
    expected   the rows that the checkpoint at `upto` has seen; missing or unreadable ones are
               reported
    sha256     of these rows, as `digest` gives it; "": unknown
    latest     the rows of the last step, and `count` of them all: older ones are on disk alone
    """

    def __init__(self, workdir, upto: int = -1, expected: int = 0, sha256: str = "", say=print):
        self.path, self.active = epath.Path(workdir) / NAME, jax.process_index() == 0
        self.latest, self.count, self.hash = [], 0, hashlib.sha256()
        # Object stores cannot append: rows go there with each flush, and TensorBoard's writer knows
        # local files only.
        self.remote = "://" in str(self.path)
        self.unsaved, self.in_file, self.board = [], 0, None
        if not self.active:
            for row in read_rows(workdir, upto):
                self._add(row)
            return
        if not self.remote:
            self.board = _Board(self.path.parent / "tensorboard")
        unreadable, copy = self._rewrite(upto)
        if self.board:
            self.board.replace_old()
        if unreadable:
            say(f"{self.path}: lines {unreadable[:8]} ({len(unreadable)} in all) cannot be "
                f"read; the file is kept as {copy.name}, and its other rows go on")
        if self.count < expected:
            say(f"{self.path}: {expected - self.count} of the {expected} rows up to step "
                f"{upto} are missing; the run goes on without them")
        elif sha256 and sha256 != self.digest():
            say(f"{self.path}: its rows up to step {upto} are not those that were logged; the file "
                "was changed, and the run goes on with it")

    def write(self, row: dict) -> None:
        line = self._add({name: plain(value) for name, value in row.items()})
        if self.active and self.remote:
            self.unsaved.append(line)
        elif self.active:
            with open(self.path, "a") as file:
                file.write(line)

    def results_at(self, step: int, splits) -> dict:
        """Return the metrics of these splits in the rows of the last step, if it is this one."""
        return {name: value for row in self.latest if row["step"] == step
                for name, value in row.items() if name.split("/")[0] in splits}

    def digest(self) -> str:
        """Return the SHA-256 of all rows so far."""
        return self.hash.hexdigest()

    def flush(self) -> None:
        """Hand all rows to the system or the store, as the loop does before every save."""
        if self.board:
            self.board.flush()
        if self.unsaved:
            self._flush_remote()

    def close(self) -> None:
        self.flush()
        if self.board:
            self.board.close()
        if self.active and self.remote and self.in_file < self.count:
            self._merge()

    def _add(self, row: dict) -> str:
        """Take a row into account, and return its line."""
        line = json.dumps(row) + "\n"
        if self.latest and self.latest[-1]["step"] != row["step"]:
            self.latest = []
        self.latest.append(row)
        self.count += 1
        self.hash.update(line.encode())
        if self.board:
            self.board.write(row)
        return line

    def _rewrite(self, upto: int) -> tuple:
        """Write the file again with the rows that stay.

        Returns (the numbers of damaged lines, a copy of the file as it was if there are any).
        """
        folder, unreadable = self.path.parent, []
        with files.whole(self.path) as file:
            for number, row in scan(folder):
                if row is None:
                    unreadable.append(number)
                elif stays(row, upto):
                    file.write(self._add(row))
            copy = set_aside(folder) if unreadable else None
        remove_parts(folder)
        self.in_file = self.count
        return unreadable, copy

    def _flush_remote(self) -> None:
        """Write the new rows as a part of their own, or all, once the parts are half of them."""
        # So what is written in all grows with the rows, not with their square.
        if self.count >= 2 * self.in_file:
            self._merge()
        else:
            part = self.path.parent / f"{NAME}.{self.count - len(self.unsaved):09d}"
            part.write_text("".join(self.unsaved))
        self.unsaved = []

    def _merge(self) -> None:
        """Write the file of an object store again, with its parts and the new rows in it."""
        with files.whole(self.path) as file:
            for row in read_rows(self.path.parent):
                file.write(json.dumps(row) + "\n")
            file.write("".join(self.unsaved))
        remove_parts(self.path.parent)
        self.in_file = self.count


def stays(row: dict, upto: int) -> bool:
    """Return whether a row stays when a run goes on from step `upto`."""
    # The test row is written after the last checkpoint, so it is always made again.
    return row["step"] <= upto and not any(name.startswith("test/") for name in row)


class _Board:
    """TensorBoard events, written again from the rows at every start."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        old = list(folder.glob("events.out.tfevents.*"))
        self.events = tensorboard.Events(folder)
        self.old = [path for path in old if str(path) != self.events.file.name]

    def replace_old(self):
        for path in self.old:
            path.unlink(missing_ok=True)

    def write(self, row):
        self.events.write(row["step"], {name: value for name, value in row.items()
                                        if name != "step" and isinstance(value, (int, float))})

    def flush(self):
        self.events.flush()

    def close(self):
        self.events.close()


# -------------------------------------------------------------------------------- reading the rows

def read_rows(workdir, upto: int | None = None):
    """Return the rows of a workdir's metrics.jsonl, except those that cannot be read.

    upto   only those that stay when a run goes on from this step
    """
    return [row for _, row in scan(workdir)
            if row is not None and (upto is None or stays(row, upto))]


def scan(workdir):
    """Yield (number, row) of each line of metrics.jsonl, None for a row that cannot be read.

    A last line torn by a kill has no end, and does not count. Nor do empty lines and byte-order
    marks.
    """
    number = 0
    for line in lines_of(workdir):
        number += 1
        stripped = line.strip().removeprefix(codecs.BOM_UTF8).strip()
        if not stripped:
            continue
        row = parsed(stripped)
        if row is not None or line.endswith(b"\n"):
            yield number, row


def parsed(line: bytes) -> dict | None:
    """Return the row of a line, None unless it is one: a step, and numbers, texts or nulls."""
    try:
        row = json.loads(line.decode())
        if type(row["step"]) is not int or row["step"] < 0:
            return None
        for value in row.values():
            if isinstance(value, (list, dict)):
                return None
            float(0 if isinstance(value, str) or value is None else value)  # not beyond a double
        return row
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def lines_of(workdir):
    """Yield the lines of metrics.jsonl, then those of its parts, which object stores have.

    A part is named by the number of rows before it. A kill may leave parts that are in the file
    already, or that follow rows which were cut.
    """
    path, rows = epath.Path(workdir) / NAME, 0
    for start, file in [(0, path), *parts_of(workdir)]:
        if start > rows:
            return
        skipped = rows - start
        with storage(file):
            if not file.is_file():
                continue
            with file.open("rb") as opened:
                for line in opened:
                    skipped, skip = skipped - 1, skipped > 0
                    if not skip:
                        rows += bool(line.strip())
                        yield line


def parts_of(workdir) -> list:
    """Return (rows before it, path) of the parts of a metrics.jsonl, in order."""
    folder = epath.Path(workdir)
    with storage(folder):
        names = [path.name for path in folder.glob(f"{NAME}.*")] if folder.is_dir() else []
    numbers = sorted(name for name in names if re.fullmatch(rf"{re.escape(NAME)}\.\d{{9}}", name))
    return [(int(name[-9:]), folder / name) for name in numbers]


def remove_parts(workdir) -> None:
    """Remove the parts of a metrics.jsonl that holds their rows now."""
    for _, part in parts_of(workdir):
        part.unlink(missing_ok=True)


def set_aside(workdir):
    """Copy a damaged file to NAME.damaged (or NAME.damaged.2, ...) beside it, and return where."""
    path, number = epath.Path(workdir) / NAME, 1
    copy = path.parent / f"{NAME}.damaged"
    while copy.exists():
        number += 1
        copy = path.parent / f"{NAME}.damaged.{number}"
    with copy.open("wb") as file:
        for line in lines_of(workdir):
            file.write(line)
    return copy


def check_not_lost(workdir, save_every: int, chunk: int) -> None:
    """Refuse to start from scratch over the rows of a run whose checkpoints are gone.

    A run killed before its first checkpoint was whole may start: its rows end at the second save,
    which waits for the first.
    """
    rows = read_rows(workdir)
    second = -(-2 * max(save_every, chunk) // chunk) * chunk
    last = max((row["step"] for row in rows), default=0)
    tested = any(name.startswith("test/") for row in rows for name in row)
    if last > second or tested or rows and (workdir / "summary.json").exists():
        raise UserError(f"{workdir}: {NAME} has rows up to step {last}, but there is no checkpoint "
                        "to go on from; put one back (perhaps from its folder damaged), use a new "
                        f"--workdir, or, to start from scratch here, remove {NAME}")
