"""Vision transformers (Dosovitskiy et al. 2021), and masked autoencoders that pretrain them (MAE, He et al. 2022).

    config.model = dict(name="vit", patch=16, layers=12, width=192, heads=3)                     # ViT-Ti; S: 384, 6; B: 768, 12
    config.model = dict(name="mae", patch=4, layers=6, width=128, heads=4, decoder_layers=2, decoder_width=64)

Images are cut into N patches, row by row; a class token comes first. The MAE's encoder has the names of the ViT, so that a ViT
starts from one with config.init_from and init_skip = the decoder and the head. Both take Hugging Face's
weights, ViT also timm's (karpjax/weights/vit.py); Hugging Face's norms have eps = 1e-12.
"""
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from karpjax.core.errors import UserError, check_choice
from karpjax.models.layers.transformer import Block, Dense, block_class, init, layer_of, norm

POOLS = ("cls", "mean")


class Patches(nn.Module):
    """What ViT and MAE share: `encode` makes the layers, in the scope of the one that calls it."""
    patch: int = 16
    layers: int = 12
    width: int = 192
    heads: int = 3
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0     # of the last layer; earlier ones less, in a line
    lora: int = 0              # rank of the attention's trainable part beside frozen matrices: see transformer.py
    lora_alpha: float = 16.0
    remat: bool = False        # compute blocks anew in the backward pass, for memory
    first = ("cls",)           # tokens before the patches

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        return layer_of(name, ("patch", "position", *self.first))

    def adapt(self, name: str, stored, shape):
        """Return stored positions fitted to another grid of patches; None for other parameters."""
        if name in ("position", "decoder_position") and stored.shape[1:] == shape[1:]:
            return resized(stored, shape, len(self.first))
        return None

    def encode(self, images: Float[Array, "B H W C"], train: bool, order=None, keep: int = 0) -> list:
        """(B, F + N, D) after the embedding and each layer, the last normed; with `order` (B, N) of its first `keep`."""
        B, H, W, _ = images.shape
        P, D, F = self.patch, self.width, len(self.first)
        if H % P or W % P:
            raise UserError(f"config.model.patch = {P}: expected a divisor of the images' sides, {H} x {W}")
        x = nn.Conv(D, (P, P), (P, P), padding="VALID", kernel_init=init, name="patch")(images)
        x = x.reshape(B, -1, D)                                                               # (B, N, D)
        position = self.param("position", sines, (F + x.shape[1], D), F).astype(x.dtype)
        x = x + position[F:]
        if order is not None:
            x = jnp.take_along_axis(x, order[:, :keep, None], axis=1)                         # (B, keep, D)
        first = jnp.stack([self.param(name, init, (D,)) for name in self.first]).astype(x.dtype) + position[:F]
        x = jnp.concatenate([jnp.broadcast_to(first, (B, F, D)), x], axis=1)                  # (B, F + N, D)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        states = [x]
        for i in range(self.layers):
            x = self.block(self.heads, f"block{i}", self.drop_path * i / max(1, self.layers - 1))(x, None, None, train)
            states.append(x)
        return [*states[:-1], norm(self.eps, True, "norm")(states[-1])]

    def block(self, heads: int, name: str, drop_path: float = 0.0) -> Block:
        return block_class(self.remat)(
            heads, norm="pre", mlp="gelu", bias=True, rotary=False, eps=self.eps, dropout=self.dropout,
            drop_path=drop_path, lora=self.lora, lora_alpha=self.lora_alpha, name=name)


class ViT(Patches):
    """(B, H, W, C) -> logits (B, classes), from the class token or the patches' mean.

    distilled  DeiT's (Touvron et al. 2021, section 3): a second token with a head of its own, and the mean of both heads
    """
    classes: int = 0
    pool: str = "cls"
    distilled: bool = False

    @property
    def first(self):
        return ("cls", "dist") if self.distilled else ("cls",)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, features: bool = False):
        check_choice(self.pool, POOLS, "config.model.pool")
        states = self.encode(images, train)
        pooled = states[-1][:, 0] if self.pool == "cls" else states[-1][:, len(self.first):].mean(1)  # (B, D)
        logits = Dense(self.classes, name="head")(pooled)                                     # (B, classes)
        if self.distilled:
            logits = (logits + Dense(self.classes, name="head_dist")(states[-1][:, 1])) / 2
        return (logits, {"pooled": pooled, **{f"state{i}": x for i, x in enumerate(states)}}) if features else logits


