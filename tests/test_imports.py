"""Imports say what they leave out, splits are held to train, texts are read alike everywhere."""
import json
import pathlib

from command import TINY, changed
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
from test_corpora import REVIEWS, jsonl, make, source_of
from test_prepare import image_set, npz_of, read_back, write_folder, write_idx

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets import tokenizer
from karpjax.datasets.formats import prepare
from karpjax.datasets.text import import_texts
from karpjax.datasets.tfds import open_split, prepared_builder
from karpjax.prepare import main
from karpjax.run.config_file import add_data_key, load_config

# ----------------------------------------------------------------------------- what is left out


def untidy(raw: pathlib.Path) -> None:
    """Write a folder with everything in it that is not read."""
    write_folder(raw)
    picture = raw / "train" / "ants" / "0.png"
    for name in ("train/ants/more/deep/a.png", "train/b.png", "c.png", "train/ants/._0.png"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(picture.read_bytes())
    (raw / "train" / "bees" / "gone.png").symlink_to("nowhere.png")
    (raw / "train" / "wasps").symlink_to("no_folder")
    (raw / "train" / "bees" / "notes.txt").write_text("x")
    (raw / "train" / ".cache").mkdir()
    (raw / "__MACOSX" / "train").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(raw / "val" / "bees" / "grey.png")


LEFT_OUT = [
    "1 pictures in folders below a class's are left out: train/ants/more/deep/a.png",
    "2 pictures outside a class's folder are left out: c.png, train/b.png",
    "2 links that lead nowhere are left out: train/wasps, train/bees/gone.png",
    "2 hidden folders are left out: __MACOSX, train/.cache",
    "2 files that are no pictures (.jpg, .jpeg, .png, .bmp, .gif, .webp) are left out: "
    "train/ants/._0.png, train/bees/notes.txt",
    "1 grey pictures become RGB: grey.png"]


def test_a_folder_says_what_it_leaves_out(tmp_path, capsys):
    """One line has the counts of rows and of all that was left out. --strict makes it an error."""
    untidy(tmp_path / "raw")
    with pytest.raises(UserError) as error:
        prepare("imagefolder", tmp_path / "raw", "a", str(tmp_path / "tfds"), strict=True)
    assert not (tmp_path / "tfds").exists()
    capsys.readouterr()
    prepare("imagefolder", tmp_path / "raw", "a", str(tmp_path / "tfds"))
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/raw: 6 train, 7 val; 2 classes, shuffled; three channels")
    for part in LEFT_OUT:
        assert part in line and part in str(error.value), part
    assert "6 of 7 rows of val stand in train too" in line


def test_a_tidy_folder_is_strict(tmp_path, capsys):
    write_folder(tmp_path / "raw")
    report = prepare("imagefolder", tmp_path / "raw", "a", str(tmp_path / "tfds"), strict=True)
    assert report["examples"] == {"train": 6, "val": 6}


def test_texts_say_what_they_leave_out(tmp_path, capsys):
    """Class folders beside a stray file, other files, other keys and links are counted."""
    raw = tmp_path / "raw"
    for name in ("neg", "pos"):
        (raw / "train" / name).mkdir(parents=True)
        for i in range(3):
            (raw / "train" / name / f"{i}.txt").write_text("A film.")
    jsonl(raw / "train" / "a.jsonl", [{**row, "id": i} for i, row in enumerate(REVIEWS)])
    (raw / "train" / "links.csv").write_text("x")
    (raw / "test.txt").symlink_to("nowhere")
    jsonl(raw / "__MACOSX" / "train" / "b.jsonl", REVIEWS)
    make(tmp_path, pack=True)
    line, = capsys.readouterr().out.splitlines()
    for part in ("6 texts in folders below a split's, as of classes, are left out",
                 "train/neg/0.txt, train/neg/1.txt", "1 links that lead nowhere are left out",
                 "1 files that are no texts (.txt, .jsonl) are left out: links.csv",
                 "1 hidden files or folders are left out: __MACOSX",
                 "40 values by other names than text and label are not read: id",
                 "; a tokenizer of the texts in train; packed"):
        assert part in line, part
    with pytest.raises(UserError, match="--strict: .*6 texts in folders below"):
        make(tmp_path, "strict", pack=True, strict=True)
    assert not (tmp_path / "tfds" / "strict").exists()


def test_an_archive_says_what_it_leaves_out(tmp_path, capsys):
    npz_of(y_test=np.arange(2), names=np.zeros(3))(tmp_path / "set.npz")
    prepare("npz", tmp_path / "set.npz", "a", str(tmp_path / "tfds"))
    line, = capsys.readouterr().out.splitlines()
    assert "4 train; 4 classes, named by their numbers" in line
    assert "2 other arrays are left out: names, y_test" in line


def test_idx_says_which_files_it_reads(tmp_path, capsys):
    """Of a file and its packed copy the first is read, and the other is named."""
    write_idx(tmp_path / "raw", image_set(5, (6, 5)), image_set(2, (6, 5)))
    (tmp_path / "raw" / "train-labels-idx1-ubyte.gz.old").write_text("x")
    (tmp_path / "raw" / "readme.html").write_text("x")
    prepare("idx", tmp_path / "raw", "a", str(tmp_path / "tfds"), classes=["a", "b", "c"])
    assert "2 other files are left out: readme.html, train-labels-idx1-ubyte.gz.old" in \
        capsys.readouterr().out


@pytest.mark.parametrize("name", ["all", "my notes", "train[1]", "a+b", "train.part2"])
def test_a_split_that_could_not_be_opened(name, tmp_path):
    for split in ("train", name):
        jsonl(tmp_path / "raw" / f"{split}.jsonl", REVIEWS)
    with pytest.raises(UserError, match="expected a name of letters, digits, _ and -, and not all"):
        make(tmp_path)
    assert not (tmp_path / "tfds").exists()


def test_every_broken_picture_is_named(tmp_path, capsys):
    """An error has the first ten and their number. --skip_broken counts them."""
    write_folder(tmp_path / "raw", n=8)
    broken = sorted((tmp_path / "raw").glob("*/*/[0-2].png"))
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="12 cannot be read: ") as error:
        prepare("imagefolder", tmp_path / "raw", "a", str(tmp_path / "tfds"))
    names = [str(file.relative_to(tmp_path / "raw")) for file in broken]
    listed = str(error.value).split("cannot be read: ")[-1]
    assert listed == f"{', '.join(names[:10])}, ...; --skip_broken leaves them out"
    capsys.readouterr()
    flags = ["--format=imagefolder", f"--from={tmp_path}/raw", "--name=a",
             f"--data_dir={tmp_path}/tfds"]
    main([*flags, "--skip_broken"])
    *_, line, last = capsys.readouterr().out.splitlines()
    assert "12 pictures that cannot be read are left out: train/ants/0.png" in line
    # The last line is what was made, and nothing speaks of a folder that is gone.
    assert json.loads(last)["examples"] == {"train": 10, "val": 10}
    assert ".preparing" not in line
    with pytest.raises(UserError, match="--strict: .*12 pictures that cannot be read"):
        main([*flags, "--skip_broken", "--strict", "--overwrite"])
    assert len(read_back("a", tmp_path / "tfds", resize=(8, 8))[1]) == 10
    with pytest.raises(UserError, match="--skip_broken means nothing for --format=npz"):
        main(["--format=npz", *flags[1:], "--skip_broken"])


