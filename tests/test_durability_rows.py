"""Durability of rows and of checkpoints' JSON: damage that is seen, memory and writes that are
bounded, and processes that act alike."""
import json
import os
import pathlib
import random
import shutil
import tracemalloc

from command import TINY
import jax
import numpy as np
import pytest
from test_metrics import ObjectStore, workdir as bucket  # noqa: F401
from tiny_runs import RECORD, train

from karpjax import restore, UserError
from karpjax.core.errors import Damaged, Outage
from karpjax.core.task_file import module_from_text
from karpjax.run import checkpoint, export, loop, meta, metrics, together


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    train(folder / "run")
    export.export(folder / "run", folder / "pair.safetensors")
    return folder


@pytest.fixture
def run(made, tmp_path):
    return pathlib.Path(shutil.copytree(made / "run", tmp_path / "run"))


def json_of(step_folder) -> pathlib.Path:
    return step_folder / "meta" / "metadata"


# ------------------------------------------------------------------------- the JSON of a checkpoint

def flips(file, number: int):
    """Yield versions of a file with one bit flipped, spread over it, the same in every run."""
    content, draw = file.read_bytes(), random.Random(0)
    for _ in range(number):
        at = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        yield bytes(flipped)


@pytest.mark.parametrize("which", ["checkpoint", "exported pair"])
def test_any_bit_of_the_json(made, run, tmp_path, which):
    """A flipped bit is Damaged or leaves all values as they were (a sign between two of them)."""
    pair = shutil.copy(made / "pair.safetensors", tmp_path / "pair.safetensors")
    shutil.copy(made / "pair.json", tmp_path / "pair.json")
    folder, file = (pathlib.Path(pair), tmp_path / "pair.json")
    if which == "checkpoint":
        folder, file = run / "checkpoints" / "8", json_of(run / "checkpoints" / "8")
    sound, damaged = meta.read_meta(folder), 0
    for content in flips(file, 400):
        file.write_bytes(content)
        try:
            assert meta.read_meta(folder) == sound
        except Damaged:
            damaged += 1
    assert damaged > 330


def test_mutant_no_seal(made, run, tmp_path, monkeypatch):
    """Without the seal a changed digit passes, and the test above catches it."""
    monkeypatch.setattr(meta, "seal", lambda values: values[meta.SEAL])
    with pytest.raises(AssertionError):
        test_any_bit_of_the_json(made, run, tmp_path, "checkpoint")


@pytest.mark.parametrize("change", [
    ('"step": 8', '"step": 4'), ('"schema": 2', '"schema": 3'), ('"sha256"', '"sha254"'),
    ('"fingerprint"', '"fingerprimt"'), ('"batch_size": 8', '"batch_size": 9')])
def test_a_changed_json_falls_back(run, capsys, change):
    """The loop goes on from the step before, to the same rows and the same state."""
    rows, fingerprint = metrics.read_rows(run), meta.read_meta(run / "checkpoints" / "8")[
        "fingerprint"]
    file = json_of(run / "checkpoints" / "8")
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    with pytest.raises(UserError, match="checkpoints/8: its JSON cannot be read .*restore another"):
        restore(run)
    assert train(run)["resumed"]
    assert "checkpoint 8 is damaged" in capsys.readouterr().out
    assert meta.read_meta(run / "checkpoints" / "8")["fingerprint"] == fingerprint
    assert [without_times(row) for row in metrics.read_rows(run)] == [*map(without_times, rows)]


@pytest.mark.parametrize("key", [*meta.REQUIRED])
@pytest.mark.parametrize("change", ["missing", "misspelt", "of another type"])
def test_keys_of_a_json_without_a_seal(run, key, change):
    """A checkpoint of karpjax 0.1 has no seal, and its keys are looked at."""
    file = json_of(run / "checkpoints" / "8")
    values = json.loads(file.read_text())
    del values[meta.SEAL]
    file.write_text(json.dumps(values))
    assert restore(run).step == 8
    value = values.pop(key)
    if change != "missing":
        values |= {key + "s": value} if change == "misspelt" else {key: [value]}
    file.write_text(json.dumps(values))
    with pytest.raises(Damaged, match=f"'{key}'"):
        meta.read_meta(run / "checkpoints" / "8")


