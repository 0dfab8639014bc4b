"""Vision transformers (Dosovitskiy et al. 2021) and masked autoencoders (MAE, He et al. 2022).

    config.model = dict(name="vit", patch=16, layers=12, width=192, heads=3)
                                                              # ViT-Ti; S: 384, 6; B: 768, 12
    config.model = dict(name="mae", patch=4, layers=6, width=128, heads=4, decoder_layers=2,
                        decoder_width=64)

Images are cut into N patches, row by row, and a class token comes first. An MAE pretrains a ViT,
and its encoder has the ViT's names. So a ViT starts from one with config.init_from, and with
init_skip for the decoder and the head. Both take Hugging Face's weights, ViT also timm's, MAE its
authors' (karpjax/weights/vit.py). Hugging Face's norms have eps = 1e-12.
"""
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from karpjax.core.errors import UserError, check_choice
from karpjax.models.layers import Natural
from karpjax.models.layers.transformer import Block, Dense, block_class, init, layer_of, norm

POOLS = ("cls", "mean", "norm_of_mean")


class Patches(nn.Module):
    """The part that ViT and MAE share.

    `encode` makes the layers in the scope of the model that calls it.
    """
    patch: int = 16
    layers: Natural = 12
    width: int = 192
    heads: int = 3
    mlp: str = "gelu"          # see ACTIVATIONS in layers/transformer.py
    eps: float = 1e-6
    dropout: float = 0.0
    drop_path: float = 0.0     # of the last layer; it grows linearly from 0 at the first
    lora: int = 0              # rank of the attention's trainable part, see layers/transformer.py
    lora_alpha: float = 16.0
    remat: bool = False        # compute blocks again in the backward pass, to save memory
    first = ("cls",)           # tokens before the patches

    def layer_of(self, name: str) -> int | None:
        """Return the number of a parameter's layer, for config.optimizer.layer_decay."""
        return layer_of(name, ("patch", "position", *self.first))

    def adapt(self, name: str, stored, shape):
        """Return stored positions fitted to another grid of patches. None for other parameters."""
        if name in ("position", "decoder_position") and stored.shape[1:] == shape[1:]:
            return resized(stored, shape, len(self.first))
        return None

    def encode(self, images: Float[Array, "B H W C"], train: bool, order=None,
               keep: int = 0, normed: bool = True) -> list:
        """Return the states (B, F + N, D): the embeddings, then each layer's output.

        order, keep    the patches' order (B, N), and how many of its first are seen; None: all
        normed         whether the last is normed
        """
        x = self.embeddings(images, order, keep)                                  # (B, F + N, D)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        states = [x]
        for i in range(self.layers):
            drop_path = self.drop_path * i / max(1, self.layers - 1)
            x = self.block(self.heads, f"block{i}", drop_path)(x, None, None, train)
            states.append(x)
        if normed:
            states[-1] = norm(self.eps, True, "norm")(states[-1])
        return states

    def embeddings(self, images, order, keep: int) -> Float[Array, "B T D"]:
        """Return the first tokens and the patches, or those that are seen, with their positions."""
        B, H, W, _ = images.shape
        P, D, F = self.patch, self.width, len(self.first)
        if H % P or W % P:
            raise UserError(f"config.model.patch = {P}: expected a divisor of the images' sides, "
                            f"{H} x {W}")
        x = nn.Conv(D, (P, P), (P, P), padding="VALID", kernel_init=init, name="patch")(images)
        x = x.reshape(B, -1, D)                                                   # (B, N, D)
        position = self.param("position", sines, (F + x.shape[1], D), F).astype(x.dtype)
        x = x + position[F:]
        if order is not None:
            x = jnp.take_along_axis(x, order[:, :keep, None], axis=1)             # (B, keep, D)
        tokens = jnp.stack([self.param(name, init, (D,)) for name in self.first])
        tokens = tokens.astype(x.dtype) + position[:F]                            # (F, D)
        return jnp.concatenate([jnp.broadcast_to(tokens, (B, F, D)), x], axis=1)

    def block(self, heads: int, name: str, drop_path: float = 0.0) -> Block:
        """Return a transformer block in ViT's form."""
        return block_class(self.remat)(
            heads, norm="pre", mlp=self.mlp, bias=True, rotary=False, eps=self.eps,
            dropout=self.dropout, drop_path=drop_path, lora=self.lora, lora_alpha=self.lora_alpha,
            name=name)


