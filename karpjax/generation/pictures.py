"""Pictures from a flow: numbered samples of a class, from noise that is each sample's own.

A sample is the same in any company. Other machines and numbers of devices change it by roundings,
seldom by a grey level. A flow lives in -1 to 1. What leaves here as bytes is clipped first, then
rounded.
"""
from collections.abc import Callable
import dataclasses
import functools
from numbers import Integral

import jax
import numpy as np

from karpjax.core.errors import UserError
from karpjax.generation.ode import guided, integrate, noise

BATCH = 64  # samples made at once
WIDE = 512  # pixels of a table, about


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Sampling from a network: `draw` is pure, `generate` is for a person.

    velocity    (variables, x (N, H, W, C), t (N,), label (N,)) -> (N, H, W, C)
    shape       (H, W, C)
    classes     `classes` itself stands for none; 0: there are none
    knows_none  whether the network has learned pictures of no class, which guidance needs
    """
    velocity: Callable
    shape: tuple[int, int, int]
    classes: int
    knows_none: bool

    @functools.partial(jax.jit, static_argnums=0,
                       static_argnames=("steps", "guidance", "method", "interval"))
    def draw(self, variables, key, numbers, label, steps: int = 50, guidance: float = 1.0,
             method: str = "heun", interval: tuple = (0.0, 1.0)):
        """Return samples (N, H, W, C) with these numbers, of these classes (N,)."""
        field = guided(functools.partial(self.velocity, variables), label, self.classes, guidance,
                       interval)
        return integrate(field, noise(key, numbers, self.shape), steps, method)

    def generate(self, variables, n: int = 16, label=None, steps: int = 50, guidance: float = 1.0,
                 seed: int = 0, method: str = "heun", interval=(0.0, 1.0)) -> np.ndarray:
        """Return pictures (n, H, W, C) of uint8, 0 to 255.

        label      a class, or one a picture; None: no class
        steps      of the integration
        guidance   above 1: more like their class than the data is, and less varied
        method     "heun", or "euler", which asks the network half as often
        interval   the times from and before which pictures are guided
        """
        labels = self.checked_labels(n, label)
        self.check_none(guidance, label is None)
        pictures, key = [], jax.random.key(seed)
        for start in range(0, n, BATCH):
            numbers = np.arange(start, start + BATCH, dtype=np.uint32)
            batch = np.resize(labels[start:start + BATCH], BATCH)  # one program; the rest is cut
            pictures.append(jax.device_get(self.draw(
                variables, key, numbers, batch, steps=steps, guidance=float(guidance),
                method=method, interval=tuple(interval))))
        made = np.concatenate(pictures)[:n]
        if not np.isfinite(made).all():
            raise UserError("the network's pictures are not finite: the run has diverged; take an "
                            "earlier checkpoint, or train at a lower rate")
        return to_bytes(made)

    def check_none(self, guidance: float, unlabelled: bool) -> None:
        """Raise a UserError if pictures of no class are needed, and the network knows none."""
        if guidance != 1 and unlabelled:
            raise UserError(f"guidance = {guidance}: expected a label; or take guidance = 1")
        if (guidance != 1 or unlabelled) and self.classes and not self.knows_none:
            raise UserError(f"guidance = {guidance}, label = {'none' if unlabelled else 'given'}: "
                            "expected a run with config.no_class above 0, which has learned "
                            "pictures of no class; give a label, and guidance = 1")

    def checked_labels(self, n, label) -> np.ndarray:
        """Return a class a sample (n,), `classes` for none. Raises UserError for others."""
        if not isinstance(n, Integral) or n < 1:
            raise UserError(f"n = {n!r}: expected at least one picture")
        try:
            labels = np.asarray(self.classes if label is None else label)
        except ValueError:
            labels = np.zeros(0)     # of unequal lengths
        known = labels.dtype.kind in "iu" and labels.shape in ((), (n,)) and (
            label is None or bool(((0 <= labels) & (labels < self.classes)).all()))
        if not known:
            raise UserError(f"label = {label!r}: expected a class from 0 to {self.classes - 1}, "
                            f"or one for each of {n} pictures")
        return np.broadcast_to(labels, n).astype(np.int32)


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """Return pictures of -1 to 1 as uint8."""
    return np.rint(255 * (np.clip(pictures, -1, 1) + 1) / 2).astype(np.uint8)


def table(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Return pictures (N, H, W, C) of uint8 in rows of `columns`, (h, w, 3) in 0 to 1.

    Small ones are enlarged, each pixel to a square.
    """
    N, H, W, C = pictures.shape
    grid = pictures.reshape(-1, columns, H, W, C).swapaxes(1, 2).reshape(-1, columns * W, C)
    grid = np.broadcast_to(grid / 255, (*grid.shape[:2], 3))
    times = max(1, WIDE // grid.shape[1])
    return grid.repeat(times, 0).repeat(times, 1)
