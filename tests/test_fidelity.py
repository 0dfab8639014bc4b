"""Scores of generated examples: closed forms, scipy's root, float32's trap, copies and collapse."""
import numpy as np
import pytest
import scipy.linalg

from karpjax import UserError
from karpjax.generation.fidelity import (frechet_distance, moments, nearest, precision_recall,
                                         share_among)


def normal(rng, n: int, mean, deviation) -> np.ndarray:
    return mean + deviation * rng.standard_normal((n, len(mean)))


def test_the_closed_form():
    """Of normals with diagonal covariances it is |mean - mean|^2 + |deviation - deviation|^2."""
    a = np.array([0.0, 1, 2]), np.diag([1.0, 4, 9])
    b = np.array([1.0, 1, 0]), np.diag([4.0, 4, 1])
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 4, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_scipys_root():
    """Two hundred rows of 64 features, whose covariances do not commute."""
    rng = np.random.default_rng(0)
    a, b = (moments(rng.standard_normal((200, 64)) @ rng.standard_normal((64, 64)) + i)
            for i in range(2))
    root = scipy.linalg.sqrtm(a[1] @ b[1]).real
    expected = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_fewer_rows_than_features():
    """The covariance is singular, and the distance is finite and symmetric."""
    rng = np.random.default_rng(0)
    a, b = (moments(rng.standard_normal((10, 64))) for _ in range(2))
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert 0 < there == pytest.approx(back, rel=1e-6)


def test_moments_are_numpys_and_of_64_bits():
    """Features far from 0 keep their covariance. In float32 it would be noise."""
    features = (1000 + np.random.default_rng(0).standard_normal((5000, 3))).astype(np.float32)
    mean, covariance = moments(features)
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64).T), atol=1e-8)
    wrong = features.T @ features / 5000 - np.outer(features.mean(0), features.mean(0))
    assert np.abs(wrong - covariance).max() > 0.01


def test_precision_and_recall():
    """Of the same distribution both are near 1. Far samples lose precision, a collapse recall."""
    rng = np.random.default_rng(0)
    real = normal(rng, 1500, np.zeros(4), 1.0)
    same = precision_recall(normal(rng, 1500, np.zeros(4), 1.0), real)
    far = precision_recall(normal(rng, 1500, np.full(4, 20.0), 1.0), real)
    collapsed = precision_recall(normal(rng, 1500, np.zeros(4), 0.02), real)
    assert min(same) > 0.85
    assert far == (0.0, 0.0)
    assert collapsed[0] > 0.95 and collapsed[1] < 0.1


def test_by_hand():
    """The third nearest of 0, 1, 2, 3 and 10 are 3, 2, 2, 3 and 9 away."""
    others = np.array([[0.0], [1], [2], [3], [10]])
    points = np.array([[-2.9], [-3.1], [18.9], [19.1], [5.9]])
    assert share_among(points, others, k=3) == 3 / 5
    distance, number = nearest(points, others)
    np.testing.assert_allclose(distance, [2.9, 3.1, 8.9, 9.1, 2.9])
    np.testing.assert_array_equal(number, [0, 0, 4, 4, 3])


def test_refused():
    with pytest.raises(UserError, match="more than k = 3 of each"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(UserError, match="at least 2"):
        moments(np.zeros((1, 2)))
