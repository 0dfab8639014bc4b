"""The U-Net equals diffusers' with the same weights, which go there and back, and learns a flow."""
import pathlib

from data.goldens.make_unet import LABELS, NETWORKS, TIMES, pictures
from data.goldens.make_vision import weights as drawn
from guarantees.harness import mesh_of, run
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core.trees import by_name, cast_floating
from karpjax.models.dit import TIMES as LONGEST
from karpjax.run.evaluator import make_evaluator

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "goldens" / "unet.npz")
INPUTS, T, LABEL = jnp.asarray(pictures()), jnp.asarray(TIMES / LONGEST), jnp.asarray(LABELS)
TINY = dict(name="unet", width=8, groups=4)
SHALLOW = dict(TINY, multiples=(1, 2), blocks=1)
PLAIN = dict(TINY, blocks=1, attention=(), middle_attention=False)
OPTIONS = {
    "plain": dict(PLAIN, multiples=(1, 1, 2), classes=0),
    "plain_scale_shift": dict(PLAIN, multiples=(1, 2, 2), scale_shift=True),
    "attention": dict(TINY, multiples=(1, 2, 1), attention=(2, 4)),
    "attention_scale_shift": dict(TINY, attention=(4, 2), head_width=4, scale_shift=True),
    "middle": dict(PLAIN, multiples=(1, 1, 2), middle_attention=True, head_width=8, classes=0),
}


def made(name: str, **changes):
    """Return a model, its variables' shapes, and arrays by diffusers' names."""
    return arrays_of(kj.models.make_model({**OPTIONS[name], **changes}, classes=5))


def arrays_of(model):
    """Return a model, its variables' shapes, and drawn arrays by diffusers' names."""
    like = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    names = {key: array.shape for key, array in weights.to_pytorch(model, zeros).items()}
    return model, like, drawn(names)


def loaded(name: str, **changes):
    """Return a model and the variables that diffusers' network had."""
    model, like, arrays = made(name, **changes)
    return model, weights.to_karpjax(model, like, arrays, "drawn")


def outputs_of(model, variables):
    """Return the network as a function of times, classes and a key of dropout, compiled."""
    def outputs(variables, t, label, key):
        training = {} if key is None else dict(train=True, rngs={"dropout": key})
        return model.apply(variables, INPUTS, t=t, label=label, **training)
    compiled = jax.jit(outputs)
    return lambda t=T, label=LABEL, key=None: np.asarray(compiled(variables, t, label, key))


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name):
    """They are diffusers', and depend on the time, and on the class if there are any."""
    model, variables = loaded(name)
    outputs = outputs_of(model, variables)
    assert np.abs(GOLDEN[name]).max() > 0.9
    np.testing.assert_allclose(outputs(), GOLDEN[name], rtol=1e-4, atol=1e-4)
    assert np.abs(outputs(t=T + 0.1) - GOLDEN[name]).max((1, 2, 3)).min() > 0.001
    others = outputs(label=(LABEL + 1) % 6)
    assert (np.abs(others - GOLDEN[name]).max((1, 2, 3)).min() > 0.01) == (model.classes > 0)


def test_no_time_and_no_class():
    """They are time 0, and the row after the classes'."""
    outputs = outputs_of(*loaded("plain_scale_shift"))
    np.testing.assert_allclose(outputs(t=None, label=None),
                               outputs(t=jnp.zeros(4), label=jnp.full(4, 5)), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name):
    """All names of diffusers' are written, and no bit changes."""
    model, like, arrays = made(name)
    back = weights.to_pytorch(model, weights.to_karpjax(model, like, arrays, "drawn"))
    assert sorted(back) == sorted(GOLDEN[f"{name}_names"])
    for each, array in arrays.items():
        np.testing.assert_array_equal(back[each], array)


def test_a_file_of_another_form_is_refused():
    """With scale and shift, diffusers leaves out the middle's norm unless it is told."""
    model, like, arrays = made("attention_scale_shift")
    fewer = {name: array for name, array in arrays.items() if "mid_block.attentions.0.group_norm"
             not in name}
    with pytest.raises(UserError, match="mid_block.attentions.0.group_norm.weight"):
        weights.to_karpjax(model, like, fewer, "drawn")


def test_the_papers_number_of_parameters():
    """35.7 million, of CIFAR-10's network (Ho et al. 2020, appendix B)."""
    model = kj.models.make_model(dict(name="unet", width=128, multiples=(1, 2, 2, 2),
                                      attention=(2,)), classes=0)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 35_746_307


