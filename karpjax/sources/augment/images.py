"""Augmentation of one image: crops, mirrors, holes. Each maps (example, key) to an example."""
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import check_choice

PAD_MODES = ("constant", "reflect", "edge", "min")


def pad_crop(pixels: int, mode: str = "constant"):
    """Pad every side and cut out the old size at random (He et al. 2016, section 4.2).

    pixels  of padding on every side
    mode    "constant": the mean's colour; "min": the image's darkest value; "reflect" and "edge" as
            in numpy.pad
    """
    check_choice(mode, PAD_MODES, "config.augment: pad_crop's mode")

    def augment(example, key):
        image = example["image"]                                                       # (H, W, C)
        constant = dict(mode="constant", constant_values=image.min())
        how = constant if mode == "min" else dict(mode=mode)
        padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), **how)
        start = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        cut = jax.lax.dynamic_slice(padded, (*start, 0), image.shape)
        return {**example, "image": cut}
    return augment


def flip():
    """Mirror left to right, half of the time."""
    def augment(example, key):
        return mirrored_if(jax.random.bernoulli(key), example)
    return augment


def alternating_flip(seed: int):
    """Mirror half of the images in even epochs and the other half in odd ones (Jordan 2024).

    The halves are drawn once for the run. In two epochs each image is seen both ways ("94% on
    CIFAR-10 in 3.29 seconds").
    """
    def augment(example, key):
        first = jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), example["row"]))
        return mirrored_if(first ^ (example["epoch"] % 2 == 1), example)
    return augment


def random_resized_crop(size: int, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Cut out a part of random area and aspect ratio (Szegedy et al. 2015, section 6).

    The part is resized to size x size, bilinear with antialiasing. As in torchvision it is the
    first of ten random rectangles that fits, else the largest in the middle that keeps to `ratio`.
    """
    def augment(example, key):
        image = example["image"]
        H, W, C = image.shape
        area_key, ratio_key, place_key = jax.random.split(key, 3)
        part = H * W * jax.random.uniform(area_key, (10,), minval=area[0], maxval=area[1])
        aspect = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=np.log(ratio[0]),
                                            maxval=np.log(ratio[1])))
        widest = min(max(W / H, ratio[0]), ratio[1])                               # if none fits
        w = jnp.append(jnp.round(jnp.sqrt(part * aspect)), min(W, H * widest))     # (11,)
        h = jnp.append(jnp.round(jnp.sqrt(part / aspect)), min(H, W / widest))
        fits = (w <= W) & (h <= H) & (w >= 1) & (h >= 1)
        first = jnp.argmax(fits.at[10].set(True))
        w, h = w[first], h[first]
        room = jnp.where(first == 10, 0.5, jax.random.uniform(place_key, (2,)))
        scale = jnp.stack([size / h, size / w])
        corner = room * jnp.stack([H - h, W - w])
        crop = jax.image.scale_and_translate(image, (size, size, C), (0, 1), scale,
                                             -corner * scale, method="linear")
        return {**example, "image": crop.astype(image.dtype)}
    return augment


def cutout(size: int):
    """Put the mean's colour on a size x size square (DeVries, Taylor 2017).

    Its centre is anywhere, so parts may lie outside.
    """
    def augment(example, key):
        H, W, _ = example["image"].shape
        top, left = jax.random.randint(key, (2,), 0, jnp.array([H, W])) - size // 2
        rows = between(H, top, top + size)[:, None]
        inside = rows & between(W, left, left + size)                              # (H, W)
        return {**example, "image": jnp.where(inside[..., None], 0, example["image"])}
    return augment


# ---------------------------------------------------------------------------------- small parts

def mirrored_if(condition, example):
    """Return the example, its image mirrored left to right if the condition holds."""
    image = example["image"]
    return {**example, "image": jnp.where(condition, image[:, ::-1], image)}


def between(n: int, low, high):
    """Return (n,) booleans: low <= i < high."""
    i = jnp.arange(n)
    return (i >= low) & (i < high)
