"""Bad input, through the real command: one line (expected, found, fix) and exit code 2.

Nothing is left half-written.
"""
import io
import json
import pathlib
import shutil

from command import ROOT, TINY, changed, command, done, refused
import jax
from jax.sharding import SingleDeviceSharding
import numpy as np
import pytest

from karpjax.run import checkpoint, metrics

RETURN = 'return losses, {"accuracy": kj.mean(correct, batch["weight"])}, model_state'
LOSSES = '{"nll": kj.mean(nll, batch["weight"])}'
PAIR = "expected (losses, metrics, model_state), losses and metrics dicts of name -> (total, count)"


def train(folder, text: str, *flags: str, **options):
    """Run a config of this text in `folder`, into folder/run."""
    (folder / "tiny.py").write_text(text)
    return command("train", "--config=tiny.py", "--workdir=run", *flags, cwd=folder, **options)


def refused_untouched(folder, result, *words: str) -> None:
    """Check that a command was refused, and that it has begun no workdir."""
    refused(result, *words)
    assert not (folder / "run").exists()


# --------------------------------------------------------------------------------------- the config

@pytest.mark.parametrize("flag, fix", [("--config.stepz=3", "did you mean 'steps'?"),
                                       ("--config.batch_size=3", "did you mean 'data.batch_size'?"),
                                       ("--config.model.wdith=3", "did you mean 'width'?"),
                                       ("--config.nonsense=3", "known: accumulate, best,"),
                                       ("--config.optimizer.lr=3", "config.optimizer has no key "
                                        "'lr'; known: learning_rate, name"),
                                       ("--config.optimizer=adam", "a dict of learning_rate, name; "
                                        "change one of them, as in --config.optimizer.learning_rate"
                                        "=adam")])
def test_unknown_key_on_the_command_line(tmp_path, flag, fix):
    refused_untouched(tmp_path, train(tmp_path, TINY, flag), flag.split("=")[0], fix)


def test_unknown_flag(tmp_path):
    refused_untouched(tmp_path, train(tmp_path, TINY, "--wokdir=run"), "'wokdir'",
                      "Did you mean: workdir")


def test_slip_in_a_core_key_of_a_config_file(tmp_path):
    text = changed(TINY, ("log_every=2", "log_evry=2"))
    refused_untouched(tmp_path, train(tmp_path, text), "'log_evry'", "did you mean 'log_every'?")


@pytest.mark.parametrize("flag, expected", [
    ("--config.steps=1e3", "--config.steps=1000 (an int)"),
    ("--config.steps=many", "--config.steps=1000 (an int)"),
    ("--config.overfit=maybe", "give each key a value of its own type"),
    ("--config.model=cnn", "a dict of classes, layers, width; change one of them, as in "
     "--config.model.classes=cnn")])
def test_value_of_a_wrong_type(tmp_path, flag, expected):
    refused_untouched(tmp_path, train(tmp_path, TINY, flag), flag.split("=")[0], flag.split("=")[1],
                      expected)


@pytest.mark.parametrize("flag, expected", [
    ("--config.steps=0", "at least 1, found 0"),
    ("--config.precision=fp16", "one of 'fp32', 'bf16', found 'fp16'"),
    ("--config.best=accuracy", "'max validation/accuracy', found 'accuracy'"),
    ("--config.optimizer.name=adamm", "did you mean 'adam'?"),
    ("--config.mesh.fsdp=3", "data x fsdp must be the number of devices, 1; found")])
def test_value_out_of_range(tmp_path, flag, expected):
    refused_untouched(tmp_path, train(tmp_path, TINY, flag), "config.", expected)


def test_missing_config_file(tmp_path):
    result = command("train", "--config=configs/digits_cn.py", f"--workdir={tmp_path / 'run'}")
    refused_untouched(tmp_path, result, "--config=configs/digits_cn.py: no such file",
                      "did you mean 'digits_cnn'?")


def test_batch_size_not_divisible_by_devices(tmp_path):
    result = train(tmp_path, TINY, "--devices=3")
    refused_untouched(tmp_path, result,
                      "multiple of devices x accumulate = 3 x 1, found 8; use 6 or 9")


# ----------------------------------------------------------------------------------------- the task

def test_task_file_with_a_syntax_error(tmp_path):
    text = changed(TINY, ("def build(config):", "def build(config:"))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "def build(config:" in row)
    refused_untouched(tmp_path, train(tmp_path, text), f"tiny.py:{line}: ", "was never closed")


def test_task_module_with_a_syntax_error(tmp_path):
    (tmp_path / "my_task").mkdir()
    (tmp_path / "my_task" / "poly.py").write_text("import jax\n\ndef build(config)\n    pass\n")
    text = changed(TINY, ("kj.config(", 'kj.config(task="my_task.poly", '))
    result = train(tmp_path, text, path=tmp_path)
    refused_untouched(tmp_path, result, "config.task = 'my_task.poly'", "poly.py:3: expected ':'")


