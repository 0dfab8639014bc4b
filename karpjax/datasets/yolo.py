"""YOLO's annotations: a text file beside each picture, a box a line.

    DIR/images/train/street.jpg, DIR/labels/train/street.txt       or
    DIR/train/images/street.jpg, DIR/train/labels/street.txt
    DIR/classes.txt                                                a name a line, or --classes=a,b

A line is: class, x and y of the middle, width, height, all but the class as shares of the picture's
sides. A picture without a text file, or with an empty one, has no objects.
"""
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account, is_hidden
from karpjax.datasets.documents import read_lines
from karpjax.datasets.imagefolder import pictures_in
from karpjax.datasets.images import first_names
from karpjax.datasets.objects import Annotated, ObjectSet, object_set


def import_yolo(folder: pathlib.Path, classes: list[str] = (), skip_broken: bool = False
                ) -> ObjectSet:
    """Import the splits of a folder: those of its folder `images`, or its own folders."""
    account = Account()
    names = list(classes) or names_of(folder)
    splits = {}
    for split, (pictures, labels) in folders_of(folder).items():
        files = pictures_in(pictures, account)
        stems = {path.stem for path in files}
        account.leave_out("annotations without a picture are left out",
                          *(path.name for path in sorted(labels.glob("*.txt"))
                            if path.stem not in stems and path.name != "classes.txt"))
        bare = [path.name for path in files if not (labels / f"{path.stem}.txt").exists()]
        account.leave_out("pictures without a file of boxes have no objects", *bare)
        splits[split] = [annotated(path, labels / f"{path.stem}.txt", len(names)) for path in files]
    return object_set(names, splits, folder, account, skip_broken)


def names_of(folder: pathlib.Path) -> list[str]:
    """Return the names of the classes, from classes.txt."""
    file = next((file for file in (folder / "classes.txt", folder / "labels" / "classes.txt")
                 if file.is_file()), None)
    if file is None:
        raise UserError(f"--from={folder}: expected classes.txt with a name a line, found "
                        f"{first_names(folder)}; give the names, in order, with --classes=a,b,c")
    return [line.strip() for line in read_lines(file) if line.strip()]


def folders_of(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Return {"train": (its folder of pictures, its folder of boxes), ...}."""
    by_kind = folder / "images"
    if (by_kind / "train").is_dir():
        found = {each.name: (each, folder / "labels" / each.name) for each in by_kind.iterdir()
                 if each.is_dir() and not is_hidden(each)}
    else:
        found = {each.name: (each / "images", each / "labels") for each in folder.iterdir()
                 if (each / "images").is_dir()}
    if "train" not in found:
        raise UserError(f"--from={folder}: expected {by_kind}/train, or {folder}/train/images, "
                        f"found {first_names(folder)}")
    for pictures, labels in found.values():
        if not labels.is_dir():
            raise UserError(f"{pictures}: expected its boxes in {labels}, found no such folder")
    return dict(sorted(found.items()))


def annotated(picture: pathlib.Path, file: pathlib.Path, classes: int) -> Annotated:
    """Return a picture with the boxes of its file."""
    lines = read_lines(file) if file.exists() else []
    rows = np.array([numbers(line, f"{file}, line {i}") for i, line in enumerate(lines, 1)
                     if line.strip()], np.float64).reshape(-1, 5)
    labels = rows[:, 0].astype(np.int64)
    middle, sides = rows[:, 1:3], rows[:, 3:]
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
    return Annotated(picture, boxes, np.where(labels < classes, labels, -1), shares=True)


def numbers(line: str, where: str) -> list[float]:
    """Return the five numbers of a line."""
    try:
        values = [float(each) for each in line.split()]
    except ValueError as error:
        raise UserError(f"{where}: expected five numbers, found {line.strip()[:60]!r}; correct it"
                        ) from error
    if len(values) != 5:
        raise UserError(f"{where}: expected five numbers, the class, x, y, width and height, found "
                        f"{len(values)}; correct it")
    if not values[0].is_integer() or values[0] < 0:
        raise UserError(f"{where}: expected the number of a class, 0 or more, found {values[0]:g}; "
                        "correct it")
    return values
