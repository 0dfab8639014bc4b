"""Networks of other projects whose arrays look alike, against their own logits: activations, heads,
pooling, one channel, one type, wide ResNets."""
from data.goldens import make_transformers, make_unseen
from data.goldens.make_vision import images, weights as drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_published import SMALL

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core.trees import by_name, variable_name
from karpjax.models.resnet import Bottleneck
from karpjax.weights import archs

GOLDENS = dict(np.load(make_unseen.HERE / "unseen.npz"))
BERT = dict(name="masked_lm", context=16, **SMALL, **kj.models.BERT)
VIT = dict(name="vit", patch=4, eps=1e-12, **SMALL)


def shapes_of(model, inputs, names: str = "") -> tuple[dict, dict]:
    """Return (the shapes of a model's variables, {PyTorch's name: shape})."""
    like = jax.eval_shape(model.init, jax.random.key(0), inputs)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    arrays = weights.to_pytorch(model, zeros, names)
    return like, {name: array.shape for name, array in arrays.items()}


def logits_of(model, inputs, names: str = "", **more):
    like, shapes = shapes_of(model, inputs, names)
    variables = weights.to_karpjax(model, like, drawn_weights(shapes), "drawn")
    return model.apply(variables, inputs, **more)


@pytest.mark.parametrize("name, fields", [
    ("bert_relu", dict(mlp="relu")), ("bert_gelu_new", dict(mlp="gelu_tanh")),
    ("bert_heads", dict(heads=4)), ("bert_eps", dict(eps=1e-2)), ("bert_one_type", dict(types=1))])
def test_encoders_of_text(name, fields):
    """Each is transformers' own, and none is what the arrays alone would be taken for."""
    rows, there = make_transformers.tokens(), make_transformers.tokens()["there"] > 0
    model = kj.models.make_model({**BERT, **fields}, vocabulary=40)
    logits = logits_of(model, jnp.asarray(rows["inputs"]), segments=jnp.asarray(rows["there"]))
    np.testing.assert_allclose(logits[there], GOLDENS[name][there], rtol=0, atol=1e-5)
    if name != "bert_one_type":
        assumed = np.load(make_unseen.HERE / "bert.npz")["logits"]
        assert np.abs(logits[there] - assumed[there]).max() > 1e-3


@pytest.mark.parametrize("name, fields, names", [
    ("vit_grey", {}, ""), ("vit_relu", dict(mlp="relu"), ""),
    ("timm_mean", dict(eps=1e-6, pool="mean"), "timm"),
    ("timm_fc_norm", dict(eps=1e-6, pool="norm_of_mean"), "timm")])
def test_vision_transformers(name, fields, names):
    inputs = make_unseen.grey() if name == "vit_grey" else make_transformers.pictures()["images"]
    model = kj.models.make_model({**VIT, **fields}, classes=3)
    logits = logits_of(model, jnp.asarray(inputs, jnp.float32), names)
    np.testing.assert_allclose(logits, GOLDENS[name], rtol=0, atol=1e-5)


def test_only_timm_has_names_for_other_pools():
    model = kj.models.make_model({**VIT, "pool": "norm_of_mean"}, classes=3)
    _, shapes = shapes_of(model, jnp.zeros((1, 8, 8, 3)), "timm")
    assert "fc_norm.weight" in shapes and "norm.weight" not in shapes
    with pytest.raises(UserError, match="pool = 'norm_of_mean': expected 'cls' .*--names=timm"):
        weights.to_pytorch(model, {"params": {}}, "huggingface")


# ---------------------------------------------------------------------------------- wide ResNets

def test_a_wide_bottleneck():
    """The block is torchvision's, whose inner convolutions alone are wider."""
    block, inputs = Bottleneck(32, 1, False, 64), jnp.asarray(make_unseen.block_input())
    like = jax.eval_shape(lambda: block.init(jax.random.key(0), inputs, False))
    theirs = {}
    for i, (outputs, kernel, channels) in enumerate([(32, 1, 64), (32, 3, 32), (64, 1, 32)], 1):
        theirs[f"conv{i}.weight"] = (outputs, channels, kernel, kernel)
        theirs |= {f"bn{i}.{leaf}": (outputs,)
                   for leaf in ("weight", "bias", "running_mean", "running_var")}
    arrays = drawn_weights(theirs)
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    ours = {name: arrays[f"conv{name[4]}.weight"].transpose(2, 3, 1, 0) if "kernel" in name else
            arrays[f"bn{name.split('/')[-2][4]}.{leaves[name.split('/')[-1]]}"]
            for name in by_name(like)}
    variables = jax.tree.map_with_path(lambda path, leaf: ours[variable_name(path)], like)
    outputs = block.apply(variables, inputs, False)
    np.testing.assert_allclose(outputs, GOLDENS["wide_block"], rtol=0,
                               atol=1e-5 * np.abs(GOLDENS["wide_block"]).max())


@pytest.mark.parametrize("arch, parameters", [
    ("resnet50", 25_557_032), ("wide_resnet50_2", 68_883_240), ("wide_resnet101_2", 126_886_696)])
def test_sizes_of_wide_resnets(arch, parameters):
    """They have as many parameters as torchvision says."""
    model = kj.models.make_model(archs.find_arch(arch).model, classes=1000)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(like["params"])) == parameters


@pytest.mark.full
def test_wide_resnet50_2():
    model = kj.models.make_model(archs.find_arch("wide_resnet50_2").model, classes=10)
    logits = logits_of(model, jnp.asarray(images(2, 64) / 128 - 1, jnp.float32))
    expected = GOLDENS["wide_resnet50_2"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_plain_blocks_are_not_widened():
    model = kj.models.make_model(dict(name="resnet", depth=18, width_per_group=128), classes=3)
    with pytest.raises(UserError, match="width_per_group = 128: expected 64 for depth 18"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
