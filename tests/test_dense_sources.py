"""Sources of boxes and masks, from files to what a batch holds: scales, crowds, margins, faults."""
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
from test_objects import BOXES, CLASSES, SIZES, coco, masks, picture, voc, yolo

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.datasets.formats import prepare
from karpjax.sources.letterbox import VOID, fitted, letterbox_mask, listed
from karpjax.sources.scenes import scenes

SIZE = (48, 60)


def source_of(folder, make, name: str, **data):
    """Return the source of a prepared set, evaluated on train."""
    default = dict(name=name, data_dir=str(folder / "tfds"), train="train", test="train",
                   batch_size=3, size=SIZE)
    return make(ConfigDict({**default, **data}))


def crowds(data):
    """Say that the first object is many, and that areas are halves of the boxes'."""
    for annotation in data["annotations"]:
        annotation |= {"area": 0.5 * annotation["bbox"][2] * annotation["bbox"][3]}
    data["annotations"][0]["iscrowd"] = 1


# ------------------------------------------------------------------------------------------- boxes

def test_objects_in_a_batch(tmp_path):
    """Corners are scaled with the picture, a crowd is no object to find, areas are the original's.
    """
    prepare("coco", coco(tmp_path / "raw", crowds), "pets", str(tmp_path / "tfds"))
    source = source_of(tmp_path, kj.sources.boxes, "pets", objects=4)
    (batch,) = map(source.preprocess, source.eval_batches("test"))
    by_size = {tuple(map(int, each)): i for i, each in enumerate(np.rint(
        np.asarray(batch["content"]) / np.asarray(batch["scale"])[:, ::-1]))}
    assert set(by_size) == set(SIZES.values()) and source.class_names == CLASSES
    for name, size in SIZES.items():
        row = {key: np.asarray(batch[key][by_size[size]]) for key in batch}
        H, W = fitted(size, SIZE)
        assert row["content"].tolist() == [H, W]
        assert row["scale"].tolist() == pytest.approx([W / size[1], H / size[0]])
        there = row["valid"] + row["crowd"] > 0
        expected = [np.array(box[:4]) * np.tile(row["scale"], 2) for box in BOXES[name]]
        assert there.sum() == len(expected) and not row["boxes"][~there].any()
        np.testing.assert_allclose(np.array(sorted(map(list, row["boxes"][there]))).reshape(-1, 4),
                                   np.array(sorted(map(list, expected))).reshape(-1, 4), atol=1e-3)
        sides = row["boxes"][there][:, 2:] - row["boxes"][there][:, :2]
        np.testing.assert_allclose(row["area"][there] * row["scale"].prod(),
                                   0.5 * sides.prod(axis=1), rtol=1e-3)
    assert batch["crowd"].sum() == 1 and batch["valid"].sum() == sum(map(len, BOXES.values())) - 1


def test_too_many_objects(tmp_path):
    prepare("coco", coco(tmp_path / "raw"), "pets", str(tmp_path / "tfds"))
    with pytest.raises(UserError, match="a picture has 2 objects; expected at most "
                                        "config.data.objects = 1: make it 2 or more"):
        source_of(tmp_path, kj.sources.boxes, "pets", objects=1)


def test_a_set_with_the_name_of_one_of_tfds(tmp_path):
    """TFDS has a "coco" with configs, which needs TensorFlow and would not see this one."""
    prepare("coco", coco(tmp_path / "raw"), "coco", str(tmp_path / "tfds"))
    assert source_of(tmp_path, kj.sources.boxes, "coco", objects=2).class_names == CLASSES


