"""Pictures of environments, drawn on the host: a canvas (H, W, 3) in 0 to 1, white, whose y axis points up."""
import numpy as np

BLACK, GREY, RED, GREEN, BLUE = (np.array(c, np.float32) for c in
                                 ((0.1, 0.1, 0.1), (0.75, 0.75, 0.75), (0.8, 0.25, 0.2), (0.2, 0.6, 0.3), (0.2, 0.4, 0.75)))


class Canvas:
    """x from left to right, y from bottom to top, in the environment's own units."""

    def __init__(self, left: float, right: float, bottom: float, top: float, pixels: int = 200):
        height = round(pixels * (top - bottom) / (right - left))
        self.unit = (right - left) / pixels                                                # of a pixel
        x, y = (np.arange(pixels) + 0.5) * self.unit + left, top - (np.arange(height) + 0.5) * self.unit
        self.points = np.stack(np.meshgrid(x, y), -1).astype(np.float32)                   # (H, W, 2)
        self.image = np.ones((height, pixels, 3), np.float32)

    def line(self, start, end, width: float, colour=BLACK):
        """With round ends."""
        start, along = np.asarray(start, np.float32), np.subtract(end, start).astype(np.float32)
        share = np.clip((self.points - start) @ along / max(along @ along, 1e-12), 0, 1)   # (H, W) of the way
        return self._fill(np.linalg.norm(self.points - start - share[..., None] * along, axis=-1) - width / 2, colour)

    def disc(self, centre, radius: float, colour=BLACK):
        return self._fill(np.linalg.norm(self.points - np.asarray(centre, np.float32), axis=-1) - radius, colour)

    def rectangle(self, centre, width: float, height: float, colour=BLACK):
        away = np.abs(self.points - np.asarray(centre, np.float32)) - np.array([width, height], np.float32) / 2
        return self._fill(away.max(-1), colour)

    def _fill(self, distance, colour):
        """Where the signed distance (H, W) is negative; a pixel's width of it is blended."""
        cover = np.clip(0.5 - distance / self.unit, 0, 1)[..., None]
        self.image = self.image * (1 - cover) + np.asarray(colour, np.float32) * cover
        return self
