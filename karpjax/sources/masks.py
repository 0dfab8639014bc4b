"""Pictures with a class for every pixel, from any TFDS data set of segmentation.

    config.data = dict(name="camvid", train="train", validation="val", test="test", batch_size=8,
                       size=(360, 480))

karpjax.prepare makes such sets of pictures and PNGs (datasets/masks.py). Of TFDS's own those are
read that have segmentation_mask, as oxford_iiit_pet has.
"""
from ml_collections import ConfigDict
import numpy as np

from karpjax.core.errors import UserError, check_keys
from karpjax.datasets.tfds import metadata_of, open_splits
from karpjax.sources.boxes import (
    KEYS, check_size, described, in_colour, normalisation, open_builder, spec_only)
from karpjax.sources.letterbox import VOID, letterbox, letterbox_mask
from karpjax.sources.records import source_of
from karpjax.sources.source import Source

MASK = "segmentation_mask"


def masks(data, augment=None) -> Source:
    """Return a source of {"image": (B, H, W, 3) float32, "mask": (B, H, W) uint8}, letterboxed.

    The mask's pixels are classes, or VOID for none, as in the margin. data is config.data, a dict:
    name, data_dir, train, validation, test, batch_size, mean, std and on_device as for images
    (images.py), and

    size     (H, W) of the image
    classes  number of classes, of a set that does not have their names
    """
    data = ConfigDict(dict(data))
    check_keys(data, (*KEYS, "classes"), "config.data", required=("train", "batch_size", "size"))
    size = check_size(data)
    normalise, pixels, fill = normalisation(data)
    try:
        builder = open_builder(data, ("image", MASK), "masks")
    except UserError as error:
        if not data.get("described"):
            raise
        return spec_only(data.described.to_dict(), normalise, error, fill)
    wanted, records = open_splits(builder, data)
    names = metadata_of(builder).get("classes") or list(map(str, range(data.get("classes", 0))))
    if not names:
        raise UserError(f"data set {data.name!r} does not say its classes; give their number, "
                        "config.data.classes")

    def decode(record):
        image = in_colour(np.asarray(record["image"]), data.name)                   # (h, w, 3)
        mask = np.asarray(record[MASK])[..., 0]                                     # (h, w)
        if image.shape[:2] != mask.shape:
            raise UserError(f"data set {data.name!r}: a mask is of {mask.shape}, its picture of "
                            f"{image.shape[:2]}; prepare the set again")
        beyond = mask[(mask >= len(names)) & (mask != VOID)]
        if beyond.size:
            raise UserError(f"data set {data.name!r}: a pixel is of class {beyond[0]}, expected 0 "
                            f"to {len(names) - 1}, or {VOID} for none; raise "
                            "config.data.classes, or prepare the set again")
        return {"image": letterbox(image, size, fill)[0], "mask": letterbox_mask(mask, size)}
    source = source_of(data, wanted, records, decode, 4 * size[0] * size[1], preprocess=normalise,
                       augment=augment)
    return described(source, builder, names, size, pixels, fill)