@pytest.mark.parametrize("split", ["test", "val", "valid", "validation", "dev", "eval"])
def test_a_tokenizer_sees_no_held_out_text(split, tmp_path):
    jsonl(tmp_path / "raw" / "train.jsonl", REVIEWS)
    alone = import_texts(tmp_path / "raw", 16, 300).vocabulary
    jsonl(tmp_path / "raw" / f"{split}.jsonl", [{"text": "Zanzibar " * 9, "label": 1}])
    assert import_texts(tmp_path / "raw", 16, 300).vocabulary == alone


# --------------------------------------------------------------------------- splits like train

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
TRAIN = {"image": IMAGES[:4], "label": np.arange(4)}
UNLIKE = {
    "another height": (dict(image=IMAGES[4:, :6]),
                       r"column 'image': expected rows as in train, uint8 of \(8, 8, 3\), found "
                       r"uint8 of \(6, 8, 3\)"),
    "another dtype": (dict(image=IMAGES[4:].astype(np.float32)), r"found float32 of \(8, 8, 3\)"),
    "a label too high": (dict(label=np.array([0, 4])), "labels of 0 to 3, found 0 to 4"),
    "a label below 0": (dict(label=np.array([0, -1])), "labels of 0 and more, found -1 to 0"),
    "labels of floats": (dict(label=np.zeros(2, np.float32)), "expected rows as in train, int32"),
    "no labels": (dict(label=None), r"the columns of train \(image, label\), found image; missing"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_split_unlike_train(case):
    changed, message = UNLIKE[case]
    columns = {"image": IMAGES[4:], "label": np.arange(2), **changed}
    columns = {name: column for name, column in columns.items() if column is not None}
    with pytest.raises(UserError, match=f"split 'test'.*{message}") as error:
        kj.sources.arrays(TRAIN, batch_size=2, splits={"test": columns}).init(jax.random.key(0))
    assert "\n" not in str(error.value)
    if "label" in columns and columns["label"].dtype != np.float32 and "image" not in changed:
        return
    rows = [{name: column[i] for name, column in each.items()}
            for each in (TRAIN, columns) for i in range(2)]
    with pytest.raises(UserError, match=f"split 'test'.*{message}"):
        kj.sources.Loader(rows[:2], batch_size=2, splits={"test": rows[2:]})


def test_labels_of_train():
    with pytest.raises(UserError, match="split 'train': expected labels of 0 and more, found -1 "):
        kj.sources.arrays({**TRAIN, "label": np.arange(4) - 1}, batch_size=2).init(
            jax.random.key(0))
    with pytest.raises(UserError, match="split 'train': expected labels of 0 to 2, found 0 to 3"):
        kj.sources.arrays(TRAIN, batch_size=2, classes=3)
    with pytest.raises(UserError, match="column 'label': expected numbers, found <U1; number the"):
        kj.sources.arrays({**TRAIN, "label": np.array(list("abca"))}, batch_size=2)
    other = {"image": IMAGES[4:], "label": np.array([0, 4])}
    assert kj.sources.arrays(TRAIN, batch_size=2, splits={"test": other}, classes=5).splits == \
        ("test",)


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 1, 28, 28), (4, 4, 20, 30)])
def test_channels_first(shape, tmp_path):
    """They are refused with the fix, in a user's arrays, records and archives."""
    images = np.zeros(shape, np.uint8)
    says = r"expected images \(N, H, W, C\), found .* give x.transpose\(0, 2, 3, 1\)"
    with pytest.raises(UserError, match=says):
        kj.sources.arrays({"x": images}, batch_size=2)
    with pytest.raises(UserError, match=says):
        kj.sources.Loader([{"x": image} for image in images], batch_size=2)
    npz_of(x_train=images)(tmp_path / "set.npz")
    with pytest.raises(UserError, match=says):
        prepare("npz", tmp_path / "set.npz", "a", str(tmp_path / "tfds"))
    right = images.transpose(0, 2, 3, 1)
    assert kj.sources.arrays({"x": right}, batch_size=2).example["x"].shape == (1, *right.shape[1:])


