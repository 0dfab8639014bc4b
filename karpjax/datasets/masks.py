"""Pictures with a class for every pixel, imported as data sets.

    DIR/train/street.jpg, DIR/train_masks/street.png       and other splits alike: val, test

A mask is a PNG whose pixels are the numbers of classes: grey, or of a palette, whose colours mean
nothing. --classes=a,b,c names them. Pixels of the number that follows the last class, or of 255,
have no class: they are left out of training and of every score.
"""
from collections.abc import Iterable
import dataclasses
import io
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account
from karpjax.datasets.imagefolder import (
    add_shared, pictures_in, read_pictures, shuffled, subfolders)
from karpjax.datasets.images import first_names
from karpjax.datasets.pictures import load_pillow, readable, size_of
from karpjax.datasets.write import class_names

SUFFIX, VOID = "_masks", 255


@dataclasses.dataclass
class MaskSet:
    """Pictures and masks, ready to be written.

    classes   names, by number
    splits    {"train": rows}, a row {"image", "segmentation_mask"}, with len()
    account   what was chosen and left out
    """
    classes: list[str]
    splits: dict[str, "MaskRows"]
    account: Account

    def features(self) -> dict:
        """Return TFDS's features of a row."""
        import tensorflow_datasets as tfds
        return {"image": tfds.features.Image(shape=(None, None, 3)),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1))}

    def metadata(self) -> dict:
        """Return the names of the classes, which TFDS's features have no place for."""
        return {"classes": self.classes}

    def summary(self) -> dict:
        """Return the facts that karpjax.prepare prints."""
        return {"classes": len(self.classes)}


@dataclasses.dataclass
class MaskRows:
    """Pictures, as paths or bytes, and their masks as bytes of PNGs."""
    images: list[str | bytes]
    masks: list[bytes]

    def __len__(self):
        return len(self.images)

    def __iter__(self) -> Iterable[dict]:
        pairs = zip(self.images, self.masks, strict=True)
        return ({"image": image, "segmentation_mask": mask} for image, mask in pairs)


def import_masks(folder: pathlib.Path, classes: list[str], skip_broken: bool = False) -> MaskSet:
    """Import every split that has a folder of pictures and one of masks.

    In the set a pixel without a class is 255.
    """
    if not classes:
        raise UserError("--classes: expected the names of the classes, in the order of their "
                        "numbers from 0; give --classes=sky,road,...")
    classes, account, rows = class_names(classes, "--classes"), Account(), {}
    splits = [each for each in subfolders(folder) if not each.name.endswith(SUFFIX)]
    if "train" not in [each.name for each in splits]:
        raise UserError(f"--from={folder}: expected {folder}/train and {folder}/train{SUFFIX}, "
                        f"found {first_names(folder)}")
    names = {each.name for each in splits}
    account.leave_out("folders of masks without one of pictures are left out", *(
        each.name for each in subfolders(folder) if each.name.endswith(SUFFIX)
        and each.name.removesuffix(SUFFIX) not in names))
    for split in splits:
        pictures = pictures_in(split, account)
        kept = read_pictures(pictures, split.name, folder, skip_broken, account)
        stems = {path.stem for path in pictures}
        account.leave_out("masks without a picture are left out", *sorted(
            path.name for path in (folder / f"{split.name}{SUFFIX}").glob("*.png")
            if path.stem not in stems))
        masks = [checked_mask(mask_of(each.file, folder), each.file, len(classes)) for each in kept]
        images, order = shuffled(kept, "RGB")
        rows[split.name] = MaskRows(images, [masks[i] for i in order])
    account.choices.append(f"{len(classes)} classes")
    add_shared(account, rows)
    return MaskSet(classes, rows, account)


def mask_of(picture: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Return the file of a picture's mask."""
    file = folder / f"{picture.parent.name}{SUFFIX}" / f"{picture.stem}.png"
    if not file.is_file():
        raise UserError(f"{picture}: expected its mask at {file}, found no such file; add it, or "
                        "remove the picture")
    return file


def checked_mask(file: pathlib.Path, picture: pathlib.Path, classes: int) -> bytes:
    """Return a mask as a grey PNG, or raise a UserError of its fault."""
    Image = load_pillow("a mask")
    with readable(file), Image.open(file) as opened:
        if opened.mode not in ("L", "P", "1"):
            raise UserError(f"{file}: expected a mask of one number a pixel, grey or of a palette "
                            f"of 8 bits, found {opened.mode}; save the classes' numbers, not their "
                            "colours")
        numbers = np.asarray(opened).astype(np.uint8)                              # (H, W)
    (H, W), (height, width) = size_of(picture), numbers.shape
    if (H, W) != (height, width):
        raise UserError(f"{file}: expected a mask of its picture's size, {W} x {H}, found {width} "
                        f"x {height}; make one a pixel of the other")
    beyond = np.unique(numbers[(numbers > classes) & (numbers != VOID)])
    if len(beyond):
        raise UserError(f"{file}: expected classes 0 to {classes - 1}, and {classes} or {VOID} for "
                        f"none, found {beyond[0]}; name every class with --classes")
    png = io.BytesIO()
    Image.fromarray(np.where(numbers >= classes, VOID, numbers).astype(np.uint8)).save(png, "png")
    return png.getvalue()
