"""Scores of generated examples by their features: distance of distributions, precision and recall.

Features are of any network. So a score is named for its network, the number of samples and the
reference; it compares with no other. FID is the Frechet distance of Inception's features alone.

Sources: Heusel et al. 2017, arXiv:1706.08500, section 3 (the distance); Kynkaanniemi et al. 2019,
arXiv:1904.06991, section 2 (precision and recall).
"""
import numpy as np

from karpjax.core.errors import UserError

BLOCK = 1024  # rows that are in memory at once in float64, and their distances


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (F,) and covariance (F, F) of features (N, F), in float64.

    They are made of n, sum f and sum f f^T. In float32 the covariance of 50,000 rows would lose
    half its digits. Only BLOCK rows at once are copied to float64.
    """
    n, F = features.shape
    if n < 2:
        raise UserError(f"{n} rows of features have no covariance: expected at least 2")
    total, products = np.zeros(F), np.zeros((F, F))
    for start in range(0, n, BLOCK):
        rows = features[start:start + BLOCK].astype(np.float64)
        total += rows.sum(0)
        products += rows.T @ rows
    mean = total / n
    return mean, (products - n * np.outer(mean, mean)) / (n - 1)


def frechet_distance(a: tuple, b: tuple) -> float:
    """Return the squared Frechet distance of two normals with these moments.

    It is |mean - mean|^2 + trace(A + B - 2 (A B)^(1/2)). The root's trace is that of the symmetric
    (A^(1/2) B A^(1/2))^(1/2), whose eigenvalues are at least 0 but for rounding.
    """
    (mean_a, A), (mean_b, B) = a, b
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T                      # (F, F)
    both = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ B @ root), 0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * both)


def precision_recall(made: np.ndarray, real: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Return the share of `made` (N, F) that lies among `real` (M, F), and the reverse.

    A point lies among others if it is within one's distance to its k-th nearest other.
    """
    if min(len(made), len(real)) <= k:
        raise UserError(f"precision and recall of {len(made)} and {len(real)} rows: expected more "
                        f"than k = {k} of each")
    return share_among(made, real, k), share_among(real, made, k)


def share_among(points: np.ndarray, others: np.ndarray, k: int) -> float:
    """Return the share of points (N, F) that lie among others (M, F)."""
    # of an other's distances the first is to itself
    radius = np.concatenate([np.partition(rows, k, axis=1)[:, k]
                             for rows in squared_distances(others, others)])         # (M,)
    inside = [(rows <= radius).any(1) for rows in squared_distances(points, others)]
    return float(np.concatenate(inside).mean())


def nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each point's distance to its nearest other (N,), and that one's number (N,)."""
    pairs = [(rows.min(1), rows.argmin(1)) for rows in squared_distances(points, others)]
    distance, number = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return np.sqrt(distance), number


def squared_distances(a: np.ndarray, b: np.ndarray):
    """Yield the squared distances of BLOCK rows of a (N, F) to all of b (M, F)."""
    b = np.asarray(b, np.float64).reshape(len(b), -1)
    lengths = (b * b).sum(1)                                                         # (M,)
    for start in range(0, len(a), BLOCK):
        rows = np.asarray(a[start:start + BLOCK], np.float64).reshape(-1, b.shape[1])
        yield np.maximum((rows * rows).sum(1)[:, None] + lengths - 2 * rows @ b.T, 0)