def test_task_that_does_not_exist(tmp_path):
    text = changed(TINY, ("kj.config(", 'kj.config(task="clasify", '))
    refused_untouched(tmp_path, train(tmp_path, text), "config.task = 'clasify': no module",
                      "karpjax/tasks")


@pytest.mark.parametrize("edit, expected", [
    ((RETURN, 'return {"nll": nll}, {}, model_state'),
     ("'nll' has shape (8,)", PAIR, "karpjax.mean(values, weight)")),
    ((RETURN, 'return {"nll": (nll, batch["weight"])}, {}, model_state'),
     ("'nll' has shape [(8,), (8,)]", PAIR)),
    ((RETURN, "return nll.mean()"), ("the loss function returned", PAIR)),
    ((RETURN, "return {}, {}, model_state"), ("returned no loss: losses is {}", PAIR)),
    ((RETURN, RETURN.replace('"accuracy"', '"nll"')), ("['nll'] twice", "rename it")),
    ((RETURN, RETURN.replace('"accuracy"', '"grad_norm"')),
     ("reserved name", "'grad_norm'", "rename it")),
    ((RETURN, RETURN.replace("model_state", "{}")),
     ("another model_state", "return karpjax.apply's second value")),
    ((LOSSES, LOSSES.replace("mean(nll, ", "mean(nll[:4], ")),
     ("karpjax.mean: expected a weight", "(4,)", "found (8,)")),
    (("    return kj.Task(model, source, loss, inputs=\"x\")\n", "    return model\n"),
     ("build(config) returned MLP", "expected a karpjax.Task")),
    (("def build(config)", "def biuld(config)"),
     ("no build(config) in it", "define build(config) -> karpjax.Task")),
], ids=["vector", "vector pair", "scalar", "no loss", "name clash", "reserved name", "model state",
        "weight", "not a task", "no build"])
def test_task_that_breaks_the_contract(tmp_path, edit, expected):
    refused_untouched(tmp_path, train(tmp_path, changed(TINY, edit)), *expected)


# ----------------------------------------------------------------------------------------- the data

PICTURES = """
import karpjax

def get_config():
    return karpjax.config(task="classify", steps=8, log_every=1, save_every=1,
                          model=dict(name="cnn", width=2),
                          data=dict(name="pictures", data_dir="tfds", train="train", batch_size=4,
                                    on_device="auto"))
"""


def prepare_pictures(folder, damaged: int | None = None, classes: int = 3) -> None:
    """Write a TFDS set of 16 PNG images. Record `damaged` holds something else."""
    import PIL.Image
    import tensorflow_datasets as tfds

    def png(value):
        file = io.BytesIO()
        PIL.Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, "PNG")
        return file.getvalue()

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=classes)}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(16):
                yield i, {"image": png(i)[:40] if i == damaged else png(i), "label": i % classes}

    Pictures(data_dir=folder / "tfds", file_format="array_record").download_and_prepare()


def test_missing_data_set(tmp_path):
    result = train(tmp_path, changed(PICTURES, ('"pictures"', '"picturs"')))
    refused_untouched(tmp_path, result, "data set 'picturs'", "is not prepared in tfds",
                      "check the name, or prepare it")


def test_missing_split(tmp_path):
    prepare_pictures(tmp_path)
    result = train(tmp_path, PICTURES, "--config.data.train=training")
    refused_untouched(tmp_path, result, "has no split 'training'; it has ['train']")


def test_slip_in_a_key_of_the_data(tmp_path):
    text = changed(PICTURES, ("train=", "trian="))
    refused_untouched(tmp_path, train(tmp_path, text),
                      "config.data.trian: no such key; did you mean 'train'?")


def test_unreadable_image_on_the_device(tmp_path):
    prepare_pictures(tmp_path, damaged=9)
    result = train(tmp_path, PICTURES, "--config.data.on_device=yes")
    refused_untouched(tmp_path, result, "data set pictures/train: record ", "cannot be read",
                      "prepare the set again")


def test_unreadable_image_fed_from_the_host(tmp_path):
    """An unreadable image that is met on the way leaves the checkpoints before it whole."""
    prepare_pictures(tmp_path, damaged=9)
    result = train(tmp_path, PICTURES, "--config.data.on_device=no")
    refused(result, "data set pictures/train: record ", "cannot be read", "prepare the set again")
    assert whole(tmp_path / "run")


def test_label_out_of_range(tmp_path):
    prepare_pictures(tmp_path, classes=12)
    features = next(tmp_path.rglob("features.json"))  # as if the set had been prepared for ten
    features.write_text(changed(features.read_text(), ('"numClasses": "12"', '"numClasses": "10"')))
    result = train(tmp_path, PICTURES)
    refused_untouched(tmp_path, result, "data set 'pictures': a label is 1", "expected 0 to 9",
                      "prepare the set again")


