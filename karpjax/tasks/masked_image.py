"""Masked autoencoding of images (MAE, He et al. 2022): predict the hidden patches from the visible.

    config.task = "masked_image"; config.model (name="mae"),
    config.data (karpjax/sources/images.py), config.augment,
    config.mask_rate     0.75, in training and evaluation
    config.normalise     true: each target patch to mean 0 and deviation 1, as in the paper's best
                         runs

The encoder sees visible patches only. Their choice is keyed by the row's draw number, in evaluation
by its position in the split. Metrics: "mae", the mean squared error of masked patches. If targets
are normalised, 1 is what the mean of each patch gives.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

import karpjax as kj
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.models.vit import images_of, patches_of
from karpjax.sources import augment
from karpjax.sources.source import example_keys

SHOWN = 8  # pictures at the end of a run


def build(config) -> kj.Task:
    """Build the task: images (B, H, W, C) -> pixels of all patches (B, N, P x P x C)."""
    check_own_keys(config, "augment", "mask_rate", "normalise")
    rate, normalise = config.get("mask_rate", 0.75), config.get("normalise", True)
    if not 0 < rate < 1:
        raise kj.UserError(f"config.mask_rate: expected a share between 0 and 1, found {rate}")
    each, together = augment.make(config.get("augment", ()), seed=config.seed)
    if together:
        raise kj.UserError("config.augment: mixup and cutmix mix labels, which masked_image has "
                           "none of; leave them out")
    model = kj.models.make_model(config.model)

    def with_order(example, key):
        """Add order (N,): the patches, those that stay visible first."""
        H, W, _ = example["image"].shape
        noise = jax.random.uniform(key, (H * W // model.patch**2,))
        return {**example, "order": jnp.argsort(noise)}

    def augment_and_order(example, key):
        augmenting, masking = jax.random.split(key)
        return with_order(each(example, augmenting) if each else example, masking)

    def with_eval_order(batch):
        keys = example_keys(jax.random.key(0), batch["index"])
        return {**batch, **jax.vmap(with_order)({"image": batch["image"]}, keys)}

    def loss(params, model_state, batch, key):
        batch = batch if key is not None else with_eval_order(batch)
        order = batch["order"]                                                       # (B, N)
        keep = visible(order.shape[1], rate)
        pixels, model_state = kj.apply(model, params, model_state, batch["image"], key,
                                       order=order, keep=keep)
        error = error_of_masked(pixels, batch["image"], order, keep, model.patch, normalise,
                                batch["weight"])
        return {"mae": error}, {}, model_state

    def show(variables, batch):
        """Return a picture with three columns: the image, its visible patches, the reconstruction.

        In the last column the model fills only the masked patches.
        """
        batch = with_eval_order(jax.tree.map(lambda column: column[:SHOWN], batch))
        images, order = batch["image"], batch["order"]
        keep = visible(order.shape[1], rate)
        pixels, _ = kj.apply(model, *split_variables(variables), images, order=order, keep=keep)
        patches = patches_of(images, model.patch)                                    # (B, N, F)
        if normalise:
            mean, deviation = mean_and_deviation(patches)
            pixels = pixels * deviation + mean
        hidden = (jnp.argsort(order, axis=1) >= keep)[..., None]                     # (B, N, 1)
        columns = [patches, jnp.where(hidden, 0.0, patches), jnp.where(hidden, pixels, patches)]
        pictures = [source.pixels(images_of(column, model.patch, images.shape[1:]))
                    for column in columns]
        table = np.concatenate(np.concatenate(pictures, axis=2), axis=0)             # (B H, 3 W, C)
        return {"reconstructions.png": np.broadcast_to(table, (*table.shape[:2], 3))}

    source = kj.sources.images(config.data, augment=augment_and_order)
    return kj.Task(model, source, loss, show=show)


def visible(N: int, rate: float) -> int:
    """Return the number of visible patches, rounded as in the paper's code."""
    return max(1, int(N * (1 - rate)))


def error_of_masked(pixels, images, order, keep: int, P: int, normalise: bool, weight=1.0):
    """Return (total, count) of the mean squared error of each masked patch."""
    error = ((pixels - targets(images, P, normalise)) ** 2).mean(-1)                 # (B, N)
    masked = (jnp.argsort(order, axis=1) >= keep).astype(jnp.float32)                # (B, N)
    return kj.mean(error, masked * jnp.reshape(weight, (-1, 1)))


def targets(images: Float[Array, "B H W C"], P: int, normalise: bool) -> Float[Array, "B N F"]:
    """Return the patches to predict, each normalised if asked for."""
    patches = patches_of(images, P)
    if not normalise:
        return patches
    mean, deviation = mean_and_deviation(patches)
    return (patches - mean) / deviation


def mean_and_deviation(patches):
    """Return the mean and the standard deviation of each patch's pixels, (B, N, 1) each."""
    mean = patches.mean(-1, keepdims=True)
    return mean, jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + 1e-6)
