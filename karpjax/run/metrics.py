"""Metrics on disk: `metrics.jsonl`, one row a line, is the record; TensorBoard events are made from it.

A resumed run must leave the same file as one that never stopped: rows are on disk before the checkpoint that follows them,
and on restore the file is cut back to the checkpoint's step, so no row is there twice and none is lost. Everything that
depends on the clock is named "time/...".
"""
import json
import shutil
import time

from etils import epath
import jax

from karpjax.core.files import plain, write_whole

NAME = "metrics.jsonl"


class Writer:
    """Appends rows {"step": ..., "train/loss": ...}. Only process 0 writes; the others keep quiet.

    upto   rows after this step are dropped (a fresh run: -1), as are a line torn by a kill and the final test row
    """

    def __init__(self, workdir, upto: int = -1):
        self.path, self.active = epath.Path(workdir) / NAME, jax.process_index() == 0
        # The test row is written after the last checkpoint, so it is always made again.
        self.rows = [row for row in read_rows(workdir)
                     if row["step"] <= upto and not any(name.startswith("test/") for name in row)]
        self.remote = "://" in str(self.path)  # object stores cannot append: rows go there with each flush
        if self.active:
            self._rewrite()
            # TensorBoard's writer knows local files only; metrics.jsonl has it all.
            self.board = None if self.remote else _Board(epath.Path(workdir) / "tensorboard", self.rows)

    def write(self, row: dict) -> None:
        self.rows.append({name: plain(value) for name, value in row.items()})
        if self.active and not self.remote:
            with open(self.path, "a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
            self.board.write(self.rows[-1])

    def flush(self) -> None:
        """All rows are on disk after this; the loop calls it before every save."""
        if self.active:
            self._rewrite() if self.remote else self.board.flush()

    def close(self) -> None:
        self.flush()
        if self.active and not self.remote:
            self.board.close()

    def _rewrite(self) -> None:
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class _Board:
    """TensorBoard events, written anew from the rows at every start.

    Without tensorboardX's SummaryWriter: its thread dies on a full disk, and the run then waits for it for ever.
    """

    def __init__(self, folder, rows):
        from tensorboardX.event_file_writer import EventsWriter
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        for row in rows:
            self.write(row)

    def write(self, row):
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()
                  if name != "step" and isinstance(value, (int, float))]
        self.writer.write_event(Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values)))

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


def read_rows(workdir) -> list[dict]:
    """The rows of a workdir's metrics.jsonl; a last line torn by a kill is left out."""
    path, rows = epath.Path(workdir) / NAME, []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