class MAE(Patches):
    """(B, H, W, C) -> all patches (B, N, P x P x C), from those that are visible, the first `keep` of `order` (B, N)."""
    decoder_layers: int = 4
    decoder_width: int = 96
    decoder_heads: int = 4

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False, order: Int[Array, "B N"] | None = None,
                 keep: int = 0, features: bool = False):
        states = self.encode(images, train, order, keep)
        y = Dense(self.decoder_width, name="decoder_embed")(states[-1])                       # (B, 1 + keep, E)
        if order is not None:  # a mask token for each patch that is not there, then all in their places
            B, N = order.shape
            mask = self.param("mask", init, (self.decoder_width,)).astype(y.dtype)
            y_all = jnp.concatenate([y[:, 1:], jnp.broadcast_to(mask, (B, N - keep, len(mask)))], axis=1)
            back = jnp.argsort(order, axis=1)
            y = jnp.concatenate([y[:, :1], jnp.take_along_axis(y_all, back[..., None], axis=1)], axis=1)
        elif self.is_initializing():
            self.param("mask", init, (self.decoder_width,))
        y = y + self.param("decoder_position", sines, y.shape[1:], 1).astype(y.dtype)            # (B, 1 + N, E)
        decoded = []
        for i in range(self.decoder_layers):
            y = self.block(self.decoder_heads, f"decoder_block{i}")(y, None, None, train)
            decoded.append(y)
        y = norm(self.eps, True, "decoder_norm")(y)[:, 1:]
        pixels = Dense(self.patch**2 * images.shape[-1], name="decoder_head")(y)                  # (B, N, P P C)
        found = {"pooled": states[-1][:, 1:].mean(1), **{f"state{i}": x for i, x in enumerate(states)},
                 **{f"decoder_state{i + 1}": y for i, y in enumerate(decoded)}}
        return (pixels, found) if features else pixels


def patches_of(images: Float[Array, "B H W C"], P: int) -> Float[Array, "B N F"]:
    """The pixels of each patch, (B, N, P x P x C), row by row."""
    B, H, W, C = images.shape
    return images.reshape(B, H // P, P, W // P, P, C).swapaxes(2, 3).reshape(B, -1, P * P * C)


def images_of(patches: Float[Array, "B N F"], P: int, shape) -> Float[Array, "B H W C"]:
    """The images again; shape is theirs, (H, W, C)."""
    H, W, C = shape
    return patches.reshape(-1, H // P, W // P, P, P, C).swapaxes(2, 3).reshape(-1, H, W, C)


def resized(position: Float[Array, "T D"], shape, first: int) -> Float[Array, "S D"]:
    """Positions for another square grid of patches: bicubic, antialiased, as timm has it; the first tokens keep theirs."""
    (T, D), (S, _) = position.shape, shape
    old, new = (round((n - first) ** 0.5) for n in (T, S))
    if old**2 != T - first or new**2 != S - first:
        raise UserError(f"positions of {T - first} patches for {S - first}: expected square grids; use square images")
    grid = position[first:].reshape(old, old, D)
    return jnp.concatenate([position[:first], jax.image.resize(grid, (new, new, D), "cubic").reshape(-1, D)])


def sines(key, shape, first: int, dtype=jnp.float32):
    """Positions on a square grid (MAE's code): half the width sines and cosines of the column, half of the row; 0 for the
    tokens before. It is where learned positions start; MAE keeps them (config.optimizer.freeze)."""
    T, D = shape
    side = round((T - first) ** 0.5)
    if side * side != T - first or D % 4:
        return init(key, shape, dtype)
    angle = np.arange(side)[:, None] / 10000 ** (np.arange(D // 4) / (D / 4))                 # (side, D/4)
    line = np.concatenate([np.sin(angle), np.cos(angle)], 1)                                  # (side, D/2)
    grid = np.concatenate([np.tile(line, (side, 1)), np.repeat(line, side, 0)], 1)            # (N, D): column, row
    return jnp.asarray(np.concatenate([np.zeros((first, D)), grid]), dtype)
