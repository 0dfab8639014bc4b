"""Pictures of many sizes in arrays of one: scaled as they are, with a margin right and below.

It happens on the host, once a picture, before the device moves what it is given (augment/warp.py).
"""
import os

import numpy as np

from karpjax.core.errors import UserError
from karpjax.datasets.pictures import load_pillow

VOID = 255  # the class of a margin's pixels: none


def listed(pictures) -> list:
    """Return files, or pictures of PIL's, as a list. One alone may come without one."""
    def is_one(x) -> bool:
        return isinstance(x, (str, os.PathLike)) or hasattr(x, "convert")
    found = [pictures] if is_one(pictures) else pictures
    odd = [each for each in found if not is_one(each)] if isinstance(found, (list, tuple)) \
        else [pictures]
    if odd:
        raise UserError("expected a list of files, or of pictures of PIL's, found "
                        f"{type(odd[0]).__name__}; give [FILE]")
    return list(found)


def fitted(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the (H, W) that a picture (h, w) is scaled to, so that it just fits in `size`."""
    factor = min(size[0] / picture[0], size[1] / picture[1])
    # Rounded down, as torchvision does. The term is for products a hair below a whole number.
    return tuple(max(1, int(side * factor + 1e-6)) for side in picture)


def letterbox(image, size: tuple[int, int], fill) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (h, w, C) of bytes as (H, W, C), and its scales (2,) along x and y.

    fill  of the margin, a byte a channel. Scaling is bilinear, antialiased
    """
    (h, w, C), (H, W) = image.shape, fitted(image.shape[:2], size)
    out = np.empty((*size, C), np.uint8)
    out[:] = fill
    out[:H, :W] = rescaled(image, (H, W), "BILINEAR")
    return out, np.array([W / w, H / h], np.float32)


def letterbox_mask(mask, size: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) as (H, W), each pixel its nearest, the margin VOID."""
    H, W = fitted(mask.shape, size)
    out = np.full(size, VOID, np.uint8)
    out[:H, :W] = rescaled(mask[..., None], (H, W), "NEAREST")[..., 0]
    return out


def rescaled(image, size: tuple[int, int], method: str) -> np.ndarray:
    """Return a picture (h, w, C) of bytes on another grid (H, W)."""
    (H, W), C = size, image.shape[-1]
    if image.shape[:2] == size:
        return image
    Image = load_pillow("config.data.size")
    picture = Image.fromarray(image if C > 1 else image[..., 0])
    return np.asarray(picture.resize((W, H), Image.Resampling[method])).reshape(H, W, C)
