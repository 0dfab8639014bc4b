"""Metrics on disk: `metrics.jsonl`, one row a line, and TensorBoard events made from it.

A resumed run must leave the same file as one that never stopped. So rows are on disk before the
checkpoint that follows them, and on restore the file is cut back to the checkpoint's step: no row
is there twice and none is lost. Everything that depends on the clock is named "time/...".
"""
import codecs
import itertools
import json
import shutil

from etils import epath
import jax

from karpjax.core.errors import UserError, storage
from karpjax.core.files import plain, write_whole
from karpjax.run import tensorboard

NAME = "metrics.jsonl"


class Writer:
    """A file of rows {"step": ..., "train/loss": ...}, which process 0 alone writes.

    upto       rows after this step are dropped (a fresh run: -1), as are a line torn by a kill and
               the final test row
    expected   the rows that the checkpoint at `upto` has seen; missing or unreadable ones are
               reported
    """

    def __init__(self, workdir, upto: int = -1, expected: int = 0, say=print):
        self.path, self.active = epath.Path(workdir) / NAME, jax.process_index() == 0
        # The test row is written after the last checkpoint, so it is always made again.
        rows, unreadable = parsed(workdir)
        self.rows = [row for row in rows
                     if row["step"] <= upto and not any(name.startswith("test/") for name in row)]
        # Object stores cannot append: rows go there with each flush.
        self.remote = "://" in str(self.path)
        if self.active:
            if unreadable:
                copy = set_aside(self.path)
                say(f"{self.path}: lines {unreadable[:8]} ({len(unreadable)} in all) cannot be "
                    f"read; the file is kept as {copy.name}, and its other rows go on")
            if len(self.rows) < expected:
                say(f"{self.path}: {expected - len(self.rows)} of the {expected} rows up to step "
                    f"{upto} are missing; the run goes on without them")
            self._rewrite()
            # TensorBoard's writer knows local files only; metrics.jsonl has it all.
            folder = epath.Path(workdir) / "tensorboard"
            self.board = None if self.remote else _Board(folder, self.rows)

    def write(self, row: dict) -> None:
        self.rows.append({name: plain(value) for name, value in row.items()})
        if self.active and not self.remote:
            with open(self.path, "a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
            self.board.write(self.rows[-1])

    def results_at(self, step: int, splits) -> dict:
        """Return the metrics of these splits in the rows of a step."""
        return {name: value for row in self.rows if row["step"] == step
                for name, value in row.items() if name.split("/")[0] in splits}

    def flush(self) -> None:
        """Write all rows to disk, as the loop does before every save."""
        if self.active:
            self._rewrite() if self.remote else self.board.flush()

    def close(self) -> None:
        self.flush()
        if self.active and not self.remote:
            self.board.close()

    def _rewrite(self) -> None:
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Board:
    """TensorBoard events, written again from the rows at every start."""

    def __init__(self, folder, rows):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.events = tensorboard.Events(folder)
        for row in rows:
            self.write(row)

    def write(self, row):
        self.events.write(row["step"], {name: value for name, value in row.items()
                                        if name != "step" and isinstance(value, (int, float))})

    def flush(self):
        self.events.flush()

    def close(self):
        self.events.close()


def read_rows(workdir) -> list[dict]:
    """Return the rows of a workdir's metrics.jsonl, except those that cannot be read."""
    return parsed(workdir)[0]


def parsed(workdir) -> tuple[list[dict], list[int]]:
    """Return the rows of metrics.jsonl, and the numbers of the lines that cannot be read.

    A last line torn by a kill has no end, and does not count. Nor do empty lines and byte-order
    marks.
    """
    path = epath.Path(workdir) / NAME
    with storage(path):
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows, unreadable = [], []
    for number, line in enumerate(lines, start=1):
        line = line.strip().removeprefix(codecs.BOM_UTF8).strip()
        if not line:
            continue
        try:
            row = json.loads(line.decode())
            if type(row["step"]) is not int:
                raise ValueError(row)
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            unreadable += [number] if number < len(lines) else []
    return rows, unreadable


def set_aside(path):
    """Copy a damaged file to NAME.damaged (or NAME.damaged.2, ...) beside it."""
    endings = itertools.chain([""], (f".{i}" for i in itertools.count(2)))
    copies = (path.parent / f"{path.name}.damaged{ending}" for ending in endings)
    copy = next(copy for copy in copies if not copy.exists())
    copy.write_bytes(path.read_bytes())
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
