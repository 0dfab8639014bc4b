"""Pictures with boxes around objects, imported as data sets in the form of TFDS's own.

What COCO, YOLO and Pascal VOC write on disk (coco.py, yolo.py, voc.py) becomes `Annotated`
pictures here. They are checked together before anything is written. A set holds TFDS's features
image and objects {bbox, label, area, is_crowd}, so that `config.data` reads TFDS's own sets alike.
"""
from collections.abc import Iterable, Sequence
import dataclasses
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account
from karpjax.datasets.imagefolder import Picture, add_shared, read_pictures, shuffled
from karpjax.datasets.pictures import size_of
from karpjax.datasets.write import class_names


@dataclasses.dataclass
class Annotated:
    """A picture on disk and the N objects in it, in lists or arrays.

    boxes   (N, 4) of x1, y1, x2, y2 in pixels, as the file has them
    labels  (N,), -1 for a class that the set does not have
    crowd   (N,), whether a box is of many objects: detections there are neither right nor wrong,
            and training takes it for background
    areas   (N,) of the objects, in pixels, by which COCO sorts them; None: of the boxes
    size    (H, W) that the file states; None: it does not
    shares  whether boxes are shares of the picture's sides, not pixels
    """
    file: pathlib.Path
    boxes: Sequence
    labels: Sequence
    crowd: Sequence | None = None
    areas: Sequence | None = None
    size: tuple[int, int] | None = None
    shares: bool = False


@dataclasses.dataclass
class ObjectSet:
    """Pictures and boxes, ready to be written.

    classes   names, by label
    splits    {"train": rows}, a row {"image", "objects"}, with len()
    account   what was chosen and left out
    """
    classes: list[str]
    splits: dict[str, "ObjectRows"]
    account: Account

    def features(self) -> dict:
        """Return TFDS's features of a row."""
        import tensorflow_datasets as tfds
        objects = {"bbox": tfds.features.BBoxFeature(), "area": np.float32, "is_crowd": np.bool_,
                   "label": tfds.features.ClassLabel(names=self.classes)}
        return {"image": tfds.features.Image(shape=(None, None, 3)),
                "objects": tfds.features.Sequence(objects)}

    def metadata(self) -> dict:
        """Return nothing: the features hold all there is to know."""
        return {}

    def summary(self) -> dict:
        """Return the facts that karpjax.prepare prints."""
        return {"classes": len(self.classes),
                "objects": {split: rows.count() for split, rows in self.splits.items()}}


@dataclasses.dataclass
class ObjectRows:
    """Pictures, as paths or bytes, with their objects and sizes (H, W)."""
    images: list[str | bytes]
    annotated: list[Annotated]

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        return map(row, self.images, self.annotated)

    def count(self) -> int:
        """Return the number of objects."""
        return sum(len(each.boxes) for each in self.annotated)


def row(image: str | bytes, annotated: Annotated) -> dict:
    """Return a row with TFDS's boxes, whose sides are shares of the picture's."""
    import tensorflow_datasets as tfds
    H, W = annotated.size
    shares = annotated.boxes / np.array([W, H, W, H])                              # (N, 4)
    objects = [{"bbox": tfds.features.BBox(ymin=y1, xmin=x1, ymax=y2, xmax=x2), "area": area,
                "is_crowd": bool(crowd), "label": int(label)}
               for (x1, y1, x2, y2), area, crowd, label in zip(
                   shares, annotated.areas, annotated.crowd, annotated.labels, strict=True)]
    return {"image": image, "objects": objects}


def object_set(classes: list[str], splits: dict[str, list[Annotated]], folder: pathlib.Path,
               account: Account, skip_broken: bool = False) -> ObjectSet:
    """Return the set of pictures, checked, or raise a UserError of the first fault.

    Boxes without area, of unknown classes or outside their picture are left out, and those that
    reach outside are cut. The account has their numbers.
    """
    classes = class_names(classes, folder)
    rows = {}
    for split, annotated in splits.items():
        kept = read_pictures([each.file for each in annotated], split, folder, skip_broken, account)
        by_file = {each.file: each for each in annotated}
        checked = [check_boxes(by_file[picture.file], picture, account) for picture in kept]
        if not any(len(each.boxes) for each in checked):
            raise UserError(f"{folder}: split {split!r}: expected objects in its pictures, found "
                            "none; correct its annotations, or move them away")
        images, order = shuffled(kept, "RGB")
        rows[split] = ObjectRows(images, [checked[i] for i in order])
    account.choices += [f"{len(classes)} classes", *counts(rows)]
    add_shared(account, rows)
    return ObjectSet(classes, rows, account)


def counts(rows: dict[str, ObjectRows]) -> Iterable[str]:
    """Yield a sentence on the objects of each split."""
    for split, each in rows.items():
        most = max(len(annotated.boxes) for annotated in each.annotated)
        yield f"{split}: {each.count()} objects, at most {most} in a picture"


def check_boxes(annotated: Annotated, picture: Picture, account: Account) -> Annotated:
    """Return a picture's objects that can be learned from. The others are counted."""
    H, W = size_of(picture.file)
    if annotated.size not in (None, (H, W)):
        height, width = annotated.size
        raise UserError(f"{annotated.file}: expected {width} x {height} pixels, as its annotations "
                        f"say, found {W} x {H}; take the picture that was annotated")
    boxes = np.asarray(annotated.boxes, np.float64).reshape(-1, 4)
    boxes = boxes * [W, H, W, H] if annotated.shares else boxes
    if not np.isfinite(boxes).all():
        raise UserError(f"{annotated.file}: a box has a side that is no number; correct its "
                        "annotations")
    labels = np.asarray(annotated.labels, np.int64)
    crowd = np.zeros(len(boxes), bool) if annotated.crowd is None else annotated.crowd
    cut = np.clip(boxes, 0, [W, H, W, H])

    def has_area(boxes):
        return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    unknown, flat = labels < 0, ~has_area(boxes)
    outside = ~flat & ~has_area(cut)
    kept = ~(unknown | flat | outside)
    areas = np.prod(cut[:, 2:] - cut[:, :2], axis=1) if annotated.areas is None \
        else np.asarray(annotated.areas, np.float64)
    if not (np.isfinite(areas[kept]) & (areas[kept] > 0)).all():
        raise UserError(f"{annotated.file}: an object has an area that is no number above 0; "
                        "correct its annotations")
    for kind, which in (("boxes of unknown classes are left out", unknown),
                        ("boxes without area are left out", flat & ~unknown),
                        ("boxes outside their picture are left out", outside & ~unknown),
                        ("boxes that reach outside their picture are cut",
                         kept & (cut != boxes).any(1))):
        account.leave_out(kind, *[annotated.file.name] * int(which.sum()))
    return Annotated(annotated.file, cut[kept], labels[kept], np.asarray(crowd, bool)[kept],
                     areas[kept], (H, W))
