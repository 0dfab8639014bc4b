"""A start: the modules it imports, TensorBoard's files, and the cache of compiled programs."""
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import types
import zlib

from command import ROOT, command, done
import jax
import numpy as np
import pytest


from karpjax.core import settings
from karpjax.run import checkpoint, compile_cache, metrics, tensorboard

LATER = ("scipy", "grain", "orbax", "tensorflow_datasets", "matplotlib", "tqdm", "tensorboardX",
         "torch", "tensorboard")
COUNT = """
import atexit, collections, jax
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition('/')[2]]))
atexit.register(lambda: print('loaded', seen['cache_hits'], 'kept', seen['cache_misses']))
"""


# ----------------------------------------------------------------------- imports
def imported(code: str, *folders) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*folders, ROOT)))}
    told = f"{code}\nimport sys\nprint([name for name in {LATER} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()[-1]


def test_what_karpjax_does_not_import():
    assert imported("import karpjax") == "[]"


def test_mutant_an_import_is_seen():
    assert imported("import karpjax, karpjax.run.checkpoint") == "['orbax']"


# ----------------------------------------------------------------------- TensorBoard
def test_a_public_reader_reads_the_events(tmp_path):
    """tensorboardX's messages and checksums, which know nothing of karpjax's, read the events."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    crc = pytest.importorskip("tensorboardX.record_writer")
    rows = [{"step": 0, "train/loss": 0.1, "ein Maß": -3, "said": "no number", "gone": None},
            {"step": 300_000, "train/loss": 1e300, "on": True,
             **{f"many/{i}": float(i) for i in range(40)}}]
    writer = metrics.Writer(tmp_path)
    for row in rows:
        writer.write(row)
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert ".tfevents." in file.name
    data, events = file.read_bytes(), []
    while data:
        (length, check), rest = struct.unpack("<QI", data[:12]), data[12:]
        assert check == crc.masked_crc32c(data[:8])
        assert struct.unpack("<I", rest[length:length + 4])[0] == crc.masked_crc32c(rest[:length])
        events.append(proto.Event.FromString(rest[:length]))
        data = rest[length + 4:]
    assert events[0].file_version == "brain.Event:2"
    assert all(event.wall_time > 1e9 for event in events)
    with np.errstate(over="ignore"):
        wanted = [(row["step"], {name: float(np.float32(value)) for name, value in row.items()
                                 if name != "step" and isinstance(value, (int, float))})
                  for row in rows]
    assert [(e.step, {v.tag: v.simple_value for v in e.summary.value})
            for e in events[1:]] == wanted


def test_the_checksum_is_that_of_the_standard():
    """The checksum of 32 zero bytes is RFC 3720's (B.4), rotated by 15 bits and shifted as TFRecord
    does."""
    crc = 0x8A9136AA
    assert tensorboard.masked_crc(bytes(32)) == struct.pack(
        "<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# ------------------------------------------------------------------- the cache of compiled programs
def start(workdir, caches, *flags, path="") -> tuple:
    """Run tiny.py and return (programs loaded from the cache, programs kept in it, rows, checksums
    of the whole state)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR")
        patch.setenv("XDG_CACHE_HOME", str(caches))
        result = command("train", "--config=tests/tiny.py", f"--workdir={workdir}", *flags,
                         before=COUNT, path=path, real=True)  # jax reads the folder at import
    loaded, kept = map(int, re.search(r"^loaded (\d+) kept (\d+)$", done(result), re.M).groups())
    rows = [{name: value for name, value in row.items() if not name.startswith("time/")}
            for row in metrics.read_rows(workdir)]
    return loaded, kept, rows, checkpoint.read_meta(checkpoint.find(workdir, "newest"))[
        "fingerprint"]