def rotated(file) -> None:
    """Save a picture again with a rotation in its EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(file).save(file, exif=exif)


@pytest.mark.parametrize("write, place", [
    (coco, "train2017"), (yolo, "images/train"), (voc, "JPEGImages"), (masks, "train")])
def test_what_is_odd_or_left_out_is_counted(write, place, tmp_path, capsys):
    """Boxes may have been drawn on the rotated picture, and one that nothing names is not read."""
    raw = write(tmp_path / "raw")
    rotated(raw / place / "a.png")
    picture(raw / place / "more.png", (20, 20), 9)
    own = {}
    if write is masks:
        (raw / place / "more.png").rename(raw / "train_masks" / "more.png")
        (raw / "val_masks").mkdir()
        own = {"classes": CLASSES}
    prepare(write.__name__, raw, "pets", str(tmp_path / "tfds"), **own)
    line = capsys.readouterr().out.splitlines()[0]
    assert "1 pictures with a rotation in EXIF (not applied): a.png" in line
    assert "more.png" in line and ("folders of masks" in line) == (write is masks)
    with pytest.raises(UserError, match="^--strict: .*rotation in EXIF"):
        prepare(write.__name__, raw, "others", str(tmp_path / "tfds"), strict=True, **own)


def test_a_broken_picture_is_left_out(tmp_path):
    raw = yolo(tmp_path / "raw")
    (raw / "images" / "train" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="--skip_broken leaves them out"):
        prepare("yolo", raw, "pets", str(tmp_path / "tfds"))
    summary = prepare("yolo", raw, "pets", str(tmp_path / "tfds"), skip_broken=True)
    assert summary["examples"] == {"train": 2} and summary["objects"] == {"train": 1}


@pytest.mark.parametrize("line, says", [
    (b"nan 0.5 0.5 0.1 0.1", "expected the number of a class, 0 or more, found nan"),
    (b"inf 0.5 0.5 0.1 0.1", "expected the number of a class, 0 or more, found inf"),
    (b"0 0.5 0.5 0.1 0.1 \xff", "UTF-8")])
def test_faults_of_lines(line, says, tmp_path):
    raw = yolo(tmp_path / "raw")
    (raw / "labels" / "train" / "b.txt").write_bytes(line)
    with pytest.raises(UserError, match=says):
        prepare("yolo", raw, "pets", str(tmp_path / "tfds"))


@pytest.mark.parametrize("place, key, value", [
    ("categories", "id", "3"), ("annotations", "image_id", [1]), ("images", "file_name", 7)])
def test_faults_of_kinds(place, key, value, tmp_path):
    def change(data):
        data[place][0][key] = value
    with pytest.raises(UserError, match=rf"{place}\[0\] has the {key} .*; expected"):
        prepare("coco", coco(tmp_path / "raw", change), "pets", str(tmp_path / "tfds"))


@pytest.mark.parametrize("area", [float("nan"), -1.0])
def test_faults_of_areas(area, tmp_path):
    def change(data):
        crowds(data)
        data["annotations"][1]["area"] = area
    with pytest.raises(UserError, match="an object has an area that is no number above 0"):
        prepare("coco", coco(tmp_path / "raw", change), "pets", str(tmp_path / "tfds"))


def test_a_class_twice(tmp_path):
    with pytest.raises(UserError, match="--classes: 2 classes have the name 'cat'"):
        prepare("voc", voc(tmp_path / "raw"), "pets", str(tmp_path / "tfds"),
                classes=["cat", "cat", "dog"])


# ------------------------------------------------------------------------------------------- masks

def test_masks_in_a_batch(tmp_path):
    """Each pixel is its nearest, and the margin has no class."""
    raw = masks(tmp_path / "raw")
    prepare("masks", raw, "rooms", str(tmp_path / "tfds"), classes=CLASSES)
    source = source_of(tmp_path, kj.sources.masks, "rooms")
    (batch,) = map(source.preprocess, source.eval_batches("test"))
    expected = []
    for i, size in enumerate(SIZES.values()):
        mask = np.random.default_rng(i).integers(0, 3, size).astype(np.uint8)
        mask[0, 0] = VOID
        expected.append(letterbox_mask(np.where(mask > 1, VOID, mask).astype(np.uint8), SIZE))
    found = np.asarray(batch["mask"])
    assert {each.tobytes() for each in found} == {each.tobytes() for each in expected}
    assert (found[:, :, -1] == VOID).any() and set(np.unique(found)) == {0, 1, VOID}
    assert source.class_names == CLASSES and source.classes == 2


# ------------------------------------------------------------------------------------------ others

@pytest.mark.parametrize("change, says", [
    (dict(test="test[:2]"), "config.data.test: expected a number of scenes, found 'test"),
    (dict(objects="3"), "config.data.objects: expected a number of objects, found '3'")])
def test_faults_of_scenes(change, says):
    data = dict(name="scenes", train=8, test=4, batch_size=4, size=(64, 64), objects=3)
    with pytest.raises(UserError, match=says):
        scenes({**data, **change})


def test_one_file_or_a_list(tmp_path):
    """A path is no list of letters."""
    image = Image.new("RGB", (4, 4))
    assert listed("street.jpg") == ["street.jpg"] and listed((image,)) == [image]
    for wrong, found in ((np.zeros((4, 4, 3)), "ndarray"), ([np.zeros((4, 4, 3))], "ndarray"),
                         (None, "NoneType"), (["a.jpg", 1], "int")):
        with pytest.raises(UserError, match=f"list of files, or of pictures .*, found {found}"):
            listed(wrong)
