"""Muon for convolution filters, as airbench94_muon.py has it (Jordan 2024).

The update of each layer is orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
Its filters are set back to a norm of sqrt(outputs) before every update, so the learning rate alone
says how fast they turn. For plain Muon take optax's own: config.optimizer.name = "muon".
"""
import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon


def filter_muon(learning_rate, beta: float = 0.6, ns_steps: int = 3
                ) -> optax.GradientTransformation:
    """Return Muon for kernels (H, W, I, O), seen as matrices (H W I, O), and (I, O)."""
    def matrix(p) -> MuonDimensionNumbers:
        return MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)

    def matrices(params):
        return jax.tree.map(matrix, params)
    muon = scale_by_muon(ns_steps=ns_steps, beta=beta, weight_dimension_numbers=matrices)
    return optax.chain(muon, optax.scale_by_learning_rate(learning_rate), renormalized())


def renormalized() -> optax.GradientTransformation:
    """Return a transformation that sets a parameter's norm to sqrt(outputs) before its update."""
    def renormalize(u, p):
        return u + p * (p.shape[-1] ** 0.5 / jnp.linalg.norm(p.ravel()) - 1)

    def update(updates, params):
        return jax.tree.map(renormalize, updates, params)
    return optax.stateless(update)
