"""Durability of data: sets are written whole, replaced at once, and known by their content."""
import errno
import os
import pathlib
import resource
import shutil
import signal

from guarantees.harness import mesh_of
from guarantees.registry import config_of
import numpy as np
from PIL import Image
import pytest
from tensorflow_datasets import builder_from_directory

import karpjax as kj
from karpjax import UserError
from karpjax.core import settings
from karpjax.datasets import content, folders, formats, tfds, write
from karpjax.datasets.formats import prepare
from karpjax.datasets.tfds import prepared_builder
from karpjax.run.loop import fit
from karpjax.run.restore import check_data

rng = np.random.default_rng(0)
IMAGES, LABELS = rng.integers(0, 256, (8, 4, 4, 3), np.uint8), np.arange(8) % 2


def make(folder, images=IMAGES, labels=LABELS, sets="sets", **options) -> dict:
    """Prepare a set of images as `mine`."""
    np.savez(folder / "mine.npz", x_train=images, y_train=labels)
    return prepare("npz", folder / "mine.npz", "mine", str(folder / sets), **options)


def source_of(folder, sets="sets", name="mine", **data):
    return kj.sources.images({"name": name, "data_dir": str(folder / sets), "train": "train",
                              "batch_size": 4, **data})


def flip(path, bit: int = 5) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    path.write_bytes(bytes(data))


# --------------------------------------------------------------------- replaced, and always there

class Killed(BaseException):
    """The end of a process."""


