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
from karpjax.generation.fidelity import nearest
from karpjax.generation.ode import guided, integrate, noise, trajectory

BATCH = 64  # samples made at once
WIDE, GAP = 512, 4  # pixels of a table, about, and between its pictures
CLASSES, EACH = 10, 6                     # of samples.png, at most; so many samples of each
SHOWN = dict(steps=50, guidance=2.0, method="heun", interval=(0.0, 1.0))
COMPARED, BLOCK = 60_000, 1024            # training pictures for nearest.png, in blocks


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

    def draw(self, variables, key, numbers, label, steps: int = 50, guidance: float = 1.0,
             method: str = "heun", interval: tuple = (0.0, 1.0), path: bool = False):
        """Return samples (N, H, W, C) with these numbers, of these classes (N,). Pure.

        path   return them at all times, from noise on: (steps + 1, N, H, W, C)
        """
        field = guided(functools.partial(self.velocity, variables), label, self.classes, guidance,
                       interval)
        walk = trajectory if path else integrate
        return walk(field, noise(key, numbers, self.shape), steps, method)

    @functools.cached_property
    def _program(self):
        # of this sampler: a cache of the class's would keep it, and its network, for ever
        return jax.jit(self.draw, static_argnames=("steps", "guidance", "method", "interval",
                                                   "path"))

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
        return to_bytes(self.made(variables, labels, seed, steps=steps, guidance=float(guidance),
                                  method=method, interval=tuple(interval)))

    def made(self, variables, labels, seed: int = 0, path: bool = False, **options) -> np.ndarray:
        """Return pictures (n, H, W, C) about -1 to 1, of these classes (n,), or their path."""
        pictures, key, axis = [], jax.random.key(seed), 1 if path else 0
        for start in range(0, len(labels), BATCH):
            numbers = np.arange(start, start + BATCH, dtype=np.uint32)
            batch = np.resize(labels[start:start + BATCH], BATCH)  # one program; the rest is cut
            pictures.append(jax.device_get(self._program(variables, key, numbers, batch, path=path,
                                                         **options)))
        made = np.concatenate(pictures, axis).take(range(len(labels)), axis)
        if not np.isfinite(made).all():
            raise UserError("the network's pictures are not finite: the run has diverged; take an "
                            "earlier checkpoint, or train at a lower rate")
        return made

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

    Small ones are enlarged, each pixel to a square. Between them, and where none is left, is white.
    """
    N, H, W, C = pictures.shape
    times = max(1, WIDE // (columns * W))
    places = N + -N % columns
    shown = np.full((places, H * times + GAP, W * times + GAP, C), 255, np.uint8)
    shown[:N, :-GAP, :-GAP] = pictures.repeat(times, 1).repeat(times, 2)
    _, h, w, _ = shown.shape
    grid = shown.reshape(-1, columns, h, w, C).swapaxes(1, 2).reshape(-1, columns * w, C)
    return np.broadcast_to(grid / 255, (*grid.shape[:2], 3))[:-GAP, :-GAP]


def to_look_at(sampler: Sampler, variables, source) -> dict:
    """Return samples, a class a row, guided if the network can be: how they came, what is near."""
    labels = np.repeat(np.arange(min(sampler.classes, CLASSES)), EACH).astype(np.int32)
    options = SHOWN if sampler.knows_none else {**SHOWN, "guidance": 1.0}
    path = sampler.made(variables, labels, path=True, **options)             # (T, N, H, W, C)
    pairs = np.concatenate([path[-1], nearest_training(source, path[-1])], 2)  # (N, H, 2 W, C)
    frames = [table(to_bytes(made), EACH) for made in path[::2]]
    return {"samples.png": frames[-1], "trajectory.gif": frames + frames[-1:] * len(frames),
            "nearest.png": table(to_bytes(pairs), EACH)}


def nearest_training(source, made: np.ndarray) -> np.ndarray:
    """Return each picture's nearest by pixels, of the first COMPARED to train on (N, H, W, C)."""
    best, found = np.full(len(made), np.inf), np.zeros_like(made)
    last = min(source.num_examples, COMPARED)
    for start in range(0, last, BLOCK):
        raw = source.rows("train", range(start, min(start + BLOCK, last)))["image"]
        images = np.asarray(source.preprocess({"image": raw})["image"])
        distance, number = nearest(made, images)
        closer = distance < best
        best, found[closer] = np.where(closer, distance, best), images[number[closer]]
    return found