def entries(caches) -> list:
    return sorted((caches / "karpjax" / "compiled").glob("*/*-cache"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return (the user's cache folder, what start returned) of a first start with all defaults."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "caches", start(folder / "run", folder / "caches")


def test_a_second_start_compiles_nothing_and_gives_the_same_bits(first, tmp_path):
    caches, (loaded, kept, *numbers) = first
    assert kept > 5 and len(entries(caches)) == kept
    assert len({path.parent for path in entries(caches)}) == 1
    assert entries(caches)[0].parent.stat().st_mode & 0o077 == 0
    again = start(tmp_path / "run", caches)
    assert again[0] >= kept and again[1] == 0 and [*again[2:]] == numbers


@pytest.mark.full
def test_switched_off_and_without_torch(first, tmp_path):
    """Programs that no cache has seen give the same bits.

    An installed torch is not imported: a fake one would leave a file.
    """
    fake = tmp_path / "path"
    for name in ("torch", "tensorboard", "tensorboardX"):
        (fake / name).mkdir(parents=True)
        (fake / name / "__init__.py").write_text(
            f"open({str(tmp_path / name)!r}, 'w').close()\nraise ImportError('blocked')\n")
    off = start(tmp_path / "run", tmp_path / "caches", "--config.compile_cache=off", path=fake)
    assert off == (0, 0, *first[1][2:])
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert not (tmp_path / "caches" / "karpjax").exists()
    assert not [path.name for path in tmp_path.iterdir()
                if path.name in ("torch", "tensorboard", "tensorboardX")]


@pytest.mark.full
def test_damaged_entries_are_compiled_anew(first, tmp_path):
    """A run with damaged entries ends with the same numbers, and the next start removes them.

    The damage: cut short, emptied, overwritten, one bit turned.
    """
    # jax's key has the folder's name in it: these must take the place of the first start's
    caches = tmp_path / "caches"
    first[0].rename(caches)
    shutil.copytree(caches, first[0])
    for i, path in enumerate(entries(first[0])):
        data = path.read_bytes()
        turned = bytes([*data[:len(data) // 2], data[len(data) // 2] ^ 16,
                        *data[len(data) // 2 + 1:]])
        path.write_bytes([data[:len(data) // 2], b"", b"x" * len(data), turned][i % 4])
    base = first[0] / "karpjax" / "compiled"
    # as if damaged after they were looked at: jax itself must cope
    os.utime(base / ".swept", (9e9, 9e9))
    damaged = {path: path.read_bytes() for path in entries(first[0])}
    try:
        loaded, _, *numbers = start(tmp_path / "run", first[0])
        assert loaded == 0 and numbers == [*first[1][2:]]
        # found, and left as they were
        assert {path: path.read_bytes() for path in entries(first[0])} == damaged
        os.utime(base / ".swept", (0, 0))
        compile_cache.sweep(base, compile_cache.LIMIT)
        assert not entries(first[0])
    finally:
        shutil.rmtree(first[0])
        caches.rename(first[0])


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Return what compile_cache.start tells jax, which was told nothing before."""
    told = {}
    config = types.SimpleNamespace(jax_compilation_cache_dir=None, update=told.__setitem__)
    monkeypatch.setattr(compile_cache, "jax", types.SimpleNamespace(
        config=config, process_index=lambda: 0))
    monkeypatch.setattr(compile_cache, "key", lambda: "kind")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return told


def test_switches(told, tmp_path):
    for off in ("", "off"):
        compile_cache.start(off)
        assert not told
    for choice, folder in (("auto", tmp_path / "caches" / "karpjax" / "compiled"),
                           (str(tmp_path / "own"), tmp_path / "own")):
        compile_cache.start(choice)
        assert told["jax_compilation_cache_dir"] == f"{folder}/kind" and (folder / "kind").is_dir()


def test_a_folder_that_jax_was_told_of_wins(told, tmp_path):
    """A folder from JAX_COMPILATION_CACHE_DIR, or from the program that calls karpjax, is kept."""
    compile_cache.jax.config.jax_compilation_cache_dir = "theirs"
    compile_cache.start("auto")
    compile_cache.start(str(tmp_path / "own"))
    assert not told and not list(tmp_path.iterdir())


def test_a_cache_folder_that_cannot_be_made(told, tmp_path, capsys):
    (tmp_path / "caches").write_text("a file where the folder should be")
    compile_cache.start("auto")
    assert not told
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: compiled programs are not kept: {tmp_path}/caches/")
    assert line.endswith("cannot be made (Not a directory); give config.compile_cache a folder "
                         "that can be written, or 'off'")


def test_a_cache_folder_that_cannot_be_written_is_read(told, monkeypatch):
    """A read-only folder gets a minimum time that no compilation takes.

    Otherwise jax would warn of every program.
    """
    for writable, seconds in ((True, 0.0), (False, math.inf)):
        monkeypatch.setattr(compile_cache.os, "access",
                            lambda folder, how, writable=writable: writable)
        compile_cache.start("auto")
        assert told["jax_compilation_cache_dir"]
        assert told["jax_persistent_cache_min_compile_time_secs"] == seconds


def test_without_a_home(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    monkeypatch.setenv("HOME", "/a/home")
    assert compile_cache.user_folder() == "/a/home/.cache/karpjax/compiled"
    # neither HOME nor an entry of the user's
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(OSError):
        os.makedirs(compile_cache.user_folder())


def test_the_key_separates_what_must_not_be_shared(tmp_path, monkeypatch):
    keys = [compile_cache.key()]
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_max_isa=SSE4_2")
    keys.append(compile_cache.key())
    monkeypatch.setattr(jax, "__version__", "0.99")
    keys.append(compile_cache.key())
    monkeypatch.setattr(compile_cache, "cpu", lambda: "another")
    keys.append(compile_cache.key())
    assert len(set(keys)) == 4 and all(key.startswith("cpu-") for key in keys)
    assert keys[-1] == compile_cache.key()


def test_a_cpu_is_known_by_its_model_and_features(tmp_path):
    text = ("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\ncpu MHz\t\t: {}\n\n"
            "processor\t: 1\nmodel name\t: Some CPU\n")
    told = []
    for changed in (text.format(2000), text.format(3000),
                    text.format(2000).replace("avx2", "avx2 avx512f"),
                    text.format(2000).replace("Some", "Other")):
        (tmp_path / "cpuinfo").write_text(changed)
        told.append(compile_cache.cpu(tmp_path / "cpuinfo"))
    assert told[0] == told[1] and len(set(told)) == 3
    assert compile_cache.cpu(tmp_path / "nowhere") is not None


def test_the_least_recently_used_go_first(tmp_path):
    """The limit holds over all kinds of machines together.

    A file that is no entry stays, torn or old.
    """
    def entry(kind, name):
        return f"cpu-{kind * 16}/{name}-{'0' * 64}-cache"

    for i, name in enumerate((entry("a", "old"), entry("b", "middle"), entry("a", "new"),
                              "mine/my-cache")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no zlib" if name == "mine/my-cache" else zlib.compress(bytes(1000), 0))
        os.utime(path, (1000 + i, 1000 + i))
    size = (tmp_path / entry("a", "old")).stat().st_size
    os.utime(tmp_path / entry("b", "middle"), (5000, 1001))  # read since
    compile_cache.sweep(tmp_path, 2 * size)
    assert sorted(path.name.partition("-")[0]
                  for path in tmp_path.glob("*/*")) == ["middle", "my", "new"]


def test_it_may_change_between_starts():
    assert settings.DEFAULTS["compile_cache"] == "auto" and "compile_cache" in settings.MAY_CHANGE
    assert not settings.differences({"compile_cache": ""}, {"compile_cache": "auto"})
