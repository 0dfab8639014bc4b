"""Augmentation that mixes the images of a batch, and their labels: (batch, keys) to a batch."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.sources.augment.images import between


def mixup(alpha: float):
    """Blend each image, and its label, with another of the batch (Zhang et al. 2018).

    Shares are drawn from Beta(alpha, alpha).
    """
    quantiles = beta_quantiles(alpha)

    def mix(batch, keys):
        share = sample(quantiles, keys)                                           # (B,)
        image = batch["image"]
        weight = share[:, None, None, None].astype(image.dtype)
        mixed = weight * image + (1 - weight) * image[::-1]
        return {**batch, "image": mixed, **mixed_labels(batch, share)}
    return mix


def cutmix(alpha: float):
    """Replace a rectangle of each image by another's of the batch (Yun et al. 2019).

    The label is mixed in the same proportion.
    """
    quantiles = beta_quantiles(alpha)

    def mix(batch, keys):
        image = batch["image"]
        _, H, W, _ = image.shape
        share_key, centre_key = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        side = jnp.sqrt(1 - sample(quantiles, share_key))[:, None]                # (B, 1), a share
        centre = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(centre_key)   # (B, 2)
        low, high = (jnp.round((centre + s * side / 2) * jnp.array([H, W])) for s in (-1, 1))
        rows = jax.vmap(functools.partial(between, H))(low[:, 0], high[:, 0])      # (B, H)
        columns = jax.vmap(functools.partial(between, W))(low[:, 1], high[:, 1])   # (B, W)
        inside = rows[:, :, None] & columns[:, None, :]                            # (B, H, W)
        kept = 1 - inside.mean((1, 2))                           # (B,): the edge may cut a part off
        mixed = jnp.where(inside[..., None], image[::-1], image)
        return {**batch, "image": mixed, **mixed_labels(batch, kept)}
    return mix


def targets(batch, classes: int):
    """Return (B, classes): the labels as distributions, as mixing left them."""
    if "labels" not in batch:
        return jax.nn.one_hot(batch["label"], classes)
    each = jax.nn.one_hot(batch["labels"], classes)                                # (B, K, classes)
    return jnp.sum(batch["shares"][..., None] * each, axis=1)


def mixed_labels(batch, share):
    """Return the labels in each row, (B, K), and their shares. K doubles with every mix."""
    labels = batch.get("labels", batch["label"][:, None])
    shares = batch.get("shares", jnp.ones(labels.shape))
    both = [share[:, None] * shares, (1 - share[:, None]) * shares[::-1]]
    return {"labels": jnp.concatenate([labels, labels[::-1]], 1),
            "shares": jnp.concatenate(both, 1)}


def beta_quantiles(alpha: float, n: int = 4096):
    """Return quantiles of Beta(alpha, alpha), (n,).

    jax.random.beta rejects in a loop, on whose condition all devices must agree.
    """
    if not alpha > 0:
        raise UserError(f"config.augment: alpha: expected more than 0, found {alpha}")
    from scipy.special import betaincinv  # a fifth of a second of every start; only mixing needs it
    return betaincinv(alpha, alpha, np.linspace(0, 1, n)).astype(np.float32)


def sample(quantiles, keys):
    """Return (B,) values, one a key, between the quantiles."""
    u = jax.vmap(jax.random.uniform)(keys)
    return jnp.interp(u, np.linspace(0, 1, len(quantiles), dtype=np.float32), quantiles)
