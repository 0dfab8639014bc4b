"""Pictures that no network made, to compare a flow's with: normals, copies, and the data itself."""
import numpy as np

from karpjax.generation.fidelity import nearest


def pixel_normal(pictures: np.ndarray, n: int, rng) -> np.ndarray:
    """Return n pictures (n, H, W, C) whose pixels are normal, each by itself, as the data's are."""
    pictures = pictures.astype(np.float64)
    drawn = rng.standard_normal((n, *pictures.shape[1:]))
    return to_bytes(pictures.mean(0) + pictures.std(0) * drawn, pictures.max())


def joint_normal(pictures: np.ndarray, n: int, rng) -> np.ndarray:
    """Return n pictures (n, H, W, C) of the normal with the mean and covariance of the data.

    It is the PCA of the pixels with all its components: what second moments know of a picture
    """
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)                    # (N, D)
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    root = vectors * np.sqrt(np.maximum(values, 0))                                  # (D, D)
    drawn = flat.mean(0) + rng.standard_normal((n, len(root))) @ root.T
    return to_bytes(drawn.reshape(n, *pictures.shape[1:]), pictures.max())


def by_class(make, pictures: np.ndarray, labels: np.ndarray, wanted: np.ndarray,
             rng) -> np.ndarray:
    """Return pictures of the wanted classes (n,), each class's made from its own data."""
    made = np.empty((len(wanted), *pictures.shape[1:]), np.uint8)
    for label in np.unique(wanted):
        places = np.flatnonzero(wanted == label)
        made[places] = make(pictures[labels == label], len(places), rng)
    return made


def nearest_to_noise(pictures: np.ndarray, n: int, rng) -> np.ndarray:
    """Return the pictures (n, H, W, C) of the data that are nearest to noise: copies."""
    deviation = pictures.std()
    drawn = pictures.mean() + deviation * rng.standard_normal((n, pictures[0].size))
    return pictures[nearest(drawn, pictures.reshape(len(pictures), -1))[1]]


def to_bytes(pictures: np.ndarray, most) -> np.ndarray:
    """Return pictures clipped to 0 to `most` and rounded."""
    return np.rint(np.clip(pictures, 0, most)).astype(np.uint8)
