"""Boxes and masks on disk: three formats give one set, faults are one line, nothing is written."""
import json

import numpy as np
from PIL import Image
import pytest

from karpjax.core.errors import UserError
from karpjax.datasets.formats import prepare
from karpjax.datasets.tfds import open_split, prepared_builder

CLASSES = ["cat", "dog"]
SIZES = {"a": (40, 60), "b": (50, 30), "c": (64, 64)}                  # (H, W)
# x1, y1, x2, y2, class. VOC counts whole pixels, so these are whole.
BOXES = {"a": [(5, 6, 25, 36, 0), (0, 0, 60, 40, 1)], "b": [(10, 20, 30, 50, 1)], "c": []}


def picture(path, size, seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def annotations(boxes=None) -> dict:
    """Return COCO's annotations of the pictures."""
    images = [{"id": i, "file_name": f"{name}.png", "height": h, "width": w}
              for i, (name, (h, w)) in enumerate(SIZES.items(), 1)]
    listed = [(i, box) for i, name in enumerate(SIZES, 1) for box in (boxes or BOXES)[name]]
    return {"images": images,
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [{"id": n, "image_id": i, "bbox": [x1, y1, x2 - x1, y2 - y1],
                             "category_id": (3, 7)[label], "iscrowd": 0}
                            for n, (i, (x1, y1, x2, y2, label)) in enumerate(listed)]}


def coco(folder, change=lambda data: None, boxes=None):
    """Write a folder in COCO's form, after a change of its annotations."""
    for i, (name, size) in enumerate(SIZES.items()):
        picture(folder / "train2017" / f"{name}.png", size, i)
    data = annotations(boxes)
    change(data)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    return folder


def yolo(folder):
    """Write a folder in YOLO's form."""
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for i, (name, (H, W)) in enumerate(SIZES.items()):
        picture(folder / "images" / "train" / f"{name}.png", (H, W), i)
        lines = [f"{label} {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} {(y2 - y1) / H}"
                 for x1, y1, x2, y2, label in BOXES[name]]
        (folder / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines))
    return folder


def voc(folder):
    """Write a folder in Pascal VOC's form."""
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(SIZES))
    for i, (name, (H, W)) in enumerate(SIZES.items()):
        picture(folder / "JPEGImages" / f"{name}.png", (H, W), i)
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}"
            f"</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2, label in BOXES[name])
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>{W}</width><height>{H}</height></size>{objects}"
            "</annotation>")
    return folder


def rows_of(name: str, data_dir) -> dict:
    """Return {(H, W): [(x1, y1, x2, y2, label)] in pixels} of a set's train."""
    rows = {}
    for record in open_split(prepared_builder(name, str(data_dir)), "train"):
        H, W, _ = record["image"].shape
        objects = record["objects"]
        rows[H, W] = sorted((*np.rint(np.array([x1 * W, y1 * H, x2 * W, y2 * H]) * 1e3) / 1e3,
                             int(label)) for (y1, x1, y2, x2), label in zip(
            objects["bbox"], objects["label"], strict=True))
    return rows


@pytest.mark.parametrize("write", [coco, yolo, voc])
def test_three_formats_are_one_set(write, tmp_path):
    """Widths and corners, corners that count from 1, shares of the sides: the same boxes."""
    format = write.__name__
    summary = prepare(format, write(tmp_path / "raw"), "pets", str(tmp_path / "tfds"))
    assert summary["objects"] == {"train": 3} and summary["examples"] == {"train": 3}
    assert prepared_builder("pets", str(tmp_path / "tfds")).info.features[
        "objects"].feature["label"].names == CLASSES
    assert rows_of("pets", tmp_path / "tfds") == {
        size: sorted((*map(float, box[:4]), box[4]) for box in BOXES[name])
        for name, size in SIZES.items()}


def test_boxes_that_are_left_out_or_cut(tmp_path, capsys):
    """They are counted in the line, and errors with --strict."""
    boxes = {"a": [(5, 6, 25, 36, 0), (50, 30, 80, 45, 1), (9, 9, 9, 20, 0)],
             "b": [(40, 60, 45, 70, 1), (1, 1, 5, 5, 1)], "c": []}

    def unknown(data):
        data["annotations"][-1]["category_id"] = 4
    raw = coco(tmp_path / "raw", unknown, boxes)
    with pytest.raises(UserError, match="^--strict: .*boxes without area are left out: a.png"):
        prepare("coco", raw, "pets", str(tmp_path / "tfds"), strict=True)
    assert not (tmp_path / "tfds").exists()
    prepare("coco", raw, "pets", str(tmp_path / "tfds"))
    line = capsys.readouterr().out.splitlines()[0]
    for words in ("1 boxes without area are left out: a.png",
                  "1 boxes of unknown classes are left out: b.png",
                  "1 boxes outside their picture are left out: b.png",
                  "1 boxes that reach outside their picture are cut: a.png",
                  "train: 2 objects, at most 2 in a picture"):
        assert words in line, line
    rows = rows_of("pets", tmp_path / "tfds")
    assert rows[SIZES["a"]] == [(5, 6, 25, 36, 0), (50, 30, 60, 40, 1)]


