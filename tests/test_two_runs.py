"""Two runs in one workdir, and processes of one run that do not belong together."""
import json
import os
import types

from command import TINY, changed
from guarantees.forks import Fork
import jax
import numpy as np
import pytest
from test_lock import text_of, until

from karpjax import restore
from karpjax.core import sharding
from karpjax.core.errors import Outage, UserError
from karpjax.core.task_file import module_from_text
from karpjax.launch.local import free_port
from karpjax.run import distributed, lock, loop, metrics, workdir


def config_of(text: str = TINY, **values):
    config = module_from_text("tiny.py", text).get_config()
    config.update_from_flattened_dict({"log_every": 1, "eval_every": 2, "save_every": 2, **values})
    return config


def train(workdir, on_metrics=None, **values):
    return loop.fit(config_of(**values), workdir, task_file={"path": "tiny.py", "text": TINY},
                    on_metrics=on_metrics, mesh=sharding.make_mesh(1, devices=jax.devices()[:1]))


# ------------------------------------------------------------------------------- two in one workdir

@pytest.mark.parametrize("mutant", [False, True])
def test_a_second_run_is_refused_and_writes_nothing(tmp_path, mutant, monkeypatch):
    """The mutant takes no lock: its second run writes rows between those of the first."""
    if mutant:
        monkeypatch.setattr(lock.Lock, "_watch", lambda self, text: True)
    refusals = []

    def again(step, row):
        if step == 3 and not refusals:
            # Without a checkpoint the second would be refused, lock or not: rows are there.
            until(lambda: (tmp_path / "run" / "checkpoints" / "2").exists())
            try:
                refusals.append(train(tmp_path / "run"))
            except UserError as error:
                refusals.append(str(error))
    try:
        train(tmp_path / "run", on_metrics=again)
        steps = [row["step"] for row in metrics.read_rows(tmp_path / "run") if "train/loss" in row]
        whole = steps == list(range(1, 9)) and restore(tmp_path / "run").step == 8
    except UserError:
        whole = False
    assert whole != mutant and ("is in use by process" in str(refusals[0])) != mutant
    assert mutant or not (tmp_path / "run" / "lock").exists()


def test_a_run_that_was_followed_while_it_stood_still(tmp_path):
    """It ends before its next save, and leaves the lock and the rows to the other."""
    def followed(step, row):
        if step == 3:
            (tmp_path / "run" / "lock").write_text(text_of(host="elsewhere", boot="x"))
    with pytest.raises(UserError, match="was taken over by process .* of elsewhere"):
        train(tmp_path / "run", on_metrics=followed)
    assert not (tmp_path / "run" / "checkpoints" / "4").exists()
    assert "elsewhere" in (tmp_path / "run" / "lock").read_text()


def test_another_run_that_began_and_ended_meanwhile(tmp_path, monkeypatch):
    """What was read of the workdir before it was locked counts no more."""
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(Outage, match="another run wrote there while this one started"):
        workdir.check_unchanged(tmp_path, None)


# ----------------------------------------------------------------------- processes of several kinds

def source_of(rows):
    return types.SimpleNamespace(streamed=False, arrays={"x": rows}, num_examples=len(rows),
                                 splits=(), rows=lambda split, numbers: {"x": rows[numbers]})


def test_the_content_of_the_data_counts():
    """One row among many, of the same shape and type; in memory, and in the sample of a streamed
    set."""
    rows = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    other = rows.copy()
    other[501, 2] += 1
    a, b = (distributed.data_checksums(source_of(each)) for each in (rows, other))
    assert a["x"] != b["x"] and a == distributed.data_checksums(source_of(rows.copy()))
    streamed = source_of(rows[::-1])
    streamed.streamed = True
    assert set(distributed.data_checksums(streamed)) == {"rows of train"}
    assert distributed.data_checksums(streamed)["rows of train"] != a["rows of train"]
    bf16 = jax.numpy.ones((4, 2), jax.numpy.bfloat16)
    assert distributed.checksum([bf16[:, ::2], np.float32(1)]) == \
        distributed.checksum([bf16[:, :1], np.float32(1)])


def test_the_code_counts(tmp_path, monkeypatch):
    """karpjax's own in a checkout, and helpers beside a config; not what is installed."""
    before = distributed.local_code()
    assert "karpjax.run.loop" in before and not {"jax", "json", "numpy"} & set(before)
    (tmp_path / "my_helpers.py").write_text("WIDTH = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_helpers  # noqa: F401
    first = distributed.local_code()["my_helpers"]
    (tmp_path / "my_helpers.py").write_text("WIDTH = 4\n")
    assert distributed.local_code()["my_helpers"] != first


def test_a_workdir_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 3)
    monkeypatch.setattr(distributed, "gather", lambda sees: [True, sees, sees])
    (tmp_path / "lock").write_text("mine")
    distributed.check_shared(tmp_path / "lock", "mine", patience=1)
    with pytest.raises(UserError, match="process 1, 2 does not see what process 0 writes there"):
        distributed.check_shared(tmp_path / "lock", "theirs", patience=0.1)


def one_of_two(argv) -> int:
    """Train tiny.py as one of two processes."""
    process, port, workdir, change = argv
    jax.config.update("jax_num_cpu_devices", 1)
    distributed.join(f"localhost:{port}", 2, int(process), 60)
    distributed.check_shared.__defaults__ = (2.0,)
    text = TINY + "# changed" if change == "text" and process == "1" else TINY
    if change == "nan":
        text = changed(TINY, ("    def part", "    x[:64, 1] = np.nan\n\n    def part"))
    loop.fit(config_of(text), workdir, task_file={"path": "tiny.py", "text": text})
    return 0


@pytest.mark.full
@pytest.mark.parametrize("change, says", [
    ("", ""), ("text", "process 1 has task_file: "), ("workdir", "process 1 does not see"),
    ("nan", "the loss was not finite: x is nan at (0, 1) in the batch (row ")])
def test_two_real_processes(tmp_path, change, says):
    """With nothing changed they train; else both refuse, in one line, and train nothing.

    NaN in the data is what it is to one process: a step that is not finite.
    """
    port = free_port()
    folders = [tmp_path / "a", tmp_path / ("b" if change == "workdir" else "a")]
    both = [Fork(one_of_two, [str(i), str(port), str(folders[i]), change],
                 {**os.environ, "JAX_PLATFORMS": "cpu"}) for i in range(2)]
    for process in both:
        said, _ = process.communicate(300)
        assert process.returncode == {"": 0, "nan": 3}.get(change, 2), said[-2000:]
        assert says in said and "Traceback" not in said
    assert (folders[0] / "summary.json").exists() == (not change)
    assert not (folders[0] / "lock").exists()