class ViT(Patches):
    """The network: (B, H, W, C) -> logits (B, classes), from the class token or the patches' mean.

    pool       "cls" or "mean", of the normed states; "norm_of_mean": the mean of the patches before
               their norm, then the norm, as MAE is fine-tuned (timm's fc_norm)
    distilled  DeiT's form (Touvron et al. 2021, section 3): a second token with a head of its own,
               and the mean of both heads
    classes    0: the backbone alone, whose result is the states
    """
    classes: Natural = 0
    pool: str = "cls"
    distilled: bool = False

    @property
    def first(self):
        """Return the names of the tokens before the patches."""
        return ("cls", "dist") if self.distilled else ("cls",)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 features: bool = False):
        check_choice(self.pool, POOLS, "config.model.pool")
        late = self.pool == "norm_of_mean"
        states = self.encode(images, train, normed=not late)
        by_layer = {f"state{i}": state for i, state in enumerate(states)}
        if not self.classes:
            return by_layer
        x = states[-1]                                                            # (B, F + N, D)
        patches = x[:, len(self.first):]                                          # (B, N, D)
        pooled = x[:, 0] if self.pool == "cls" else patches.mean(1)               # (B, D)
        if late:
            pooled = norm(self.eps, True, "norm")(pooled)
        logits = Dense(self.classes, name="head")(pooled)                         # (B, classes)
        if self.distilled:
            logits = (logits + Dense(self.classes, name="head_dist")(x[:, 1])) / 2
        return (logits, {"pooled": pooled, **by_layer}) if features else logits

    def levels(self, images: Float[Array, "B H W C"],
               train: bool = False) -> dict[int, Float[Array, "B h w D"]]:
        """Return the map of the last layer's patches by its stride: what a pyramid is built on."""
        B, H, W, _ = images.shape
        last = self(images, train, features=True)[f"state{self.layers}"]          # (B, F + N, D)
        grid = last[:, len(self.first):].reshape(B, H // self.patch, W // self.patch, -1)
        return {self.patch: grid}


class MAE(Patches):
    """The autoencoder: (B, H, W, C) -> all patches (B, N, P x P x C) from the visible ones.

    Visible are the first `keep` of `order` (B, N).
    """
    decoder_layers: Natural = 4
    decoder_width: int = 96
    decoder_heads: int = 4

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False,
                 order: Int[Array, "B N"] | None = None, keep: int = 0, features: bool = False):
        states = self.encode(images, train, order, keep)
        y = Dense(self.decoder_width, name="decoder_embed")(states[-1])           # (B, 1 + keep, E)
        if order is not None:
            y = self.with_mask_tokens(y, order, keep)                             # (B, 1 + N, E)
        elif self.is_initializing():
            self.param("mask", init, (self.decoder_width,))
        y = y + self.param("decoder_position", sines, y.shape[1:], 1).astype(y.dtype)
        decoded = []
        for i in range(self.decoder_layers):
            y = self.block(self.decoder_heads, f"decoder_block{i}")(y, None, None, train)
            decoded.append(y)
        y = norm(self.eps, True, "decoder_norm")(y)[:, 1:]                        # (B, N, E)
        pixels = Dense(self.patch**2 * images.shape[-1], name="decoder_head")(y)  # (B, N, P P C)
        pooled = states[-1][:, 1:].mean(1)                                        # (B, D)
        by_layer = {f"state{i}": state for i, state in enumerate(states)}
        by_layer |= {f"decoder_state{i + 1}": state for i, state in enumerate(decoded)}
        return (pixels, {"pooled": pooled, **by_layer}) if features else pixels

    def with_mask_tokens(self, y, order, keep: int) -> Float[Array, "B T E"]:
        """Add a mask token for each hidden patch, and put all patches back in their places."""
        B, N = order.shape
        mask = self.param("mask", init, (self.decoder_width,)).astype(y.dtype)
        masks = jnp.broadcast_to(mask, (B, N - keep, len(mask)))
        patches = jnp.concatenate([y[:, 1:], masks], axis=1)                      # (B, N, E)
        back = jnp.argsort(order, axis=1)
        patches = jnp.take_along_axis(patches, back[..., None], axis=1)
        return jnp.concatenate([y[:, :1], patches], axis=1)


def patches_of(images: Float[Array, "B H W C"], P: int) -> Float[Array, "B N F"]:
    """Return the pixels of each patch, (B, N, P x P x C), row by row."""
    B, H, W, C = images.shape
    grid = images.reshape(B, H // P, P, W // P, P, C).swapaxes(2, 3)
    return grid.reshape(B, -1, P * P * C)


def images_of(patches: Float[Array, "B N F"], P: int, shape) -> Float[Array, "B H W C"]:
    """Return the images of patches, whose `shape` is (H, W, C): the inverse of `patches_of`."""
    H, W, C = shape
    grid = patches.reshape(-1, H // P, W // P, P, P, C).swapaxes(2, 3)
    return grid.reshape(-1, H, W, C)


def resized(position: Float[Array, "T D"], shape, first: int) -> Float[Array, "S D"]:
    """Return positions for another square grid of patches, interpolated.

    The interpolation is bicubic and antialiased, as in timm. The first tokens keep theirs.
    """
    (T, D), (S, _) = position.shape, shape
    old, new = (round((n - first) ** 0.5) for n in (T, S))
    if old**2 != T - first or new**2 != S - first:
        raise UserError(f"positions of {T - first} patches for {S - first}: expected square grids; "
                        "use square images")
    grid = position[first:].reshape(old, old, D)
    grid = jax.image.resize(grid, (new, new, D), "cubic")
    return jnp.concatenate([position[:first], grid.reshape(-1, D)])


def sines(key, shape, first: int, dtype=jnp.float32):
    """Return sine positions on a square grid (MAE's code), 0 for the tokens before the patches.

    Half the width holds sines and cosines of the column, half those of the row. Learned positions
    start here, and MAE keeps them (config.optimizer.freeze).
    """
    T, D = shape
    side = round((T - first) ** 0.5)
    if side * side != T - first or D % 4:
        return init(key, shape, dtype)
    angle = np.arange(side)[:, None] / 10000 ** (np.arange(D // 4) / (D / 4))     # (side, D/4)
    line = np.concatenate([np.sin(angle), np.cos(angle)], 1)                      # (side, D/2)
    column, row = np.tile(line, (side, 1)), np.repeat(line, side, 0)              # (N, D/2) each
    grid = np.concatenate([column, row], 1)                                       # (N, D)
    return jnp.asarray(np.concatenate([np.zeros((first, D)), grid]), dtype)
