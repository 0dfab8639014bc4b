"""Durability: checkpoints that stay, a storage that fails for a moment, damaged rows, saves that
did not happen."""
import errno
import json
import os
import pathlib
import shutil
import threading

from etils import epath
from guarantees.harness import kept_in
import jax
import pytest
import tiny_runs

from karpjax import restore, UserError
from karpjax.core.errors import Outage, outage
from karpjax.datasets import pictures, tfds
from karpjax.run import checkpoint, cli, metrics
from karpjax.run.meta import sealed


def train(workdir, **values):
    """Train with four saves and four evaluations in eight steps. The loss falls."""
    return tiny_runs.train(workdir, **{"eval_every": 2, "save_every": 2, "log_every": 1, **values})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("made") / "run"
    train(workdir)
    return workdir


@pytest.fixture
def run(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "run"))


def tree(workdir) -> dict:
    """Return {path: content} of all that must not change.

    Events and config.json are written at every start.
    """
    return {str(p.relative_to(workdir)): p.read_bytes() for p in sorted(workdir.rglob("*"))
            if p.is_file() and "tensorboard" not in str(p) and p.name != "config.json"}


# ------------------------------------------------------------------------------------- what is kept

@pytest.mark.parametrize("then", ["more steps", "fallback"])
def test_the_best_stays(tmp_path, then):
    best = {"best": "max validation/loss", "keep": 1}
    train(tmp_path, steps=4, **best)
    assert kept_in(tmp_path) == [2, 4]
    if then == "fallback":
        (tmp_path / "checkpoints" / "4" / "meta" / "metadata").write_text("{}")
    train(tmp_path, steps=8, **best)
    assert kept_in(tmp_path) == [2, 8] and restore(tmp_path, which="best").step == 2


def test_what_a_kill_left_is_deleted(tmp_path):
    """A kill may fall after the last save and before the deletions that belong to it."""
    train(tmp_path, keep=1)
    shutil.copytree(tmp_path / "checkpoints" / "8", tmp_path / "checkpoints" / "6")
    file = tmp_path / "checkpoints" / "6" / "meta" / "metadata"
    meta = {**json.loads(file.read_text()), "step": 6, "metrics": None}
    file.write_text(json.dumps(sealed(meta)))
    train(tmp_path, keep=1)
    assert kept_in(tmp_path) == [8]


# --------------------------------------------------------------------------- a storage that is away

@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE,
                                    errno.ENOMEM, errno.ENOSPC])
@pytest.mark.parametrize("name", ["metadata", "config.json", metrics.NAME])
def test_an_outage_is_no_damage(run, monkeypatch, number, name):
    """An error of Python's file system calls is an outage, in each place where a start reads.

    A full disk is no damage either, but waiting does not make room.
    """
    kind, fix = (UserError, "the disk is full.*make room") if number == errno.ENOSPC \
        else (Outage, f"{os.strerror(number)}.*start the same command again")
    before, path = tree(run), type(epath.Path(run))

    def failing(read):
        def call(self, *arguments, **options):
            if self.name == name and str(run) in str(self):
                raise OSError(number, os.strerror(number), str(self))
            return read(self, *arguments, **options)
        return call
    with monkeypatch.context() as patch:
        for method in ("read_text", "read_bytes", "open"):
            patch.setattr(path, method, failing(getattr(path, method)))
        with pytest.raises(kind, match=fix) as caught:
            train(run)
        assert caught.value.code == kind.code == (2 if number == errno.ENOSPC else 75)
        if name == "metadata":
            with pytest.raises(kind, match=fix):
                restore(run)
    assert tree(run) == before and not (run / "damaged").exists()
    assert train(run)["resumed"]


def test_an_outage_below_tensorstore(run):
    """A real error of the system, in C++, is an outage: a file that is a loop of links."""
    files = {p: p.read_bytes() for p in (run / "checkpoints").rglob("d/*") if p.is_file()}
    for path in files:
        path.unlink()
        path.symlink_to(path)
    for call in (train, restore):
        with pytest.raises(Outage, match="Too many levels of symbolic links"):
            call(run)
    assert kept_in(run) == [2, 4, 6, 8] and not (run / "damaged").exists()
    for path, content in files.items():
        path.unlink()
        path.write_bytes(content)
    assert train(run)["resumed"]


def test_an_outage_while_checkpoints_are_listed(run, monkeypatch):
    def away(folder):
        raise OSError(errno.ESTALE, "Stale file handle")
    monkeypatch.setattr(checkpoint.ocp.utils, "checkpoint_steps", away)
    with pytest.raises(Outage, match="Stale file handle"):
        restore(run)


@pytest.mark.parametrize("error, away", [
    (ValueError("UNKNOWN: Error reading x: Input/output error [os_error_code='5']"), True),
    (ValueError("UNAVAILABLE: the object store answered 503"), True),
    (MemoryError(), True), (TimeoutError("read"), True),
    (OSError(errno.EMFILE, "Too many open files"), True),
    (ValueError("NOT_FOUND: no such file [os_error_code='2']"), False),
    (FileNotFoundError("gone"), False),
    (ValueError("DATA_LOSS: checksum"), False), (OSError(errno.ENOSPC, "full"), False),
    (ValueError("FAILED_PRECONDITION: Truncated Zstd-compressed stream"), False)])
def test_what_is_an_outage(error, away):
    """The error counts also when Orbax wraps it in an exception that names no cause."""
    wrapped = Exception("Encountered error while reading array")
    wrapped.__cause__ = error
    assert bool(outage(error)) == bool(outage(wrapped)) == away