def killed_at(monkeypatch, n: int, call) -> bool:
    """Call, die at the n-th rename, removal or sync, and return whether it came to that.

    A process that is dead does nothing more, so every later one of them fails too.
    """
    calls = 0

    def dying(function):
        def dies(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls >= n:
                raise Killed
            return function(*arguments, **options)
        return dies
    with monkeypatch.context() as patch:
        for owner, name in ((os, "rename"), (pathlib.Path, "rename"), (shutil, "rmtree"),
                            (os, "fsync")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            call()
        except Killed:
            return True
    return False


def deaths_of_an_overwrite(tmp_path, monkeypatch) -> tuple[list, int]:
    """Kill `prepare --overwrite` at each moment.

    Returns the moments at which neither the old set nor the new one could be read, and how many
    moments there are.
    """
    make(tmp_path)
    whole, lost, n = shutil.copytree(tmp_path / "sets", tmp_path / "whole"), [], 0
    while True:
        n += 1
        shutil.rmtree(tmp_path / "sets")
        shutil.copytree(whole, tmp_path / "sets")
        if not killed_at(monkeypatch, n, lambda: make(tmp_path, 255 - IMAGES, overwrite=True)):
            return lost, n
        try:
            images = source_of(tmp_path).data["train"]["image"]
            sound = any(np.array_equal(images, each) for each in (IMAGES, 255 - IMAGES))
        except UserError:
            sound = False
        lost += [n] * (not sound)
        make(tmp_path, 255 - IMAGES, overwrite=True)  # the same command again
        assert (source_of(tmp_path).data["train"]["image"] == 255 - IMAGES).all()
        assert os.listdir(tmp_path / "sets") == ["mine"]


def test_an_overwrite_killed_at_any_moment(tmp_path, monkeypatch):
    lost, moments = deaths_of_an_overwrite(tmp_path, monkeypatch)
    assert not lost and moments > 12


def test_mutant_removed_before_the_rename(tmp_path, monkeypatch):
    def publish(made, target, replace):
        if target.parent.exists():
            shutil.rmtree(target.parent)
        made.parent.rename(target.parent)
        return True
    monkeypatch.setattr(write, "publish", publish)
    assert deaths_of_an_overwrite(tmp_path, monkeypatch)[0]


def test_a_rename_that_fails_leaves_the_old_set(tmp_path, monkeypatch):
    make(tmp_path)
    rename = pathlib.Path.rename

    def refused(self, target):
        if ".preparing_" in str(self):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", refused)
        with pytest.raises(UserError, match="cross-device"):
            make(tmp_path, 255 - IMAGES, overwrite=True)
    assert (source_of(tmp_path).data["train"]["image"] == IMAGES).all()
    assert os.listdir(tmp_path / "sets") == ["mine"]


def test_a_full_disk(tmp_path):
    """A file size limit stands for a full disk. The error is array_record's, in C++."""
    make(tmp_path)
    np.savez(tmp_path / "large.npz", x_train=np.tile(IMAGES, (40, 9, 9, 1)),
             y_train=np.tile(LABELS, 40))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*File too large.*make room") as error:
            prepare("npz", tmp_path / "large.npz", "mine", str(tmp_path / "sets"), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value) and os.listdir(tmp_path / "sets") == ["mine"]
    assert (source_of(tmp_path).data["train"]["image"] == IMAGES).all()


def test_leftovers_are_removed_and_live_ones_stay(tmp_path):
    """A folder that a killed process left is removed, another's that is at work is not."""
    for name in (".preparing_dead", ".preparing_live"):
        (tmp_path / "sets" / name / "mine").mkdir(parents=True)
    with write.locked(tmp_path / "sets" / ".preparing_live") as held:
        assert held
        with pytest.raises(UserError, match="'other': TFDS does not know it") as error:
            source_of(tmp_path, name="other")
        assert "preparing" not in str(error.value)
        make(tmp_path)
    assert sorted(os.listdir(tmp_path / "sets")) == [".preparing_live", "mine"]


def test_two_at_once(tmp_path, monkeypatch):
    """The second of two `prepare` of one name is told, and the set of the first stays."""
    importer = formats.FORMATS["npz"]

    def slow(source, **options):
        monkeypatch.setitem(formats.FORMATS, "npz", importer)
        make(tmp_path)
        return importer(source, **options)
    monkeypatch.setitem(formats.FORMATS, "npz", slow)
    np.savez(tmp_path / "other.npz", x_train=255 - IMAGES, y_train=LABELS)
    with pytest.raises(UserError, match="by another process meanwhile"):
        prepare("npz", tmp_path / "other.npz", "mine", str(tmp_path / "sets"))
    assert (source_of(tmp_path).data["train"]["image"] == IMAGES).all()


def test_the_digits_are_made_again(tmp_path):
    """The embedded set is written again, if it is damaged or has no manifest."""
    folder = tmp_path / "sets" / "digits" / "1.0.0"
    shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "digits", folder.parent)
    names, before = sorted(path.name for path in folder.iterdir()), rows_of(folder)
    flip(folder / "features.json")
    (folder / "digits-train.array_record-00000-of-00001").unlink()
    prepared_builder("digits", str(tmp_path / "sets"))
    assert sorted(path.name for path in folder.iterdir()) == names and content.is_whole(folder)
    assert rows_of(folder) == before and len(before) == 1297


def rows_of(folder) -> list:
    """Return the rows of the digits' train split. How they are compressed differs by chance."""
    rows = builder_from_directory(str(folder)).as_data_source("train")
    return [(row["image"].tobytes(), int(row["label"])) for row in rows]


def test_digits_that_cannot_be_made_again(tmp_path, monkeypatch):
    """In a folder that cannot be written, a set of an older karpjax serves, a damaged one not."""
    def prepare_once(*arguments, **options):
        raise UserError("cannot write")
    monkeypatch.setattr(tfds, "prepare_once", prepare_once)
    folder = tmp_path / "sets" / "digits" / "1.0.0"
    shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "digits", folder.parent)
    flip(folder / content.MANIFEST)
    with pytest.raises(UserError, match="cannot write"):
        prepared_builder("digits", str(tmp_path / "sets"))
    (folder / content.MANIFEST).unlink()
    assert prepared_builder("digits", str(tmp_path / "sets")).info.splits["train"].num_examples


# ------------------------------------------------------------------------- known by their content

