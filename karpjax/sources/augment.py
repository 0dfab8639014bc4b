"""Image augmentation, on the device and inside jit, after normalisation: what is padded or cut out has the mean's colour.

    config.augment = [dict(name="pad_crop", pixels=4), dict(name="flip"), dict(name="cutmix", alpha=1.0)]

Each is keyed by the number of the example's draw, so 1 and 8 devices, and a batch or its micro-batches, see the same images.
Those in EACH map (example, key) to an example; those in TOGETHER mix the rows of a batch, and its labels with them.
"""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError, check_choice, did_you_mean

PAD_MODES = ("constant", "reflect", "edge", "min")


def pad_crop(pixels: int, mode: str = "constant"):
    """Pad every side by `pixels` and cut an image of the old size out at random (He et al. 2016, section 4.2).

    mode  "constant": the mean's colour; "min": the image's darkest value; "reflect" and "edge" as in numpy.pad
    """
    check_choice(mode, PAD_MODES, "config.augment: pad_crop's mode")

    def augment(example, key):
        image = example["image"]                                                           # (H, W, C)
        how = dict(mode="constant", constant_values=image.min()) if mode == "min" else dict(mode=mode)
        padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), **how)
        start = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        return {**example, "image": jax.lax.dynamic_slice(padded, (*start, 0), image.shape)}
    return augment


def flip():
    """Mirror left to right, half of the time."""
    return lambda example, key: _flip_if(jax.random.bernoulli(key), example)


def alternating_flip(seed: int):
    """Mirror half of the images, drawn once for the run, in even epochs and the other half in odd ones (Jordan 2024, "94% on
    CIFAR-10 in 3.29 seconds"): in two epochs each image is seen both ways."""
    def augment(example, key):
        first = jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), example["row"]))
        return _flip_if(first ^ (example["epoch"] % 2 == 1), example)
    return augment