def test_a_full_disk_is_no_damage_of_data():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(tfds.unreadable("a set", full, "prepare it again"), Outage)
    with pytest.raises(Outage, match="No space left"), pictures.readable("cat.png"):
        raise full


def test_threads_that_have_not_begun(monkeypatch):
    """threading lists them, but their join raises: a failed command once ended in a traceback."""
    late = threading.Thread(target=lambda: None)
    threading.Timer(0.05, late.start).start()
    cli._leave_threads({late}, 1)
    assert late.ident and not late.is_alive()
    monkeypatch.setattr(cli, "THREADS_END", 0.05)
    cli._leave_threads({threading.Thread(target=print)}, 1)


def test_the_command_ends_with_75(monkeypatch, capsys):
    def main(argv):
        raise Outage("the storage failed")
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 75
    assert capsys.readouterr().err == "karpjax: error: the storage failed\n"


# ------------------------------------------------------------ never from scratch over a lost record

def test_a_second_start_after_damage_is_refused_too(run):
    for step in (2, 4, 6, 8):
        (run / "checkpoints" / str(step) / "meta" / "metadata").write_text("{")
    rows = (run / metrics.NAME).read_bytes()
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(run)
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint to go on from; put one back "
                                            ".*new --workdir.*remove metrics"):
            train(run)
    (run / metrics.NAME).rename(run / "rows")
    with pytest.raises(UserError, match=r"none of the checkpoints \['2', '4', '6', '8'\] is whole"):
        train(run)
    assert (run / "rows").read_bytes() == rows and len(list((run / "damaged").iterdir())) == 4


def test_rows_without_checkpoints(run):
    """Rows without checkpoints are refused: a finished run's, and those beyond the second save of a
    killed one."""
    shutil.rmtree(run / "checkpoints")
    for change in (lambda rows: rows, lambda rows: [row for row in rows if row["step"] <= 5
                                                    and "test/loss" not in row]):
        rows = change(metrics.read_rows(run))
        (run / metrics.NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError,
                           match=f"rows up to step {rows[-1]['step']}, but there is no checkpoint"):
            train(run, save_every=100)  # what was saved when is in config.json
        assert metrics.read_rows(run) == rows
        (run / "summary.json").unlink(missing_ok=True)
    (run / metrics.NAME).unlink()
    assert not train(run)["resumed"]


def test_killed_before_the_first_checkpoint_was_whole(run):
    """Such a run may begin from scratch: the first save ends before the rows that follow the
    second."""
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    rows = [row for row in metrics.read_rows(run) if row["step"] <= 4]
    (run / metrics.NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not train(run)["resumed"]


# --------------------------------------------------------------------------------------------- rows

def without_times(workdir) -> list:
    return [{k: v for k, v in row.items() if not k.startswith("time/")}
            for row in metrics.read_rows(workdir)]


@pytest.mark.parametrize("harmless", [True, False])
def test_one_bad_line(run, capsys, harmless):
    before, file = without_times(run), run / metrics.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    if harmless:  # an empty line, a byte-order mark, an end torn by a kill
        damaged = b"\xef\xbb\xbf" + b"".join(lines[:3]) + b"\r\n\n" + b"".join(lines[3:]) \
            + b'{"step": 8, "te'
    else:
        damaged = b"".join([lines[0], lines[1][:9] + b"\xff\n", b"[3]\n", *lines[3:]])
    file.write_bytes(damaged)
    assert without_times(run) == (before if harmless else [before[0], *before[3:]])
    train(run)
    said, kept = capsys.readouterr().out, run / (metrics.NAME + ".damaged")
    if harmless:
        assert without_times(run) == before and not kept.exists() and "missing" not in said
    else:
        assert without_times(run) == [before[0], *before[3:]] and kept.read_bytes() == damaged
        assert "lines [2, 3] (2 in all) cannot be read; " \
               "the file is kept as metrics.jsonl.damaged" in said
        assert "2 of the 12 rows up to step 8 are missing" in said


def test_rows_that_are_missing_are_reported(run, capsys):
    (run / metrics.NAME).unlink()
    train(run)
    assert "12 of the 12 rows up to step 8 are missing" in capsys.readouterr().out


# ------------------------------------------------------------------------ saves that did not happen

def test_a_step_folder_with_a_larger_number(run):
    shutil.copytree(run / "checkpoints" / "8", run / "checkpoints" / "50")
    with pytest.raises(UserError, match=r"checkpoints/50 holds step 8, not 50; move it out of"):
        train(run, steps=10)
    assert kept_in(run) == [2, 4, 6, 8, 50] and not (run / "damaged").exists()


@pytest.mark.parametrize("there", [9, 5], ids=["larger", "equal"])
def test_a_save_that_did_not_happen(tmp_path, monkeypatch, there):
    """A folder in the way is reported, put there before Orbax looks, or after."""
    saves = checkpoint.Checkpoints(tmp_path)
    (tmp_path / "checkpoints" / str(there) / "state").mkdir(parents=True)
    if there == 9:
        saves.manager.reload()
    monkeypatch.setattr(checkpoint, "to_tree", lambda state: state)
    with pytest.raises(UserError, match=f"step 5 could not be saved: .*checkpoints/{there} "
                                        "is in the way; move it out"):
        saves.save(5, {"params": {"w": jax.numpy.ones(3)}}, {}, None)


def test_other_names_of_a_step(run):
    (run / "checkpoints" / "0050").mkdir()
    assert restore(run).step == 8


def test_a_run_in_a_thread(tmp_path):
    """A thread cannot take signals, and trains without them."""
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(train(tmp_path / "run")))
    thread.start()
    thread.join()
    assert summaries[0]["steps"] == 8 and restore(tmp_path / "run").step == 8
