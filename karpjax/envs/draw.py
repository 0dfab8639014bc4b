"""Pictures of environments, drawn on the host: a white canvas (H, W, 3), 0 to 1, y axis upwards."""
import sys

import jax
import numpy as np

from karpjax.core.errors import UserError
from karpjax.envs.protocol import blamed

FRAMES = 250  # of a picture
BLACK = np.array([0.1, 0.1, 0.1], np.float32)
GREY = np.array([0.75, 0.75, 0.75], np.float32)
RED = np.array([0.8, 0.25, 0.2], np.float32)
GREEN = np.array([0.2, 0.6, 0.3], np.float32)
BLUE = np.array([0.2, 0.4, 0.75], np.float32)


class Canvas:
    """Picture in the environment's own units: x from left to right, y from bottom to top."""

    def __init__(self, left: float, right: float, bottom: float, top: float, pixels: int = 200):
        height = round(pixels * (top - bottom) / (right - left))
        self.pixel = (right - left) / pixels                                   # its width
        x = (np.arange(pixels) + 0.5) * self.pixel + left
        y = top - (np.arange(height) + 0.5) * self.pixel
        self.points = np.stack(np.meshgrid(x, y), -1).astype(np.float32)       # (H, W, 2)
        self.image = np.ones((height, pixels, 3), np.float32)

    def line(self, start, end, width: float, colour=BLACK):
        """Draw a line with round ends."""
        start, along = np.asarray(start, np.float32), np.subtract(end, start).astype(np.float32)
        share = (self.points - start) @ along / max(along @ along, 1e-12)      # of the way, (H, W)
        nearest = np.clip(share, 0, 1)[..., None] * along
        distance = np.linalg.norm(self.points - start - nearest, axis=-1)
        return self._fill(distance - width / 2, colour)

    def disc(self, centre, radius: float, colour=BLACK):
        distance = np.linalg.norm(self.points - np.asarray(centre, np.float32), axis=-1)
        return self._fill(distance - radius, colour)

    def rectangle(self, centre, width: float, height: float, colour=BLACK):
        away = np.abs(self.points - np.asarray(centre, np.float32))
        beyond = away - np.array([width, height], np.float32) / 2
        return self._fill(beyond.max(-1), colour)

    def _fill(self, distance, colour):
        """Paint where the signed distance (H, W) is negative, and blend the edge over a pixel."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)[..., None]
        self.image = self.image * (1 - cover) + np.asarray(colour, np.float32) * cover
        return self


def episode(env, states, length: int) -> dict:
    """Return {"episode.gif": frames} of the first of several episodes, states (T, B, ...).

    If the environment cannot be drawn, return {} and print why: the run itself is whole.
    """
    steps = np.linspace(0, length - 1, min(FRAMES, length)).astype(int)
    try:
        with blamed(f"no episode.gif: {type(env).__name__} failed in draw(state)"):
            return {"episode.gif": [env.draw(jax.tree.map(lambda x, t=t: x[t, 0], states))
                                    for t in steps]}
    except UserError as error:
        print(f"karpjax: {error}", file=sys.stderr, flush=True)
        return {}
