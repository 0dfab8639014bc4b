"""Elo ratings of players who met in matches: the Bradley-Terry model (Bradley and Terry 1952).

A draw is half a win. The model is fitted by minorisation (Hunter 2004, eq. 3). Every pair that met
is given two drawn games more, or a player who never lost would be rated infinite.
"""
from collections.abc import Mapping

import numpy as np

SCALE = 400 / np.log(10)


def strengths(points: np.ndarray, games: np.ndarray, sweeps: int = 500) -> np.ndarray:
    """Return ratings (..., n) of mean 0 from i's points against j and their games (..., i, j)."""
    strength = np.ones(points.shape[:-1])
    met = games + 2 * (games > 0)
    won = (points + (games > 0)).sum(-1)
    for _ in range(sweeps):
        strength = won / (met / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        strength = strength / np.exp(np.log(strength).mean(-1, keepdims=True))
    return SCALE * np.log(strength)


def elo(results: Mapping[tuple[str, str], np.ndarray], anchor: str, draws: int = 1000,
        seed: int = 0) -> dict:
    """Return {player: (rating, low, high)}, best first, with `anchor` at 0.

    low and high are 95 % intervals by bootstrap over pairs of games.

    results   {(first, second): (games,) of 1, 0, -1 for the first}, as karpjax.games.matches gives
              them: neighbours are a pair
    draws     samples of the bootstrap
    """
    names = list(dict.fromkeys(name for pair in results for name in pair))
    rng, n = np.random.default_rng(seed), len(names)
    points, games = np.zeros((draws + 1, n, n)), np.zeros((n, n))
    for (first, second), outcomes in results.items():
        i, j = names.index(first), names.index(second)
        pairs = (np.asarray(outcomes).reshape(-1, 2) + 1).sum(1) / 2
        resampled = pairs[rng.integers(0, len(pairs), (draws, len(pairs)))].sum(1)
        totals = np.concatenate([[pairs.sum()], resampled])                # row 0: as they were
        points[:, i, j] += totals
        points[:, j, i] += 2 * len(pairs) - totals
        games[i, j] += 2 * len(pairs)
        games[j, i] += 2 * len(pairs)
    ratings = strengths(points, games)
    ratings = ratings - ratings[:, names.index(anchor), None]
    low, high = np.quantile(ratings[1:], [0.025, 0.975], axis=0)
    return {names[i]: (round(ratings[0, i], 1), round(low[i], 1), round(high[i], 1))
            for i in np.argsort(-ratings[0])}


def interval(results) -> tuple[float, float, float]:
    """Return (points, low, high): the first player's share of the points, with a 95 % interval."""
    # Normal, over pairs of games.
    pairs = (np.asarray(results, np.float64).reshape(-1, 2).mean(1) + 1) / 2
    half = 1.96 * pairs.std(ddof=1) / np.sqrt(len(pairs))
    return float(pairs.mean()), float(pairs.mean() - half), float(pairs.mean() + half)