def test_the_state_s_own_step(run, capsys):
    """JSON and folder may agree on a step that is not the state's: such a checkpoint is damaged."""
    target = run / "checkpoints" / "10"
    shutil.copytree(run / "checkpoints" / "8", target)
    values = {**json.loads(json_of(target).read_text()), "step": 10}
    json_of(target).write_text(json.dumps(meta.sealed(values)))
    assert train(run, steps=12)["steps"] == 12
    assert "checkpoint 10 is damaged (Damaged: its state is of step 8)" in capsys.readouterr().out


def test_a_folder_with_another_number(run):
    (run / "checkpoints" / "8").rename(run / "checkpoints" / "12")
    for which in ("newest", "best"):
        with pytest.raises(UserError, match="checkpoints/12 holds step 8, not 12; move it out of"):
            restore(run, which=which)
    shutil.copytree(run / "checkpoints" / "12", run / "mine")
    assert restore(run / "mine").step == 8


# --------------------------------------------------------------------------------------- the rows

def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


@pytest.mark.parametrize("line", [
    '{"step": -1}', '{"step": true}', '{"step": 1.0}', '{"loss": 1}', '[]', '3', '{"step": 2',
    '{"step": 2, "loss": 1' + "0" * 400 + '}', '{"step": 2, "loss": {"a": 1}}', '\x00', 'é\\ud800',
    '{"step": 2, "loss": [1]}', "[" * 9999])
def test_lines_that_are_no_rows(tmp_path, line, capsys):
    """They are kept aside and reported, not a traceback of the events or the curves."""
    file = tmp_path / metrics.NAME
    file.write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n{{"step": 3, "loss": 1.0}}\n')
    before = file.read_bytes()
    metrics.Writer(tmp_path, upto=9).close()
    assert "lines [2] (1 in all) cannot be read" in capsys.readouterr().out
    assert (tmp_path / (metrics.NAME + ".damaged")).read_bytes() == before
    assert [row["step"] for row in metrics.read_rows(tmp_path)] == [1, 3]


def test_a_changed_digit_of_a_row_is_reported(run, capsys):
    """A row may be JSON and yet not what was logged: the checkpoint knows the hash of its rows."""
    file = run / metrics.NAME
    train(run)
    assert "not those that were logged" not in capsys.readouterr().out
    digit = file.read_text().index(".") + 1
    text = file.read_text()
    file.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1:])
    train(run)
    assert "its rows up to step 8 are not those that were logged" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """A writer keeps the rows of one step, also when it starts on a long file."""
    def grown(writer, start):
        tracemalloc.start()
        for step in range(start, start + 300):
            writer.write({"step": step, **{f"train/{i}": step + i / 7 for i in range(20)}})
        bytes_, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return bytes_
    writer = metrics.Writer(tmp_path)
    assert grown(writer, 0) < 100_000 and writer.count == 300
    writer.close()
    writer = metrics.Writer(tmp_path, upto=200)
    assert writer.count == 201 and len(writer.latest) == 1 and grown(writer, 201) < 100_000
    writer.close()
    writer.kept = []
    writer._add, add = lambda row: writer.kept.append(row) or add(row), writer._add
    writer.board = None
    assert grown(writer, 600) > 300_000  # the mutant, which keeps all
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_bytes_written_to_an_object_store(bucket, monkeypatch):  # noqa: F811
    """They grow with the rows, not with their square, and no row is lost at any kill."""
    written, rows = [0], 0
    opened = ObjectStore._open

    def counting(self, path, mode="rb", **options):
        file = opened(self, path, mode, **options)
        if "w" in mode:
            write = file.write
            file.write = lambda data: written.append(len(data)) or write(data)
        return file
    monkeypatch.setattr(ObjectStore, "_open", counting)
    writer = metrics.Writer(bucket)
    for step in range(200):
        writer.write({"step": step, "loss": step / 7})
        writer.flush()
        kept = [row["step"] for row in metrics.read_rows(bucket)]  # as after a kill here
        assert kept == list(range(step + 1))
        rows += len(json.dumps(writer.latest[-1])) + 1
    assert sum(written) < 4 * rows and metrics.parts_of(bucket)
    resumed = metrics.Writer(bucket, upto=150)
    assert resumed.count == 151 and not metrics.parts_of(bucket)
    resumed.write({"step": 151, "loss": 0.0})
    resumed.close()
    assert len((bucket / metrics.NAME).read_text().splitlines()) == 152


