"""Pascal VOC's annotations (Everingham et al. 2010): an XML file a picture.

    DIR/JPEGImages/000005.jpg, DIR/Annotations/000005.xml, DIR/ImageSets/Main/train.txt

Corners count pixels from 1 and both lie in the box: it is [xmin - 1, xmax] here. Objects marked as
difficult become COCO's crowds. Detections that lie in one are neither right nor wrong, where VOC's
own score asks for an IoU of 0.5 with it.
"""
import pathlib
import xml.etree.ElementTree as xml

import numpy as np

from karpjax.core.errors import UserError
from karpjax.core.trees import first_line
from karpjax.datasets.account import Account
from karpjax.datasets.documents import read_lines
from karpjax.datasets.imagefolder import is_picture
from karpjax.datasets.images import first_names
from karpjax.datasets.objects import Annotated, ObjectSet, object_set
from karpjax.datasets.write import class_names

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def import_voc(folder: pathlib.Path, classes: list[str] = (), skip_broken: bool = False
               ) -> ObjectSet:
    """Import the splits that ImageSets/Main lists: train, val and test, as far as they are there.

    classes   names; none: those that the annotations have, sorted
    """
    account, lists = Account(), folder / "ImageSets" / "Main"
    files = {split: lists / f"{split}.txt" for split in ("train", "val", "test")
             if (lists / f"{split}.txt").is_file()}
    if "train" not in files:
        raise UserError(f"--from={folder}: expected {lists / 'train.txt'}, a name a line, found "
                        f"{first_names(folder)}")
    pictures = {path.stem: path for path in sorted((folder / "JPEGImages").glob("*"))
                if is_picture(path)}
    listed = {name for file in files.values() for name in names_in(file)}
    account.leave_out("pictures that no list names are left out",
                      *(path.name for stem, path in pictures.items() if stem not in listed))
    read = {split: [read_xml(folder / "Annotations" / f"{name}.xml", pictures)
                    for name in names_in(file)] for split, file in files.items()}
    found = sorted({name for each in read.values() for _, _, objects in each
                    for name, _, _ in objects})
    labels = {name: i for i, name in enumerate(class_names(list(classes), "--classes") or found)}
    splits = {split: [annotated(*each, labels) for each in rows] for split, rows in read.items()}
    return object_set(list(labels), splits, folder, account, skip_broken)


def names_in(file: pathlib.Path) -> list[str]:
    """Return the names of a list's pictures."""
    return [line.split()[0] for line in read_lines(file) if line.strip()]


def read_xml(file: pathlib.Path, pictures: dict[str, pathlib.Path]) -> tuple:
    """Return (picture, its size or None, [(class, (xmin, ymin, xmax, ymax), difficult)])."""
    if file.stem not in pictures:
        raise UserError(f"{file}: expected its picture in JPEGImages, found none of that name; add "
                        "it, or take the name out of ImageSets")
    try:
        root = xml.parse(file).getroot()
        size = tuple(int(root.find("size").find(side).text) for side in ("height", "width")) \
            if root.find("size") is not None else None
        objects = [(each.find("name").text.strip(),
                    tuple(float(each.find("bndbox").find(corner).text) for corner in CORNERS),
                    (each.findtext("difficult") or "0").strip() == "1")
                   for each in root.iter("object")]
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; expected the annotations of a picture that "
                        "ImageSets lists") from error
    except (xml.ParseError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{file}: expected VOC's XML, with name and bndbox "
                        f"({', '.join(CORNERS)}) of each object, found another "
                        f"({first_line(error)}); correct it") from error
    return pictures[file.stem], None if size == (0, 0) else size, objects


def annotated(picture: pathlib.Path, size, objects: list, labels: dict) -> Annotated:
    """Return a picture with its boxes, whose upper left corner counts from 0."""
    corners = np.array([corners for _, corners, _ in objects], np.float64).reshape(-1, 4)
    boxes = corners - np.array([1, 1, 0, 0])
    return Annotated(picture, boxes, [labels.get(name, -1) for name, _, _ in objects],
                     [difficult for _, _, difficult in objects], size=size)
