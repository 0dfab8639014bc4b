"""Paths that users give: ~ is their home, and what must be here is not sought elsewhere."""
import os

import numpy as np
import pytest
from test_durable_data import IMAGES, LABELS

from karpjax import UserError
from karpjax.core import files
from karpjax.datasets.account import Account
from karpjax.datasets.text import leave_out, read_tokenizer
from karpjax.games import record
from karpjax.launch.local import launch
from karpjax.prepare import main as prepare
from karpjax.run.config_file import find_config
from karpjax.run.export import export
from karpjax.run.published import into_file
from karpjax.slices import check_plot
from karpjax.sources.text import bytes_of_a_file
from karpjax.tasks import imitate

import karpjax as kj

ARRAYS = {"x": np.arange(3.0)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Make a home, and a working folder that must stay empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not os.listdir(tmp_path / "here")


def text_source(path):
    return bytes_of_a_file(kj.config(data=dict(path=path, length=4, batch_size=2)).data, None)


# a call with a path, by the name that the error says
CALLS = {
    "weights": files.read_arrays,
    "--to": lambda path: into_file("nowhere", path, "newest"),
    "--to ": lambda path: export("nowhere", path),
    "--to  ": lambda path: record.main(["--simulations=1", f"--to={path}"]),
    "--tokenizer": read_tokenizer,
    "--without": lambda path: leave_out({}, path, Account()),
    "config.data.path": text_source,
    "config.data.file": lambda path: imitate.read(path, None, None),
    "config.data.dir": lambda path: kj.sources.images(
        kj.config(data=dict(dir=path, train="train", batch_size=2)).data),
    "--from": lambda path: prepare([f"--from={path}", "--format=npz", "--name=mine"]),
    "--config": find_config,
    "--workdir": lambda path: launch({"processes": 1, "devices-per-process": 1},
                                     [f"--workdir={path}"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_path_elsewhere(name):
    with pytest.raises(UserError, match=f"^{name.strip()} = gs://bucket/file.npz: expected a path "
                                        "on this machine"):
        CALLS[name]("gs://bucket/file.npz")


def test_data_sets_elsewhere(home):
    np.savez(home / "mine.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(UserError, match="prepared in a local folder"):
        prepare([f"--from={home}/mine.npz", "--format=npz", "--name=mine", "--data_dir=gs://b/s"])


@pytest.mark.parametrize("name", ["sets [1]", "sets*", "sets?"])
def test_a_folder_of_data_sets_that_reads_as_a_pattern(name, home):
    """TFDS would find nothing in it, or the sets of another."""
    np.savez(home / "mine.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(UserError, match=r"expected a path without \[, \* and \?"):
        prepare([f"--from={home}/mine.npz", "--format=npz", "--name=m",
                 f"--data_dir={home / name}"])
    with pytest.raises(UserError, match=r"expected a path without \[, \* and \?"):
        kj.sources.images(kj.config(data=dict(name="digits", data_dir=str(home / name),
                                              train="train", batch_size=2)).data)


def test_home(home):
    """Each finds what is at home, or writes there."""
    (home / "tokens.json").write_text("{}")
    (home / "text.txt").write_text("A text of some letters. " * 4)
    assert read_tokenizer("~/tokens.json") == "{}"
    assert text_source("~/text.txt").num_examples
    assert leave_out({"test": ["kept"]}, "~/text.txt", Account()) == {"test": ["kept"]}
    files.write_arrays(files.check_new("~/new.npz"), ARRAYS)
    assert (files.read_arrays("~/new.npz")["x"] == ARRAYS["x"]).all()
    assert check_plot(files.local("~/plot.png", "--plot")) == home / "plot.png"
    np.savez(home / "mine.npz", x_train=IMAGES, y_train=LABELS)
    prepare(["--from=~/mine.npz", "--format=npz", "--name=mine", "--data_dir=~/sets"])
    assert os.listdir(home / "sets") == ["mine"]