@pytest.mark.parametrize("config, edits, words", [
    ("mlm_tiny", [('path=""', 'path="empty.txt"')],
     ["empty.txt: 0 bytes make 0 rows of 64, expected at least 10"]),
    ("mlm_tiny", [('path=""', 'path="novel.txt"')],
     ["no text file 'novel.txt'; leave it empty for the embedded novel"]),
    ("mlm_tiny", [("heads=4)", 'heads=4, positions="learned", context=32)')],
     ["a row of 64 tokens is longer than the model's context, 32", "smaller --length"]),
    ("imdb_sentiment", [('name="imdb"', 'name="imdb_packed"')],
     ["'imdb_packed' has no labels; prepare its texts without --pack"]),
    ("imdb_sentiment", [('name="imdb"', 'name="cifar10"')],
     ["'cifar10': expected tokens and their tokenizer"])])
def test_texts(tmp_path, config, edits, words):
    (tmp_path / "empty.txt").write_text("")
    text = changed((ROOT / "configs" / f"{config}.py").read_text(), *edits)
    refused_untouched(tmp_path, train(tmp_path, text), *words)


# -------------------------------------------------------------------------------------- the workdir

@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Return a folder with a run of tiny.py that stopped at step 4 of 8, its only checkpoint."""
    folder = tmp_path_factory.mktemp("half")
    done(train(folder, TINY, "--config.steps=4"))
    return folder


@pytest.fixture
def run(half, tmp_path):
    return pathlib.Path(shutil.copytree(half, tmp_path, dirs_exist_ok=True))


def whole(workdir) -> list[int]:
    """Return the steps of a workdir's checkpoints.

    Raises:
      an error if their parameters cannot be read or lack their checksums.
    """
    here, folders = SingleDeviceSharding(jax.devices()[0]), (workdir / "checkpoints").iterdir()
    folders = {int(folder.name): folder for folder in folders if folder.name.isdigit()}
    for folder in folders.values():
        params = {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=here)
                  for name, shape in checkpoint.stored_shapes(folder).items()
                  if name.startswith("params/")}
        assert checkpoint.load_named(folder, params).keys() == params.keys() != set()
    return sorted(folders)


def logged_steps(workdir) -> list[int]:
    """Return the steps of the rows with a training loss."""
    return [row["step"] for row in metrics.read_rows(workdir) if "train/loss" in row]


def test_workdir_of_another_config(run):
    before = (run / "run" / "config.json").read_text()
    result = train(run, TINY, "--config.optimizer.learning_rate=0.03", "--config.model.width=9")
    refused(result, "holds another experiment", "optimizer.learning_rate: 0.01 -> 0.03",
            "model.width: 8 -> 9", "use a new --workdir, or the old values")
    assert (run / "run" / "config.json").read_text() == before and whole(run / "run") == [4]


def test_what_may_change_in_a_workdir(run):
    flags = ["steps=8", "log_every=1", "mesh.data=2", "accumulate=2", "save_every=2"]
    done(train(run, TINY, "--devices=2", *[f"--config.{flag}" for flag in flags]))
    summary = json.loads((run / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["resumed"], summary["device"]["count"]) == (8, True, 2)
    assert json.loads((run / "run" / "config.json").read_text())["accumulate"] == 2
    assert logged_steps(run / "run") == [2, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("limit", [
    pytest.param(1500, id="metrics", marks=pytest.mark.full), pytest.param(4000, id="checkpoint")])
def test_full_disk(run, limit):
    """A full disk is one line, and the next start goes on.

    A limit on the size of files stands for it: writing beyond fails with a real system error.
    """
    small = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    # A real process: in a fork TensorStore's threads do not come back from the error.
    result = train(run, TINY, "--config.log_every=1", before=small, real=True)
    line = refused(result, "File too large", "make room", "start the same")
    assert ("a checkpoint could not be written" in line) == (limit == 4000)
    assert whole(run / "run") == [4]
    done(train(run, TINY, "--config.log_every=1"))
    assert whole(run / "run") == [4, 8]
    assert not list((run / "run" / "checkpoints").glob("*tmp*"))
    assert logged_steps(run / "run") == [2, 4, 5, 6, 7, 8]


def test_workdir_that_cannot_be_written(tmp_path):
    """A workdir below a file cannot be written. Without permission the super-user still could."""
    (tmp_path / "file").write_text("mine")
    result = train(tmp_path, TINY, "--workdir=file/run")
    refused_untouched(tmp_path, result, "--workdir=",
                      "file/run cannot be written (Not a directory); choose another folder")
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------------ starting from another run

@pytest.mark.parametrize("flags, expected", [
    (["--config.init_from=nowhere"],
     ["nowhere: no checkpoint here", "a workdir with checkpoints/STEP in it"]),
    (["--config.init_from=run", "--config.model.layers=2"],
     ["missing in the checkpoint: ['hidden1/bias', 'hidden1/kernel']", "unexpected in it: none",
      "what is meant to differ goes into config.init_skip"]),
], ids=["no checkpoint", "bigger model"])
def test_start_from_a_run_that_does_not_fit(run, flags, expected):
    refused(train(run, TINY, "--workdir=second", *flags), *expected)
    assert not (run / "second").exists()
