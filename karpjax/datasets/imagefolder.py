"""A folder of folders of pictures, DIR/SPLIT/CLASS/PICTURE, imported as a data set."""
from collections.abc import Iterator
import concurrent.futures
import dataclasses
import io
import os
import pathlib

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account, is_hidden
from karpjax.datasets.columns import shared_with_train
from karpjax.datasets.content import hash_bytes, hash_file
from karpjax.datasets.images import ImageRows, ImageSet, first_names
from karpjax.datasets.pictures import (
    Unreadable,
    eight_bits,
    has_16_bits,
    is_grey,
    load_pillow,
    oddities,
    readable,
)
from karpjax.datasets.write import class_names

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
NAMED = 10  # unreadable pictures in an error


@dataclasses.dataclass
class Picture:
    """A picture on disk, looked at.

    keeps   the mode in which its file is stored as it is, "" for none
    error   why it cannot be read, or None
    """
    file: pathlib.Path
    label: int
    keeps: str = ""
    grey: bool = False
    oddities: list[str] = dataclasses.field(default_factory=list)
    error: Unreadable | None = None


def import_imagefolder(folder: pathlib.Path, classes: list[str] = (), skip_broken: bool = False,
                       grey: bool | None = None) -> ImageSet:
    """Import DIR/train/CLASS/*.jpg, and any other split beside train (val, validation, test).

    JPEGs and PNGs in RGB are kept as their files are. Other formats, and pictures of a palette,
    CMYK or transparent, become RGB PNGs. If all pictures are grey the set has one channel, else
    grey ones become RGB too.

    skip_broken   leave out pictures that cannot be read; else they are an error
    grey          whether the set has one channel; None: if all pictures are grey
    """
    if classes:
        raise UserError("--classes: an ImageFolder's classes are its folders' names; leave it out")
    splits = {split.name: subfolders(split) for split in subfolders(folder)}
    if not splits.get("train"):
        raise UserError(f"--from={folder}: expected {folder}/train/CLASS/*.jpg, found "
                        f"{first_names(folder)} in it")
    classes = class_names([each.name for each in splits["train"]], folder / "train")
    account = Account()
    leave_out_others(folder, folder, account)
    pictures = {}
    for split, folders in splits.items():
        check_classes(folder, split, [each.name for each in folders], classes)
        leave_out_others(folder / split, folder, account)
        listed = [Picture(file, label) for label, each in enumerate(folders)
                  for file in list_class(each, folder, account)]
        check_all_classes(folder / split, classes, listed)
        pictures[split] = look_at(listed, split)
    pictures = without_broken(pictures, folder, skip_broken, account)
    grey = all_grey(pictures) if grey is None else grey
    rows = {}
    for split, each in pictures.items():
        check_all_classes(folder / split, classes, each)
        rows[split] = shuffled_rows(each, "L" if grey else "RGB")
    add_choices(account, pictures, classes, grey)
    add_shared(account, rows)
    return ImageSet(classes, (None, None, 1 if grey else 3), rows, account)


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not is_hidden(each))


def check_classes(folder: pathlib.Path, split: str, names: list[str], classes: list[str]) -> None:
    """Raise a UserError if a split's classes are not those of train."""
    if names != classes:
        raise UserError(f"{folder}: {split} and train have other classes: only in train: "
                        f"{', '.join(sorted({*classes} - {*names})) or 'none'}; only in {split}: "
                        f"{', '.join(sorted({*names} - {*classes})) or 'none'}")


def check_all_classes(split: pathlib.Path, classes: list[str], pictures: list[Picture]) -> None:
    """Raise a UserError if a split has a class without pictures."""
    labels = {picture.label for picture in pictures}
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if empty:
        raise UserError(f"{split}: no picture ({', '.join(PICTURES)}) of class "
                        f"{', '.join(empty)}; add some, or remove the class from every split")


# ------------------------------------------------------------------------------- what is left out

def list_class(folder: pathlib.Path, root: pathlib.Path, account: Account) -> list[pathlib.Path]:
    """Return the pictures of a class's folder, sorted. All else is left out, by its kind."""
    pictures = []
    for path in sorted(folder.iterdir()):
        kind = kind_left_out(path)
        if path.is_dir():
            below = [each for each in files_below(path) if is_picture(each)]
            account.leave_out("pictures in folders below a class's are left out",
                              *(each.relative_to(root) for each in below))
        elif kind:
            account.leave_out(kind, path.relative_to(root))
        else:
            pictures.append(path)
    return pictures


def leave_out_others(folder: pathlib.Path, root: pathlib.Path, account: Account) -> None:
    """Account for what lies beside the folders of splits or classes."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_hidden(path):
            continue
        if path.is_dir():
            account.leave_out("hidden folders are left out", path.relative_to(root))
        else:
            kind = kind_left_out(path) or "pictures outside a class's folder are left out"
            account.leave_out(kind, path.relative_to(root))


def kind_left_out(path: pathlib.Path) -> str:
    """Return why a file is left out, "" for a picture."""
    if path.is_symlink() and not path.exists():
        return "links that lead nowhere are left out"
    if is_picture(path):
        return ""
    return f"files that are no pictures ({', '.join(PICTURES)}) are left out"


def is_picture(path: pathlib.Path) -> bool:
    """Return whether a file has the name of a picture, and not of a Mac's notes on one (._x)."""
    return path.suffix.lower() in PICTURES and path.is_file() and not path.name.startswith("._")