def without_picture(data):
    data["images"].append({"id": 9, "file_name": "gone.png"})


def of_no_picture(data):
    data["annotations"][0]["image_id"] = 99


def twice(data):
    data["categories"].append({"id": 7, "name": "cow"})


def of_another_size(data):
    data["images"][0]["width"] = 61


def of_three_numbers(data):
    data["annotations"][0]["bbox"] = [1, 2, 3]


def not_a_number(data):
    data["annotations"][0]["bbox"] = [1, 2, float("nan"), 3]


def without_name(data):
    del data["categories"][0]["name"]


def without_objects(data):
    data["annotations"] = []


@pytest.mark.parametrize("change, says", [
    (without_picture, "the picture 'gone.png' is not in .*train2017; add it"),
    (of_no_picture, "an annotation is of picture 99, which is not among its images"),
    (twice, "2 categories have the id 7; expected each once"),
    (of_another_size, "expected 61 x 40 pixels, as its annotations say, found 60 x 40"),
    (of_three_numbers, "expected a bbox of four numbers, x, y, width, height"),
    (not_a_number, "a box has a side that is no number"),
    (without_name, r"categories\[0\] has no name; expected id, name"),
    (without_objects, "split 'train': expected objects in its pictures, found none"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_faults_of_annotations(change, says, tmp_path):
    with pytest.raises(UserError, match=says) as error:
        prepare("coco", coco(tmp_path / "raw", change), "pets", str(tmp_path / "tfds"))
    assert "\n" not in str(error.value) and not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("line, says", [
    ("0 0.5 0.5 0.1", "train/b.txt, line 1: expected five numbers, .*found 4; correct it"),
    ("cat 0.5 0.5 0.1 0.1", "line 1: expected five numbers, found 'cat 0.5 0.5 0.1 0.1'"),
    ("0.5 0.5 0.5 0.1 0.1", "line 1: expected the number of a class, 0 or more, found 0.5")])
def test_faults_of_a_file_of_boxes(line, says, tmp_path):
    raw = yolo(tmp_path / "raw")
    (raw / "labels" / "train" / "b.txt").write_text(line)
    with pytest.raises(UserError, match=says):
        prepare("yolo", raw, "pets", str(tmp_path / "tfds"))
    assert not (tmp_path / "tfds").exists()


# ------------------------------------------------------------------------------------------- masks

def masks(folder, mask=None, mode="L"):
    """Write a folder of pictures and masks, of which the last may be another."""
    for i, (name, size) in enumerate(SIZES.items()):
        picture(folder / "train" / f"{name}.png", size, i)
        numbers = np.random.default_rng(i).integers(0, 3, size).astype(np.uint8)
        numbers[0, 0] = 255
        if mask is not None and i == 2:
            numbers = mask
        (folder / "train_masks").mkdir(exist_ok=True)
        image = Image.fromarray(numbers, "P" if mode == "P" else None)
        if mode == "P":  # colours mean nothing: those of all numbers are one
            image.putpalette([9, 9, 9] * 256)
        image.save(folder / "train_masks" / f"{name}.png")
    return folder


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks(mode, tmp_path):
    """Grey or of a palette, their numbers stay. That behind the last class is none, 255."""
    prepare("masks", masks(tmp_path / "raw", mode=mode), "rooms", str(tmp_path / "tfds"),
            classes=CLASSES)
    builder = prepared_builder("rooms", str(tmp_path / "tfds"))
    assert builder.info.metadata["classes"] == CLASSES
    found = {record["image"].shape[:2]: record["segmentation_mask"][..., 0]
             for record in open_split(builder, "train")}
    for i, size in enumerate(SIZES.values()):
        expected = np.random.default_rng(i).integers(0, 3, size).astype(np.uint8)
        expected[0, 0] = 255
        np.testing.assert_array_equal(found[size], np.where(expected > 1, 255, expected))


@pytest.mark.parametrize("mask, says", [
    (np.full((64, 64), 3, np.uint8), "expected classes 0 to 1, and 2 or 255 for none, found 3"),
    (np.zeros((64, 63), np.uint8), "expected a mask of its picture's size, 64 x 64, found 63 x 64"),
    (np.zeros((64, 64, 3), np.uint8), "expected a mask of one number a pixel, .*found RGB"),
    (np.zeros((64, 64), np.uint16), "expected a mask of one number a pixel, .*found I;16")],
    ids=["class", "size", "RGB", "16 bits"])
def test_faults_of_masks(mask, says, tmp_path):
    with pytest.raises(UserError, match=f"train_masks/c.png: {says}") as error:
        prepare("masks", masks(tmp_path / "raw", mask), "rooms", str(tmp_path / "tfds"),
                classes=CLASSES)
    assert "\n" not in str(error.value) and not (tmp_path / "tfds").exists()


def test_a_picture_without_its_mask(tmp_path):
    raw = masks(tmp_path / "raw")
    (raw / "train_masks" / "b.png").unlink()
    with pytest.raises(UserError, match="b.png: expected its mask at .*train_masks/b.png, found"):
        prepare("masks", raw, "rooms", str(tmp_path / "tfds"), classes=CLASSES)
