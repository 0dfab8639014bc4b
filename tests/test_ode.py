"""Integration of flows: orders on an exact field, guidance, and noise by the sample's number."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from karpjax import UserError
from karpjax.generation.ode import guided, integrate, noise, trajectory

# A mixture of two normals, and of noise: the field is known.
KEY = jax.random.key(0)
SHARE, MEAN, DEVIATION = np.array([0.3, 0.7]), np.array([-1.0, 0.5]), np.array([0.3, 0.2])


def field(x, t):
    """Return the expected x1 - x0 at x (N,) and time t, of the mixture."""
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2                                   # (2,)
    off = x[:, None] - t * MEAN                                                      # (N, 2)
    part = jax.nn.softmax(jnp.log(SHARE) - jnp.log(variance) / 2 - off**2 / variance / 2)
    velocity = MEAN + (t * DEVIATION**2 - (1 - t)) / variance * off                  # (N, 2)
    return (part * velocity).sum(-1)


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_the_error_falls_as_the_order_says(method, order):
    with jax.enable_x64(True):
        x = jnp.asarray(noise(KEY, jnp.arange(256), ()), jnp.float64)
        exact = integrate(field, x, 2000, "heun")
        few, many = (np.sqrt(((integrate(field, x, steps, method) - exact) ** 2).mean())
                     for steps in (50, 100))
    assert few / many == pytest.approx(2**order, rel=0.05)


def test_samples_are_of_the_mixture():
    samples = np.asarray(integrate(field, noise(KEY, jnp.arange(4000), ()), 50))
    left = samples < -0.3
    assert abs(left.mean() - 0.3) < 0.03
    assert abs(samples[left].std() - 0.3) < 0.03 and abs(samples[~left].std() - 0.2) < 0.02


@pytest.mark.parametrize("method, evaluations", [("euler", 10), ("heun", 19)])
def test_no_field_is_asked_at_the_end(method, evaluations):
    """Times begin at 0 and never reach 1: Heun's last step is Euler's, one evaluation."""
    asked = []
    jax.block_until_ready(integrate(lambda x, t: jax.debug.callback(asked.append, t) or 0 * x,
                                    jnp.zeros(2), 10, method))
    jax.effects_barrier()
    assert min(asked) == 0 and max(asked) < 0.95
    assert len(asked) == evaluations


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_path_of_a_sample(method):
    """It begins with the noise, and each point is that of fewer steps of the same size."""
    x = noise(KEY, jnp.arange(4), (3,))
    path = trajectory(lambda x, t: jnp.cos(x + t), x, 5, method)
    np.testing.assert_array_equal(path[0], x)
    end = integrate(lambda x, t: jnp.cos(x + t), x, 5, method)
    np.testing.assert_allclose(path[-1], end, atol=1e-6)
    assert path.shape == (6, 4, 3)
    if method == "euler":
        np.testing.assert_allclose(np.diff(path, axis=0)[2] * 5, np.cos(path[2] + 0.4), atol=1e-5)
    one = trajectory(lambda x, t: jnp.cos(x + t), x, 1, method)
    np.testing.assert_allclose(one, jnp.stack([x, x + jnp.cos(x)]), atol=1e-6)


def test_a_sample_does_not_depend_on_the_others():
    whole = noise(KEY, jnp.arange(8), (4, 4, 1))
    some = jnp.array([5, 2])
    np.testing.assert_array_equal(noise(KEY, some, (4, 4, 1)), whole[some])
    assert not np.allclose(noise(jax.random.key(1), jnp.arange(8), (4, 4, 1)), whole)


def test_guidance():
    """1 is the class's own velocity; beyond, the difference to no class counts more, within the
    interval.
    """
    def velocity(x, t, label):
        return jnp.asarray(label, jnp.float32) + 0 * x
    x, label = jnp.zeros(3), jnp.array([4, 5, 6])
    np.testing.assert_array_equal(guided(velocity, label, 2, 1.0)(x, 0.5), [4, 5, 6])
    strong = guided(velocity, label, 2, 3.0, (0.25, 0.75))
    np.testing.assert_array_equal(strong(x, 0.5), [8, 11, 14])
    np.testing.assert_array_equal(strong(x, 0.75), [4, 5, 6])
    np.testing.assert_array_equal(strong(x, 0.0), [4, 5, 6])


@pytest.mark.parametrize("options, said", [(dict(steps=0), "steps = 0: expected a whole number"),
                                           (dict(steps=2, method="rk4"), "rk4")])
def test_refused(options, said):
    with pytest.raises(UserError, match=said):
        integrate(field, jnp.zeros(2), **options)