def random_resized_crop(size: int, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """A part of random area and aspect ratio, bilinear with antialiasing to size x size (Szegedy et al. 2015, section 6).

    As torchvision has it: the first of ten random rectangles that fits, else the largest in the middle that keeps to `ratio`.
    """
    def augment(example, key):
        image = example["image"]
        H, W, C = image.shape
        area_key, ratio_key, place_key = jax.random.split(key, 3)
        part = H * W * jax.random.uniform(area_key, (10,), minval=area[0], maxval=area[1])
        aspect = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
        widest = min(max(W / H, ratio[0]), ratio[1])                                       # for the fallback
        w = jnp.append(jnp.round(jnp.sqrt(part * aspect)), min(W, H * widest))             # (11,)
        h = jnp.append(jnp.round(jnp.sqrt(part / aspect)), min(H, W / widest))
        fits = (w <= W) & (h <= H) & (w >= 1) & (h >= 1)
        first = jnp.argmax(fits.at[10].set(True))
        w, h, room = w[first], h[first], jnp.where(first == 10, 0.5, jax.random.uniform(place_key, (2,)))
        scale = jnp.stack([size / h, size / w])
        corner = room * jnp.stack([H - h, W - w])
        crop = jax.image.scale_and_translate(image, (size, size, C), (0, 1), scale, -corner * scale, method="linear")
        return {**example, "image": crop.astype(image.dtype)}
    return augment


def cutout(size: int):
    """The mean's colour on a size x size square; its centre is anywhere, so parts may lie outside (DeVries, Taylor 2017)."""
    def augment(example, key):
        H, W, _ = example["image"].shape
        top, left = jax.random.randint(key, (2,), 0, jnp.array([H, W])) - size // 2
        inside = _between(H, top, top + size)[:, None] & _between(W, left, left + size)    # (H, W)
        return {**example, "image": jnp.where(inside[..., None], 0, example["image"])}
    return augment


def mixup(alpha: float):
    """Blend each image, and its label, with another of the batch, by shares from Beta(alpha, alpha) (Zhang et al. 2018)."""
    quantiles = _beta_quantiles(alpha)

    def mix(batch, keys):
        share = _sample(quantiles, keys)                                                   # (B,)
        image, weight = batch["image"], share[:, None, None, None].astype(batch["image"].dtype)
        return {**batch, "image": weight * image + (1 - weight) * image[::-1], **_mixed_labels(batch, share)}
    return mix


def cutmix(alpha: float):
    """A rectangle of each image is of another of the batch, and the label in the same proportion (Yun et al. 2019)."""
    quantiles = _beta_quantiles(alpha)

    def mix(batch, keys):
        image = batch["image"]
        _, H, W, _ = image.shape
        share_key, centre_key = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        side = jnp.sqrt(1 - _sample(quantiles, share_key))[:, None]                        # (B, 1), of the image's own
        centre = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(centre_key)           # (B, 2)
        low, high = (jnp.round((centre + s * side / 2) * jnp.array([H, W])) for s in (-1, 1))
        rows = jax.vmap(functools.partial(_between, H))(low[:, 0], high[:, 0])             # (B, H)
        columns = jax.vmap(functools.partial(_between, W))(low[:, 1], high[:, 1])          # (B, W)
        inside = rows[:, :, None] & columns[:, None, :]                                    # (B, H, W)
        kept = 1 - inside.mean((1, 2))                                                     # (B,): the edge may cut a part off
        return {**batch, "image": jnp.where(inside[..., None], image[::-1], image), **_mixed_labels(batch, kept)}
    return mix


def targets(batch, classes: int):
    """(B, classes): the labels as distributions, as mixing left them."""
    if "labels" not in batch:
        return jax.nn.one_hot(batch["label"], classes)
    return jnp.sum(batch["shares"][..., None] * jax.nn.one_hot(batch["labels"], classes), axis=1)


EACH = {f.__name__: f for f in (pad_crop, flip, alternating_flip, random_resized_crop, cutout)}
TOGETHER = {f.__name__: f for f in (mixup, cutmix)}


def make(specs, **known):
    """(augment, mix) for a source from config.augment; `known` are values that the task gives, the run's seed."""
    specs = [dict(spec) for spec in specs]
    each, together = [], []
    for spec in specs:
        name = spec.pop("name", "")
        if name not in EACH | TOGETHER:
            raise UserError(f"config.augment: no augmentation {name!r}{did_you_mean(name, EACH | TOGETHER)}")
        function = (EACH | TOGETHER)[name]
        arguments = inspect.signature(function).parameters
        for key in spec:
            if key not in arguments or key in known:
                raise UserError(f"config.augment: {name} has no option {key!r}{did_you_mean(key, set(arguments) - set(known))}")
        lacking = [a for a, p in arguments.items() if p.default is p.empty and a not in spec and a not in known]
        if lacking:
            raise UserError(f"config.augment: {name} needs {', '.join(lacking)}; found {spec or 'no options'}")
        (each if name in EACH else together).append(function(**spec, **{a: known[a] for a in arguments if a in known}))
    return _in_order(each, jax.random.fold_in), _in_order(together, jax.vmap(jax.random.fold_in, (0, None)))


# ---------------------------------------------------------------------------------------------------- small parts

def _in_order(functions, fold_in):
    """One function of many, each with a key of its own; None of none."""
    def apply(example, key):
        for i, function in enumerate(functions):
            example = function(example, fold_in(key, i))
        return example
    return apply if functions else None


def _flip_if(condition, example):
    return {**example, "image": jnp.where(condition, example["image"][:, ::-1], example["image"])}


def _between(n: int, low, high):
    """(n,) booleans: low <= i < high."""
    i = jnp.arange(n)
    return (i >= low) & (i < high)


def _mixed_labels(batch, share):
    """The labels in each row, (B, K), and the share of each; K doubles with every mix."""
    labels = batch.get("labels", batch["label"][:, None])
    shares = batch.get("shares", jnp.ones(labels.shape))
    return {"labels": jnp.concatenate([labels, labels[::-1]], 1),
            "shares": jnp.concatenate([share[:, None] * shares, (1 - share[:, None]) * shares[::-1]], 1)}


def _beta_quantiles(alpha: float, n: int = 4096):
    """Quantiles of Beta(alpha, alpha): jax.random.beta rejects in a loop, on whose condition all devices must agree."""
    if not alpha > 0:
        raise UserError(f"config.augment: alpha: expected more than 0, found {alpha}")
    from scipy.special import betaincinv  # a fifth of a second of every start, and only mixing needs it
    return betaincinv(alpha, alpha, np.linspace(0, 1, n)).astype(np.float32)


def _sample(quantiles, keys):
    """(B,) values, one a key, between the quantiles."""
    u = jax.vmap(jax.random.uniform)(keys)
    return jnp.interp(u, np.linspace(0, 1, len(quantiles), dtype=np.float32), quantiles)