def test_archives_are_held_to_train(tmp_path):
    """A label that train lacks is a class without examples, unless the classes are named."""
    npz_of(x_test=image_set(2)[0], y_test=np.array([1, 9]))(tmp_path / "set.npz")
    with pytest.raises(UserError, match="test: expected labels of 0 to 3, found 1 to 9"):
        prepare("npz", tmp_path / "set.npz", "a", str(tmp_path / "tfds"))
    names = [f"class {i}" for i in range(10)]
    assert prepare("npz", tmp_path / "set.npz", "a", str(tmp_path / "tfds"),
                   classes=names)["classes"] == 10


def test_rows_that_train_has_too(tmp_path, capsys):
    """A warning counts them, whatever their labels, and no others."""
    both = {"image": IMAGES[2:6], "label": np.zeros(4, np.int64)}
    source = kj.sources.arrays(TRAIN, batch_size=2, splits={"validation": both})
    assert source.notes() == ["warning: 2 of 4 rows of validation stand in train too: measured on "
                              "them, a model has seen its answers"]
    source = kj.sources.arrays(TRAIN, batch_size=2, splits={"test": {"image": IMAGES[4:],
                                                                     "label": np.arange(2)}})
    assert source.notes() == []
    jsonl(tmp_path / "raw" / "train.jsonl", REVIEWS)
    jsonl(tmp_path / "raw" / "test.jsonl", [*REVIEWS[:3], {"text": "Another.", "label": 1}])
    make(tmp_path)
    assert "3 of 4 rows of test stand in train too" in capsys.readouterr().out


@pytest.mark.parametrize("part, says", [
    ("train[:0]", r"has no rows in 'train\[:0\]'; its rows: test 300, train 1297"),
    ("test[10:5]", r"has no rows in 'test\[10:5\]'; its rows"),
    ("train[5000:]", r"has no part 'train\[5000:\]' \(Requested slice \[5000:1297\]"),
    ("train[a:b]", r"has no part 'train\[a:b\]'"),
    ("trian[:3]", r"has no split 'trian'; it has \['test', 'train', 'validation'\]"),
    ("train+test[10:5]", r"has no rows in 'test\[10:5\]'"),
    ("test+trian", r"has no split 'trian'")])
