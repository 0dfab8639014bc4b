"""Muon for convolution filters, as airbench94_muon.py has it (Jordan 2024): the update of each layer is orthogonalised (Jordan
et al. 2024, kellerjordan.github.io/posts/muon), and its filters are set back to a norm of sqrt(outputs) before every update, so
the learning rate alone says how fast they turn. For plain Muon take optax's own: config.optimizer.name = "muon".
"""
import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon


def filter_muon(learning_rate, beta: float = 0.6, ns_steps: int = 3) -> optax.GradientTransformation:
    """For kernels (H, W, I, O), seen as matrices (H W I, O), and (I, O)."""
    matrices = lambda params: jax.tree.map(lambda p: MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params)
    return optax.chain(scale_by_muon(ns_steps=ns_steps, beta=beta, weight_dimension_numbers=matrices),
                       optax.scale_by_learning_rate(learning_rate), renormalized())


def renormalized() -> optax.GradientTransformation:
    """Adds to each update what sets its parameter's norm, before the update, to sqrt(outputs)."""
    def update(updates, params):
        return jax.tree.map(lambda u, p: u + p * (p.shape[-1] ** 0.5 / jnp.linalg.norm(p.ravel()) - 1), updates, params)
    return optax.stateless(update)
