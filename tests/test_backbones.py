"""A network's weights as another's backbone: published files, classifiers, autoencoders, detectors.
"""
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import numpy as np
import pytest

import karpjax as kj
from karpjax import weights
from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.trees import by_name
from karpjax.run.experiment import assemble
from karpjax.run.init_from import differences, load_weights, plan, weights_at
from karpjax.run.loop import fit

VIT = dict(name="vit", patch=8, layers=2, width=16, heads=2)


def started(name: str, start, **overrides) -> tuple:
    """Return ({name: array} of a run at its start, what is said of its weights, its experiment)."""
    config, task_file = config_of(name, init_from=str(start), **overrides)
    exp = assemble(config, task_file, mesh_of(1))
    state, lines = load_weights(config.init_from, exp.fresh_state(), exp.task, config.init_skip)
    return by_name(state.variables), lines[0], exp


def of_backbone(variables: dict) -> dict:
    """Return a backbone's arrays under the names that they have alone."""
    return {name.replace("backbone/", ""): np.asarray(array) for name, array in variables.items()
            if "backbone/" in name}


def run(name: str, folder, **overrides):
    """Train a task for four steps and return its restored run."""
    config, task_file = config_of(name, steps=4, eval_every=4, save_every=4, **overrides)
    fit(config, folder, task_file=task_file, mesh=mesh_of(1))
    return kj.restore(folder)


@pytest.mark.full
def test_a_published_file():
    """Its classifier is left out, and all that is ours alone is drawn."""
    start = "{data}/resnet8.npz"
    variables, line, exp = started("segment", start)
    found = of_backbone(variables)
    model = kj.models.make_model(dict(name="resnet_cifar", depth=8), classes=10)
    theirs = weights.read_arrays(exp.config.init_from)
    np.testing.assert_array_equal(found["stem/kernel"],
                                  theirs["conv1.weight"].transpose(2, 3, 1, 0))
    assert len(found) == len(weights.name_arrays(model, theirs, start).arrays) - 2
    assert "of the backbone" in line and "drawn anew" in line and "left out" in line


@pytest.mark.full
def test_a_masked_autoencoder(tmp_path):
    """Its encoder is the backbone. Positions are fitted to another grid, layers have numbers."""
    fields = {key: VIT[key] for key in ("patch", "layers", "width", "heads")}
    before = run("masked_image", tmp_path / "mae",
                 **{f"model.{key}": value for key, value in fields.items()})
    decay = {"model.backbone": VIT, "model.strides": (4, 8), "optimizer.layer_decay": 0.5,
             "augment": []}                          # a position for each patch of a scene
    variables, line, exp = started("segment", tmp_path / "mae", **decay)
    found, theirs = of_backbone(variables), by_name({"params": before.params})
    assert found["position"].shape == (65, 16) and theirs["position"].shape == (17, 16)
    np.testing.assert_array_equal(found["position"][0], theirs["position"][0])
    for name in found.keys() - {"position"}:
        np.testing.assert_array_equal(found[name], theirs[name])
    assert "decoder" in line and "backbone/position (17, 16) -> (65, 16) resized" in line
    assert [exp.task.model.layer_of(name) for name in (
        "backbone/patch/kernel", "backbone/block1/mlp/up/kernel", "head/kernel")] == [0, 2, None]
    assert differences(exp.config) == []
    other = {**decay, "model.backbone": {**VIT, "heads": 4}}
    assert "heads" in differences(config_of("segment", init_from=str(tmp_path / "mae"),
                                            **other)[0])[0]


@pytest.mark.full
def test_a_detector_of_other_classes(tmp_path):
    """Everything is taken but the convolution that says the class."""
    before = run("detect", tmp_path / "run")
    variables, line, exp = started("detect", tmp_path / "run")
    assert "reinitialised" not in line
    model = exp.task.model.clone(classes=3)
    like = jax.eval_shape(model.init, jax.random.key(0), exp.task.source.example["image"])
    load, notes = plan(weights_at(tmp_path / "run", model), like, model)
    assert {name for name in by_name(like)} - set(load) == {
        "class_head/class/kernel", "class_head/class/bias"}
    assert sorted(notes)[0].startswith("class_head/class/bias (10,) -> (3,) reinitialised")
    np.testing.assert_array_equal(variables["side_head/sides/kernel"],
                                  before.params["side_head"]["sides"]["kernel"])


@pytest.mark.full
def test_a_deeper_network(tmp_path):
    """Its inner layers are not left out in silence."""
    model = kj.models.make_model(dict(name="fcos", width=32, depth=1, strides=(4, 8),
                                      backbone=dict(name="resnet_cifar", depth=8)), classes=10)
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    deeper = kj.models.make_model(dict(name="resnet_cifar", depth=14), classes=10)
    bare = jax.eval_shape(deeper.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), bare)
    files.write_arrays(tmp_path / "deep.npz", weights.to_pytorch(deeper, zeros))
    with pytest.raises(UserError, match="expected the layers of config.model.backbone, found more"):
        plan(weights_at(tmp_path / "deep.npz", model), like, model)


def test_tables_of_a_detector_on_a_transformer():
    """Fused queries, keys and values, and parameters of the whole, stand in the table too."""
    model = kj.models.make_model(dict(name="fcos", width=32, strides=(4, 8), backbone=VIT),
                                 classes=3)
    theirs = ["blocks.0.attn.qkv.weight", "cls_token", "pos_embed", "patch_embed.proj.weight"]
    assert weights.knows_more(model.backbone, model, theirs)


def test_frozen_statistics_of_nothing():
    """BatchNorm that keeps what it begins with is said."""
    for frozen in (False, True):
        config, _ = config_of("segment", frozen_statistics=frozen)
        assert [line[:33] for line in differences(config)] == [
            "warning: config.frozen_statistics"] * frozen


def test_layers_of_a_backbone_that_has_none():
    config, task_file = config_of("segment", **{"optimizer.layer_decay": 0.5})
    with pytest.raises(UserError, match="expected a backbone with layers, a vit, found Cifar"):
        assemble(config, task_file, mesh_of(1))
