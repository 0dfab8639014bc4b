"""COCO's annotations (Lin et al. 2014): a JSON of a split, and a folder of its pictures.

    DIR/annotations/instances_train2017.json, DIR/train2017/000000000009.jpg
    DIR/instances_train.json, DIR/train/0001.jpg

A box is x, y, width, height, from the upper left corner of the picture.
"""
import collections
import json
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.trees import first_line
from karpjax.datasets.account import Account
from karpjax.datasets.imagefolder import is_picture
from karpjax.datasets.images import first_names
from karpjax.datasets.objects import Annotated, ObjectSet, object_set

PREFIX = "instances_"
NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id", "bbox"),
          "categories": ("id", "name")}
KINDS = {**dict.fromkeys(("id", "image_id", "category_id"), int), "file_name": str, "name": str}


def import_coco(folder: pathlib.Path, skip_broken: bool = False) -> ObjectSet:
    """Import the splits of a folder, each from its JSON. A year in a name is left out of it."""
    account = Account()
    files = files_of(folder)
    read = {split: read_json(file) for split, file in files.items()}
    classes = {split: classes_of(data, files[split]) for split, data in read.items()}
    for split, names in classes.items():
        if names != classes["train"]:
            raise UserError(f"{files[split]}: expected the categories of {files['train'].name}, "
                            "with their ids and names, found others; correct one of them")
    splits = {split: pictures_of(data, classes[split], files[split], folder, account)
              for split, data in read.items()}
    return object_set(list(classes["train"].values()), splits, folder, account, skip_broken)


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return {"train": its JSON, ...}."""
    found = sorted([*folder.glob(f"{PREFIX}*.json"), *folder.glob(f"annotations/{PREFIX}*.json")])
    splits = {}
    for file in found:
        split = file.stem.removeprefix(PREFIX)
        name = split.rstrip("0123456789") or split
        if name in splits:
            raise UserError(f"{file}: expected one file of annotations a split, found "
                            f"{splits[name].name} too; move one away")
        splits[name] = file
    if "train" not in splits:
        raise UserError(f"--from={folder}: expected {PREFIX}train.json, or annotations/{PREFIX}"
                        f"train2017.json, found {first_names(folder)}; rename the file of another "
                        "tool so, and the folder of its pictures train")
    return splits


def read_json(file: pathlib.Path) -> dict:
    """Return the lists of a file of annotations, each of whose entries has what is needed."""
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: expected JSON, found {first_line(error)}; fetch it again"
                        ) from error
    for name, keys in NEEDED.items():
        entries = data.get(name) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{file}: expected a list of {name}, found none; is it of another "
                            "format?")
        for i, entry in enumerate(entries):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise UserError(f"{file}: {name}[{i}] has no {lacking[0]}; expected "
                                f"{', '.join(keys)}: correct it")
            for key in {*keys} & KINDS.keys():
                if not isinstance(entry[key], KINDS[key]) or isinstance(entry[key], bool):
                    raise UserError(f"{file}: {name}[{i}] has the {key} {entry[key]!r}; expected "
                                    f"{'text' if KINDS[key] is str else 'a whole number'}: "
                                    "correct it")
    return data


def classes_of(data: dict, file: pathlib.Path) -> dict:
    """Return {id: name} of the categories, in the order of their ids."""
    ids = [category["id"] for category in data["categories"]]
    check_once(ids, "categories", file)
    return {category["id"]: str(category["name"])
            for category in sorted(data["categories"], key=lambda each: each["id"])}


def pictures_of(data: dict, classes: dict, file: pathlib.Path, folder: pathlib.Path,
                account: Account) -> list[Annotated]:
    """Return the pictures of a split with their objects."""
    check_once([image["id"] for image in data["images"]], "images", file)
    check_once([image["file_name"] for image in data["images"]], "images", file, "file_name")
    split = file.stem.removeprefix(PREFIX)
    labels = {number: label for label, number in enumerate(classes)}
    objects = collections.defaultdict(list)
    for annotation in data["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    known = {image["id"] for image in data["images"]}
    if strange := [each for number, listed in objects.items() if number not in known
                   for each in listed]:
        raise UserError(f"{file}: an annotation is of picture {strange[0]['image_id']!r}, which is "
                        f"not among its images ({len(strange)} such); expected the id of one")
    places = [place for place in (folder / split, folder / "images" / split, folder / "images")
              if place.is_dir()]
    if not places:
        raise UserError(f"{file}: expected its pictures in {folder / split}, found no such folder")
    named, pictures = {image["file_name"] for image in data["images"]}, []
    account.leave_out("pictures that no image names are left out",
                      *sorted({path.name for path in places[0].iterdir() if is_picture(path)}
                              - named))
    for image in data["images"]:
        path = places[0] / image["file_name"]
        if not path.is_file():
            raise UserError(f"{file}: the picture {image['file_name']!r} is not in {places[0]}; "
                            "add it, or take it out of the file")
        listed = objects[image["id"]]
        size = (image["height"], image["width"]) if "height" in image and "width" in image else None
        pictures.append(Annotated(
            path, corners([each["bbox"] for each in listed], file),
            [labels.get(each["category_id"], -1) for each in listed],
            [bool(each.get("iscrowd", 0)) for each in listed],
            areas_of(listed), size))
    return pictures


def corners(boxes: list, file: pathlib.Path) -> np.ndarray:
    """Return (N, 4) of x1, y1, x2, y2, from x, y, width, height."""
    try:
        array = np.array(boxes, np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: expected a bbox of four numbers, x, y, width, height, found "
                        f"another ({first_line(error)}); correct it") from error
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def areas_of(listed: list[dict]) -> np.ndarray | None:
    """Return the areas that a file states, those of the masks. None unless all are stated."""
    areas = [each.get("area") for each in listed]
    return np.array(areas, np.float64) if all(isinstance(a, (int, float)) for a in areas) else None


def check_once(values: list, what: str, file: pathlib.Path, key: str = "id") -> None:
    """Raise a UserError if two entries have one value of a key."""
    for value, count in collections.Counter(values).items():
        if count > 1:
            raise UserError(f"{file}: {count} {what} have the {key} {value!r}; expected each "
                            "once: correct them")