def test_a_part_that_cannot_be_opened(part, says):
    """An empty part, a part that is too long, and a name that there is none are told apart."""
    with pytest.raises(UserError, match=says) as error:
        open_split(prepared_builder("digits"), part)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------ texts at both ends

ODD = ["a [SEP] b", "[CLS]", "[PAD] [PAD]", "x [MASK] y"]


@pytest.mark.parametrize("cased", [True, False])
def test_names_of_special_tokens_are_read_alike(cased, tmp_path):
    """A classifier's source encodes a text to the row that was prepared of it."""
    jsonl(tmp_path / "raw" / "train.jsonl",
          [{"text": text, "label": i % 2} for i, text in enumerate(ODD)])
    make(tmp_path, length=64, lowercase=not cased)
    data = ConfigDict(dict(name="reviews", data_dir=str(tmp_path / "tfds"), train="train",
                           batch_size=1, on_device="yes"))
    source = kj.sources.text(data, masks=False)
    rows = sorted(map(tuple, source.data["train"]["tokens"].tolist()))
    assert sorted(map(tuple, source.encode(ODD).tolist())) == rows
    # Where masks are filled in, [MASK] is the mask, and the others are text.
    filled = kj.sources.text(data).encode(ODD)
    np.testing.assert_array_equal(filled[:3], source.encode(ODD[:3]))
    assert (filled == source.vocabulary.mask).sum(1).tolist() == [0, 0, 0, 1]
    assert (filled == source.vocabulary.sep).sum(1).tolist() == [1, 1, 1, 1]
    text = source.vocabulary.decode(source.encode(ODD[:1])[0])
    assert ("a [SEP] b" if cased else "a [sep] b") in text


def test_half_a_character_is_one_line():
    vocabulary = tokenizer.vocabulary_of(tokenizer.train_tokenizer(["a text"], 300))
    with pytest.raises(UserError, match=r"text 1: half of a surrogate pair \(character 1\)"):
        vocabulary.encode(["a", "b\ud83d"], 8)


def test_a_text_that_is_cut_is_said():
    vocabulary = tokenizer.vocabulary_of(tokenizer.train_tokenizer(["a text"], 300))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than a row of 8 tokens; their"):
        assert vocabulary.encode(["a", "b" * 20], 8).shape == (2, 8)


def test_class_names_of_texts(tmp_path):
    """They are kept with the run, and stand where the data set does not."""
    jsonl(tmp_path / "raw" / "train.jsonl",
          [{"text": f"Text {i}.", "label": ("good", "bad")[i % 2]} for i in range(8)])
    make(tmp_path)
    source = source_of(tmp_path, test="")
    assert source.class_names == ["bad", "good"]
    elsewhere = source_of(tmp_path, name="gone", described=source.spec)
    assert elsewhere.class_names == ["bad", "good"]
    packed = make(tmp_path, "packed", pack=True)
    assert packed["classes"] == 0 and source_of(tmp_path, "packed", test="").class_names == []


# ------------------------------------------------------------------------------- keys of data

def test_known_keys_of_data_that_a_config_lacks():
    """A command gives them to any config with data, each as its own kind of value."""
    config, _ = load_config("digits_cnn")
    for flag in ("resize=(16,16)", "crop=12", "channels=3", "data_dir=007"):
        assert add_data_key(config, f"--config.data.{flag}")
    assert (config.data.resize, config.data.crop, config.data.channels) == ((16, 16), 12, 3)
    assert config.data.data_dir == "007"
    assert not add_data_key(config, "--config.data.test=test[:10]")  # there: absl changes it
    assert not add_data_key(config, "--config.data.resise=(16,16)")
    assert not add_data_key(config, "--config.steps=3")
    del config.data["resize"]
    with pytest.raises(UserError, match=r"resize=big: expected numbers, as in --config.data.resize="
                                        r"\(64,64\)"):
        add_data_key(config, "--config.data.resize=big")


def test_a_label_below_0_ends_a_run_at_its_start(tmp_path):
    """Nothing is written."""
    text = changed(TINY, (".argmax(1).astype(np.int32)", ".argmax(1).astype(np.int32) - 1"))
    (tmp_path / "mine.py").write_text(text)
    config, task_file = load_config(tmp_path / "mine.py")
    with pytest.raises(UserError, match="split 'train': expected labels of 0 and more, found -1 "):
        kj.fit(config, tmp_path / "run", task_file=task_file)
    assert not (tmp_path / "run").exists()
