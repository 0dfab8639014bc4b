"""DiT equals diffusers' with the same weights, which go there and back."""
import pathlib

from data.goldens import make_dit
from data.goldens.make_dit import LABELS, TIMES, pictures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.models.dit import TIMES as LONGEST

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "dit.npz")
INPUTS, T, LABEL = jnp.asarray(pictures()), jnp.asarray(TIMES / LONGEST), jnp.asarray(LABELS)
OPTIONS = dict(name="dit", patch=2, layers=2, width=16, heads=2)


@pytest.fixture(scope="module")
def drawn():
    """Return the model, its variables' shapes, and arrays by diffusers' names."""
    model = kj.models.make_model(OPTIONS, classes=5)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    names = {name: array.shape for name, array in weights.to_pytorch(model, zeros).items()}
    return model, like, make_dit.drawn(names)


def test_outputs(drawn):
    model, like, arrays = drawn
    variables = weights.to_karpjax(model, like, arrays, "drawn")
    outputs = model.apply(variables, INPUTS, t=T, label=LABEL)
    np.testing.assert_allclose(outputs, GOLDEN["outputs"], rtol=1e-4, atol=1e-4)
    assert np.abs(GOLDEN["outputs"]).max() > 1
    other = model.apply(variables, INPUTS, t=T, label=(LABEL + 1) % 5)
    assert np.abs(other - GOLDEN["outputs"]).max() > 0.01


def test_there_and_back(drawn):
    """All names of diffusers' are written, the embeddings in each block, and no bit changes."""
    model, like, arrays = drawn
    back = weights.to_pytorch(model, weights.to_karpjax(model, like, arrays, "drawn"))
    assert sorted(back) == sorted(GOLDEN["names"])
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_embeddings_that_differ_are_refused(drawn):
    model, like, arrays = drawn
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(UserError, match=f"{name} from .*blocks.0.* differs".replace("[", r"\[")):
        weights.to_karpjax(model, like, {**arrays, name: arrays[name] + 1}, "drawn")


@pytest.mark.parametrize("change, shape, said", [
    (dict(patch=3), (1, 8, 8, 3), "patch = 3: expected a divisor"),
    (dict(), (1, 8, 16, 3), "square pictures.*found 8 x 16"),
    (dict(width=18), (1, 8, 8, 3), "width = 18")])
def test_refused(change, shape, said):
    model = kj.models.make_model({**OPTIONS, **change}, classes=5)
    with pytest.raises(UserError, match=said):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_a_new_network_returns_0():
    """Whatever the time and class: the last layer begins at 0, and the gradient reaches it."""
    model = kj.models.make_model(OPTIONS, classes=5)
    variables = model.init(jax.random.key(0), INPUTS)
    assert not np.asarray(model.apply(variables, INPUTS, t=T)).any()
    gradient = jax.grad(lambda variables: (model.apply(variables, INPUTS) - 1).sum())(variables)
    assert np.abs(gradient["params"]["pixels"]["bias"]).min() > 0
