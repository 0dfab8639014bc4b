"""metrics.jsonl in an object store, which refuses to append (a store in memory stands in), and the
status line."""
import json

from etils import epath
import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest

from karpjax.run import metrics, progress


class ObjectStore(MemoryFileSystem):
    """A store whose objects are written whole and exist once their file is closed."""
    protocol = ("gcs", "gs")
    store, pseudo_dirs = {}, [""]

    def __init__(self, finalize_on_close=True, **options):
        super().__init__(**options)

    def _open(self, path, mode="rb", **options):
        if "a" in mode or "+" in mode:
            raise NotImplementedError(f"{mode}: objects cannot be appended to")
        return super()._open(path, mode, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("gs:/").removeprefix("gcs:/"))


@pytest.fixture
def workdir():
    fsspec.register_implementation("gcs", ObjectStore, clobber=True)
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    folder = epath.Path("gs://bucket/run")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    ObjectStore.store.clear()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / metrics.NAME).read_text().splitlines()]


@pytest.mark.full
def test_the_store_refuses_to_append(workdir):
    (workdir / "object").write_text("whole")
    with pytest.raises(NotImplementedError):
        (workdir / "object").open("a")


def test_nothing_is_lost_or_doubled(workdir):
    """Rows exist once a save follows them (flush).

    A resume drops the rows that came after its checkpoint.
    """
    first = metrics.Writer(workdir)
    for step in range(1, 5):
        first.write({"step": step, "train/loss": 1.0 / step})
        if step == 3:
            first.flush()  # a save; then the process is killed at step 4
    assert [row["step"] for row in lines(workdir)] == [1, 2, 3]
    second = metrics.Writer(workdir, upto=2)
    for step in range(3, 6):
        second.write({"step": step, "train/loss": 1.0 / step})
    second.close()
    assert lines(workdir) == [{"step": step, "train/loss": 1.0 / step} for step in range(1, 6)]
    assert not [path.name for path in workdir.iterdir() if path.name.endswith(".part")]


def test_the_status_line_where_there_is_no_terminal(capsys, monkeypatch):
    """Without a terminal a line now and then shows what the bar would."""
    monkeypatch.setattr(progress.Progress, "EVERY", 0.0)
    shown = progress.Progress(steps=8, start=0, examples_per_step=64, training=progress.Clock(),
                              waiting=progress.Clock())
    row = {"train/loss": 0.25, "time/examples_per_s": 3200.0, "time/data_wait": 0.125}
    shown.show(4, row, slowest=(3, 1.5))
    assert capsys.readouterr().out == (
        "step 4: loss 0.25, examples_per_s 3200, 20 ms a step, data wait 12%, "
                                       "slowest process 3 (1.5 s of data wait)\n")
    monkeypatch.setattr(progress.Progress, "EVERY", 60.0)
    shown.show(5, row)
    assert not capsys.readouterr().out
