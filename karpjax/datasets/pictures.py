"""One decoder of pictures, for what is prepared, trained on and predicted: Pillow's.

A picture becomes bytes of 1, 3 or 4 channels, whatever its file holds and whatever else is
installed. Of 16 bits a channel the upper 8 are kept, as Pillow does for colours. A palette gives
its colours. Transparency is dropped, and the colour behind it stays. CMYK becomes RGB, and of an
animation the first frame is taken. A rotation in EXIF is not applied, as usual.
"""
import contextlib
import io
import os

import numpy as np

from karpjax.core import files
from karpjax.core.errors import Outage, UserError, full_disk, outage
from karpjax.core.trees import first_line

GREY = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N", "I")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ROTATION = 0x0112  # EXIF's number for it


class Unreadable(UserError):
    """A picture whose file is at fault."""


def load_pillow(what: str = "a picture"):
    """Return Pillow's Image, or raise a UserError that `what` needs it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(f'{what} needs Pillow; pip install "karpjax[images]"') from error
    return Image


@contextlib.contextmanager
def readable(picture):
    """Raise Unreadable if a picture's file is at fault, and an Outage if the storage is."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise Unreadable(f"{picture}: no such file; expected a picture") from error
    except PermissionError as error:
        raise Unreadable(f"{picture}: this picture cannot be read ({error.strerror}); give "
                         "yourself its permission, or remove it") from error
    except Exception as error:  # Pillow raises all kinds
        # its OSErrors of a damaged file have no number, unlike the system's
        if getattr(error, "errno", None) or isinstance(error, MemoryError):
            if failure := outage(error) or full_disk(error):
                raise Outage(f"{picture}: the storage or the machine failed ({failure}); start the "
                             "same command again") from error
        raise Unreadable(f"{picture}: this picture cannot be read ({type(error).__name__}: "
                         f"{first_line(error)}); replace or remove it") from error


def size_of(file: os.PathLike) -> tuple[int, int]:
    """Return (H, W) of a picture's file, of which only the head is read."""
    with readable(file), load_pillow().open(file) as opened:
        return opened.height, opened.width


def pixels_of(picture, channels: int) -> np.ndarray:
    """Return the bytes (H, W, C) of a file or a picture of PIL's, with that many channels."""
    if isinstance(picture, (str, os.PathLike)):
        picture = files.local(picture, "a picture")
    with readable(picture):
        opened = picture if hasattr(picture, "convert") else load_pillow().open(picture)
        return as_array(opened, channels)


def decode(data: bytes, channels: int) -> np.ndarray:
    """Return the bytes (H, W, C) of an encoded picture, or raise what Pillow raises."""
    return as_array(load_pillow().open(io.BytesIO(data)), channels)


def as_array(picture, channels: int) -> np.ndarray:
    """Return the bytes (H, W, C) of a picture of PIL's."""
    if picture.mode != MODES[channels]:
        picture = eight_bits(picture, channels)
    pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], channels)


def eight_bits(picture, channels: int):
    """Return a picture of PIL's in 8 bits a channel, of 1 (grey), 3 or 4 channels."""
    # Older Pillows open grey of 16 bits as "I", which is else 32 bits of an unknown scale.
    if picture.mode == "F" or picture.mode == "I" and picture.format != "PNG":
        raise ValueError(f"its pixels are numbers of 32 bits, mode {picture.mode}; expected 8 or "
                         "16 bits: scale them to 0 to 255 and save as PNG")
    if picture.mode.startswith("I"):
        upper = np.asarray(picture).astype(np.int32) >> 8
        picture = load_pillow().fromarray(upper.astype(np.uint8))
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # else Pillow warns
    if channels == 1 and picture.mode not in GREY:
        picture = picture.convert("RGB")  # grey by the same weights from every kind of colour
    return picture.convert(MODES[channels])


class Decoder:
    """The decoder in place of TFDS's own, which reads by OpenCV where that is installed."""

    def __init__(self, channels: int):
        self.channels = channels

    def setup(self, feature) -> None:
        """Do nothing: TFDS calls it with its feature."""

    def decode_example_np(self, data: bytes) -> np.ndarray:
        return decode(data, self.channels)


def decoders_of(features) -> dict | None:
    """Return TFDS's argument `decoders` of a set: ours for each picture of 8 bits."""
    import tensorflow_datasets as tfds
    return {name: Decoder(feature.shape[-1]) for name, feature in features.items()
            if type(feature) is tfds.features.Image and feature.np_dtype == np.uint8
            and feature.shape[-1] in MODES} or None


def is_grey(picture) -> bool:
    """Return whether a picture has no colours: by its mode, or by its palette."""
    if picture.mode not in ("P", "PA", "RGBA"):  # RGBA: grey of 16 bits with transparency too
        return picture.mode in GREY
    pixels = as_array(picture, 3)
    return bool((pixels == pixels[..., :1]).all())


def has_16_bits(picture) -> bool:
    """Return whether a picture, opened but not yet loaded, has 16 bits a channel."""
    decoders = str([tile[3] for tile in picture.tile])  # "I;16B", "RGB;16B", ...
    return "16" in picture.mode + decoders


def oddities(picture) -> list[str]:
    """Return what is dropped or converted of a loaded picture."""
    rotation = 1
    with contextlib.suppress(Exception):  # damaged EXIF
        rotation = picture.getexif().get(ROTATION, 1)
    # Pillow's own has_transparency_data is of 10.1: an older one would blame every picture.
    transparent = "transparency" in picture.info or picture.mode in TRANSPARENT or \
        picture.mode == "P" and picture.palette.mode.endswith("A")
    odd = {"with transparency (dropped)": transparent,
           "in CMYK (converted to RGB)": picture.mode == "CMYK",
           "with a rotation in EXIF (not applied)": rotation != 1,
           "of several frames (the first is taken)": getattr(picture, "is_animated", False)}
    return [name for name, is_so in odd.items() if is_so]