@pytest.mark.parametrize("change, shape, said", [
    (dict(), (1, 8, 10, 3), r"multiples = \(1, 2, 2\): .* found 8 x 10 and strides \[1, 2, 4\]"),
    (dict(multiples=()), (1, 8, 8, 3), r"multiples = \(\): expected one or more"),
    (dict(width=10), (1, 8, 8, 3), "width = 10: expected an even multiple of .*groups = 4"),
    (dict(width=9, groups=3), (1, 8, 8, 3), "width = 9: expected an even multiple"),
    (dict(attention=(8,)), (1, 8, 8, 3), r"attention = \(8,\): expected strides .*\[1, 2, 4\]"),
    (dict(attention=2), (1, 8, 8, 3), "attention = 2: expected whole numbers of at least 1"),
    (dict(head_width=3), (1, 8, 8, 3), r"head_width = 3: expected a divisor .*\[16, 16\]")])
def test_refused(change, shape, said):
    with pytest.raises(UserError, match=said) as refused:
        model = kj.models.make_model({**TINY, **change}, classes=5)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_new_network_returns_0(scale_shift):
    """Whatever the time and class: the last layer begins at 0, and the gradient reaches it."""
    model = kj.models.make_model(dict(SHALLOW, scale_shift=scale_shift), classes=5)
    variables = jax.jit(model.init)(jax.random.key(0), INPUTS)
    assert not outputs_of(model, variables)().any()
    for name, leaf in by_name(variables).items():
        assert np.asarray(leaf).any() == (not name.endswith(("bias", "conv2/kernel",
                                                             "pixels/kernel"))), name
    gradient = jax.jit(jax.grad(lambda v: ((model.apply(v, INPUTS, t=T) - INPUTS)**2).sum()))(
        variables)["params"]
    assert np.abs(gradient["pixels"]["kernel"]).max((0, 1, 3)).min() > 0
    assert np.abs(gradient["pixels"]["bias"]).min() > 0


def test_every_parameter_has_a_gradient():
    """It is the same where blocks are computed again."""
    def gradient(**changes):
        model, like, arrays = arrays_of(kj.models.make_model({**SHALLOW, **changes}, classes=5))
        variables = weights.to_karpjax(model, like, arrays, "drawn")
        loss = jax.grad(lambda v: (model.apply(v, INPUTS, t=T, label=LABEL)**2).sum())
        return by_name(jax.jit(loss)(variables))
    kept, again = gradient(), gradient(remat=True)
    assert kept.keys() == again.keys()
    for name, leaf in kept.items():
        assert np.asarray(leaf).any(), name
        np.testing.assert_allclose(leaf, again[name], rtol=1e-4, atol=1e-4)


def test_dropout_is_of_training():
    outputs = outputs_of(*loaded("plain_scale_shift", dropout=0.5))
    np.testing.assert_allclose(outputs(), GOLDEN["plain_scale_shift"], atol=1e-4)
    one, other = (outputs(key=jax.random.key(i)) for i in (0, 1))
    assert np.abs(one - other).max() > 0.1
    assert np.abs(one - GOLDEN["plain_scale_shift"]).max() > 0.1


@pytest.mark.parametrize("name", ["plain", "attention_scale_shift"])
def test_bf16(name):
    """Under bf16 parameters, all maps are bf16, and outputs are near."""
    model, variables = loaded(name)
    half = cast_floating(variables, jnp.bfloat16)
    _, kept = jax.eval_shape(lambda v: model.apply(
        v, INPUTS.astype(jnp.bfloat16), t=T, label=LABEL, capture_intermediates=True), half)
    maps = {key: x for key, x in by_name(kept["intermediates"]).items() if x.ndim == 4}
    assert len(maps) > 20 and {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}
    outputs, _ = jax.jit(lambda v: kj.apply(model, v["params"], {}, INPUTS, t=T, label=LABEL))(half)
    assert outputs.dtype == jnp.float32
    assert np.abs(outputs - GOLDEN[name]).mean() < 0.02 * np.abs(GOLDEN[name]).max()


def trained(mesh):
    """Return 12 steps of a flow, whose network is a small U-Net."""
    config, task_file = config_of("flow", **{"optimizer.learning_rate.peak_value": 0.01})
    with config.unlocked():
        config.model = ConfigDict(dict(SHALLOW, scale_shift=True))
    return run(config, task_file, mesh, steps=12)


def test_it_learns_a_flow():
    """Its loss falls below that of a network that returns 0, and it makes samples."""
    one = trained(mesh_of(1))
    task, variables = one.experiment.task, {"params": one.last.params}
    evaluate = make_evaluator(task, mesh_of(1))
    new, learned = (evaluate(each, "validation")["flow"]
                    for each in (task.init(jax.random.key(0)), variables))
    assert learned < 0.9 * new
    samples = task.methods["generate"](variables, n=2, label=3, steps=2)
    assert samples.shape == (2, 8, 8, 1) and samples.dtype == np.uint8


@pytest.mark.full
def test_it_learns_the_same_on_eight_devices():
    one, eight = trained(mesh_of(1)), trained(mesh_of(2, 4))
    np.testing.assert_allclose(one.metrics["flow"], eight.metrics["flow"], rtol=1e-5)
    assert one.metrics["flow"][-1] < one.metrics["flow"][0]