def write_folder(root) -> pathlib.Path:
    for split, n in (("train", 4), ("test", 2)):
        for name in ("ants", "bees"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(IMAGES[i]).save(root / split / name / f"{i}.png")
    return root


def touch(folder) -> None:
    for path in folder.rglob("*.png"):
        os.utime(path, (1_500_000_000, 1_500_000_000))


def test_a_folder_is_its_pictures(tmp_path, monkeypatch):
    """New file times, another place of the pictures or of the sets make no other set."""
    folder, reads = write_folder(tmp_path / "raw"), []
    read = folders.hash_file
    monkeypatch.setattr(folders, "hash_file", lambda path: reads.append(path) or read(path))
    first = source_of(tmp_path, name="", dir=str(folder))
    assert len(reads) == 12 and first.spec["set"].startswith("folder_")
    assert source_of(tmp_path, name="", dir=str(folder)).spec == first.spec and len(reads) == 12
    touch(folder)
    moved = folder.rename(tmp_path / "moved")
    assert source_of(tmp_path, name="", dir=str(moved)).spec == first.spec and len(reads) == 24
    assert source_of(tmp_path, "other", name="", dir=str(moved)).spec == first.spec
    kept = next((tmp_path / "sets").glob(".folder_*"))
    flip(kept)
    assert folders.name_of_folder(moved, tmp_path / "sets") == first.spec["set"]
    Image.fromarray(255 - IMAGES[0]).save(moved / "train" / "ants" / "0.png")
    assert source_of(tmp_path, name="", dir=str(moved)).spec["content"] != first.spec["content"]


def content_after(tmp_path, change: str) -> str:
    """Return the content of the images after a change, prepared in a place of its own."""
    images, options = IMAGES.copy(), {}
    if change == "a pixel":
        images[3, 2, 1, 0] ^= 1
    order = [1, 0, *range(2, 8)] if change == "the order" else range(8)
    if change == "a name":
        options = {"classes": ["a", "b"]}
    make(tmp_path, images[order], LABELS[order], sets=change, **options)
    return source_of(tmp_path, change).spec["content"]


@pytest.mark.parametrize("mutant", [False, True])
def test_content_is_the_rows(tmp_path, monkeypatch, mutant):
    """The mutant's hash looks at names and sizes alone."""
    if mutant:
        monkeypatch.setattr(content.RowHash, "add", lambda self, row: None)
    first = content_after(tmp_path, "nothing")
    assert content_after(tmp_path, "nothing new") == first
    same = [content_after(tmp_path, change) == first for change in ("a pixel", "the order")]
    assert same == [mutant, mutant] and content_after(tmp_path, "a name") != first


def test_what_a_start_reads():
    sizes = {"a.array_record-0": 40 << 20, "features.json": 900}
    assert content.read_at_start(sizes) == sorted(sizes)
    assert content.read_at_start({**sizes, "b.array_record-1": 40 << 20}) == ["features.json"]


def test_a_run_goes_on_with_its_data_wherever_it_lies(tmp_path):
    was = {"source": {"content": "a" * 64}, "config": {"data": {"data_dir": "here", "name": "x"}}}
    moved = kj.config(data={"data_dir": "there", "name": "x"})
    settings.check_same(was["config"], {"data": moved.data.to_dict()}, "run")
    check_data(moved, was, {"content": "a" * 64})
    with pytest.raises(UserError, match="data has changed .*content is bbbbbbbbbbbb"):
        check_data(moved, was, {"content": "b" * 64})
    for old, new in (({}, {"content": "a" * 64}), (was["source"], {})):  # of an older karpjax
        with pytest.raises(UserError, match="data.data_dir: 'here' -> 'there'"):
            check_data(moved, {**was, "source": old}, new)
        check_data(kj.config(data=was["config"]["data"]), {**was, "source": old}, new)
    with pytest.raises(UserError, match="another experiment: data.name: 'x' -> 'y'"):
        settings.check_same(was["config"], {"data": {"data_dir": "there", "name": "y"}}, "run")


@pytest.mark.full
def test_a_run_goes_on_with_its_pictures_elsewhere(tmp_path):
    """A run resumes on pictures that were copied to another place, with other times."""
    folder = shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "pictures",
                             tmp_path / "mine")

    def train(steps, folder, sets):
        config, task_file = config_of("finetune", steps=steps, **{
            "data.dir": str(folder), "data.data_dir": str(tmp_path / sets)})
        return fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    train(2, folder, "sets")
    touch(folder)
    summary = train(4, folder.rename(tmp_path / "moved"), "others")
    assert summary["resumed"] and summary["steps"] == 4