def files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the files at any depth below a folder."""
    for where, _, names in sorted(os.walk(folder)):
        yield from (pathlib.Path(where, name) for name in sorted(names))


def pictures_in(folder: pathlib.Path, account: Account) -> list[pathlib.Path]:
    """Return the pictures of a folder without classes, sorted. All else is left out."""
    paths = sorted(folder.iterdir())
    account.leave_out("files that are no pictures are left out",
                      *(path.name for path in paths if not is_picture(path)))
    return [path for path in paths if is_picture(path)]


# ---------------------------------------------------------------------------------------- reading

def read_pictures(files: list[pathlib.Path], split: str, folder: pathlib.Path, skip_broken: bool,
                  account: Account) -> list[Picture]:
    """Return pictures without classes that can be read, each looked at. The others are an error.

    skip_broken   leave the others out
    """
    looked = look_at([Picture(file, 0) for file in files], split)
    kept = without_broken({split: looked}, folder, skip_broken, account)[split]
    count_oddities(account, kept)
    return kept


def look_at(pictures: list[Picture], split: str) -> list[Picture]:
    """Open every picture to its end, in threads, and note what it is."""
    from tqdm import tqdm  # here: an import of karpjax does not need it
    load_pillow("an ImageFolder")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        looked = tqdm(threads.map(look, pictures), total=len(pictures), desc=split, leave=False)
        return list(looked)


def look(picture: Picture) -> Picture:
    """Note what a picture is: kept as it is, grey, odd, or unreadable."""
    try:
        with readable(picture.file), load_pillow().open(picture.file) as opened:
            odd = ["of 16 bits (the upper 8 are kept)"] * has_16_bits(opened)
            opened.load()
            odd += oddities(opened)
            if opened.mode[0] in "IF":
                eight_bits(opened, 1)  # raises for 32 bits
            as_it_is = opened.format in ("JPEG", "PNG") and opened.mode in ("L", "RGB")
            return dataclasses.replace(picture, keeps=opened.mode if as_it_is else "",
                                       grey=is_grey(opened), oddities=odd)
    except Unreadable as error:
        return dataclasses.replace(picture, error=error)


def without_broken(pictures: dict, folder, skip: bool, account: Account) -> dict:
    """Return the pictures that can be read. A UserError names the others, except if `skip`."""
    broken = [each for split in pictures.values() for each in split if each.error]
    names = [str(each.file.relative_to(folder)) for each in broken]
    if broken and not skip:
        others = ""
        if len(broken) > 1:
            more = ", ..." * (len(broken) > NAMED)
            others = f"; {len(broken)} cannot be read: {', '.join(names[:NAMED])}{more}"
        raise UserError(f"{broken[0].error}{others}; --skip_broken leaves them out")
    account.leave_out("pictures that cannot be read are left out", *names)
    return {split: [each for each in listed if not each.error]
            for split, listed in pictures.items()}


def all_grey(pictures: dict) -> bool:
    """Return whether every picture of every split is grey."""
    return all(each.grey for listed in pictures.values() for each in listed)


def shuffled_rows(pictures: list[Picture], mode: str) -> ImageRows:
    """Return rows of one mode, shuffled alike every time."""
    images, order = shuffled(pictures, mode)
    return ImageRows(images, [pictures[i].label for i in order])


def shuffled(pictures: list[Picture], mode: str) -> tuple[list[str | bytes], np.ndarray]:
    """Return pictures of one mode, shuffled alike every time, and which comes where."""
    # Shuffled: every part of a split, as in train[:90%], is to have all classes.
    order = np.random.default_rng(0).permutation(len(pictures))
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(lambda i: in_mode(pictures[i], mode), order)), order


def in_mode(picture: Picture, mode: str) -> str | bytes:
    """Return the path of a picture that is stored as its file is, else a PNG's bytes."""
    if picture.keeps == mode:
        return str(picture.file)
    with readable(picture.file), load_pillow().open(picture.file) as opened:
        png = io.BytesIO()
        eight_bits(opened, 1 if mode == "L" else 3).save(png, "png")
        return png.getvalue()


def add_shared(account: Account, rows: dict) -> None:
    """Account for pictures of other splits that stand in train too."""
    shared = shared_with_train({split: map(content, each.images) for split, each in rows.items()})
    account.choices += [shared] if shared else []


def content(picture: str | bytes) -> str:
    """Return the hash of a picture's file."""
    return hash_bytes(picture) if isinstance(picture, bytes) else hash_file(picture)


def add_choices(account: Account, pictures: dict, classes: list[str], grey: bool) -> None:
    """Account for the channels, and for what is converted or dropped in pictures."""
    listed = [each for split in pictures.values() for each in split]
    account.choices += [f"{len(classes)} classes, shuffled"]
    if grey:
        account.choices.append("all pictures are grey: one channel")
    else:
        account.choices.append("three channels (RGB)")
        account.leave_out("grey pictures become RGB",
                          *(each.file.name for each in listed if each.grey))
    count_oddities(account, listed)


def count_oddities(account: Account, pictures: list[Picture]) -> None:
    """Account for what is converted or dropped in pictures."""
    for each in pictures:
        for oddity in each.oddities:
            account.leave_out(f"pictures {oddity}", each.file.name)
