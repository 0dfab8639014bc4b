"""What an environment accepts as an action. The policy's distribution follows from it (karpjax/distributions.py)."""
from typing import NamedTuple


class Discrete(NamedTuple):
    """One of n: an int32 scalar in 0 .. n-1."""
    n: int


class MultiDiscrete(NamedTuple):
    """Several choices at once: (len(sizes),) int32, entry i in 0 .. sizes[i]-1."""
    sizes: tuple[int, ...]


class Box(NamedTuple):
    """(len(low),) float32, entry i in low[i] .. high[i]. A Gaussian may sample beyond: environments clip."""
    low: tuple[float, ...]
    high: tuple[float, ...]
