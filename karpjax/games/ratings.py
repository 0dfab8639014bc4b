"""Elo ratings of players who met in matches: the Bradley-Terry model (Bradley and Terry 1952), a draw half a win.

By minorisation (Hunter 2004, eq. 3). Every pair that met is given two drawn games more, or who never lost would be infinitely
good.
"""
from collections.abc import Mapping

import numpy as np

SCALE = 400 / np.log(10)


def strengths(points: np.ndarray, games: np.ndarray, sweeps: int = 500) -> np.ndarray:
    """Ratings (..., n) of mean 0 from points (..., i, j), what i got against j, and games (..., i, j)."""
    strength = np.ones(points.shape[:-1])
    met = games + 2 * (games > 0)
    won = (points + (games > 0)).sum(-1)
    for _ in range(sweeps):
        strength = won / (met / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        strength = strength / np.exp(np.log(strength).mean(-1, keepdims=True))
    return SCALE * np.log(strength)


def elo(results: Mapping[tuple[str, str], np.ndarray], anchor: str, draws: int = 1000, seed: int = 0) -> dict:
    """{player: (rating, low, high)}, best first; `anchor` is at 0. 95 % intervals by bootstrap over pairs of games.

    results   {(first, second): (games,) of 1, 0, -1 for the first}, as karpjax.games.matches gives them: neighbours are a pair
    """
    names = list(dict.fromkeys(name for pair in results for name in pair))
    rng, n = np.random.default_rng(seed), len(names)
    points, games = np.zeros((draws + 1, n, n)), np.zeros((n, n))
    for (first, second), found in results.items():
        i, j, pairs = names.index(first), names.index(second), (np.asarray(found).reshape(-1, 2) + 1).sum(1) / 2
        again = pairs[rng.integers(0, len(pairs), (draws, len(pairs)))].sum(1)
        both = np.concatenate([[pairs.sum()], again])                                              # row 0: as they were
        points[:, i, j] += both
        points[:, j, i] += 2 * len(pairs) - both
        games[i, j] += 2 * len(pairs)
        games[j, i] += 2 * len(pairs)
    ratings = strengths(points, games)
    ratings = ratings - ratings[:, names.index(anchor), None]
    low, high = np.quantile(ratings[1:], [0.025, 0.975], axis=0)
    return {names[i]: (round(ratings[0, i], 1), round(low[i], 1), round(high[i], 1)) for i in np.argsort(-ratings[0])}


def interval(results) -> tuple[float, float, float]:
    """(points, low, high): the first player's share of the points, with a normal 95 % interval over pairs of games."""
    pairs = (np.asarray(results, np.float64).reshape(-1, 2).mean(1) + 1) / 2
    half = 1.96 * pairs.std(ddof=1) / np.sqrt(len(pairs))
    return float(pairs.mean()), float(pairs.mean() - half), float(pairs.mean() + half)