def test_a_kill_while_parts_are_merged(bucket):  # noqa: F811
    """Parts that the file holds already are not read twice, nor those that follow cut rows."""
    lines = [json.dumps({"step": step}) + "\n" for step in range(10)]
    (bucket / metrics.NAME).write_text("".join(lines[:6]))
    for start, stop in ((2, 4), (4, 7), (7, 8), (9, 10)):
        (bucket / f"{metrics.NAME}.{start:09d}").write_text("".join(lines[start:stop]))
    assert [row["step"] for row in metrics.read_rows(bucket)] == list(range(8))


# ----------------------------------------------------------------------- processes that act alike

@pytest.mark.parametrize("here, there, raised, says", [
    (None, None, None, ""), (Damaged("a"), None, Damaged, "^a$"),
    (None, Damaged("b"), Damaged, "process 1: b"),
    (None, ValueError("c"), Damaged, "ValueError: c"),
    (Damaged("a"), Outage("o"), Outage, "process 1: o"), (Outage("o"), Damaged("a"), Outage, "^o$"),
    (Outage("o"), UserError("other model"), UserError, "process 1: other model"),
    (None, RuntimeError("RESOURCE_EXHAUSTED: memory"), UserError, "RESOURCE_EXHAUSTED")])
def test_the_gravest_error_is_everyone_s(monkeypatch, here, there, raised, says):
    """Two processes: the other's message is what it would send."""
    def gathered(message):
        text = str(there) if isinstance(there, UserError) else f"{type(there).__name__}: {there}"
        return [message, bytes([together.gravity(there)]) + text.encode()]
    monkeypatch.setattr(together, "gathered", gathered)
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def block():
        with together.together():
            if here:
                raise here
    if raised is None:
        return block()
    with pytest.raises(raised, match=says) as caught:
        block()
    assert type(caught.value) is raised


def damaged_for_one(options):
    """Train in one of two processes, of which only the second finds checkpoint 8 damaged."""
    folder, address, process = options
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(address, 2, int(process))
    whole = checkpoint.fingerprint

    def wrong(tree):
        sums = whole(tree)
        is_8 = process == "1" and int(tree["step"]) == 8
        return {**sums, "key": 0} if is_8 else sums
    read = checkpoint.read_meta

    def unreadable(path):
        if process == "1" and path.name == "12":
            raise Damaged("its JSON cannot be read")
        return read(path)
    checkpoint.fingerprint, checkpoint.read_meta = wrong, unreadable
    config = module_from_text("tiny.py", TINY).get_config()
    config.update_from_flattened_dict({"steps": 16})
    assert loop.fit(config, folder, task_file=RECORD)["resumed"]
    return 0


@pytest.mark.full
def test_damage_that_one_process_sees(run):
    """Both processes go back to step 4, from JSON and arrays that only the second cannot read."""
    from guarantees.forks import Fork

    from karpjax.launch.local import free_port
    train(run, steps=12)
    address = f"localhost:{free_port()}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    both = [Fork(damaged_for_one, [str(run), address, i], environment) for i in "01"]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for step in (8, 12):
        assert all(f"checkpoint {step} is damaged" in output for output in outputs)
    assert {path.name for path in (run / "damaged").iterdir()} == {"8", "12"}
    assert restore(run).step == 16 and np.isfinite(restore(run).metrics["validation/loss"])
