"""From a start to your own pictures: starting points, LoRA, frozen backbones, pictures, a restore
anywhere."""
import os
import pathlib
import shutil
import subprocess
import sys

from command import python_path
from guarantees.harness import mesh_of
from guarantees.registry import config_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core import files
from karpjax.core.trees import by_name
from karpjax.models.layers.transformer import merge_lora
from karpjax.models.vit import resized
from karpjax.run import init_from
from karpjax.run.experiment import assemble
from karpjax.run.init_from import load_weights
from karpjax.run.loop import fit
from karpjax.run.published import into_file

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens"


# ---------------------------------------------------------------------------------- starting points

@pytest.mark.full
def test_what_the_config_leaves_out_is_the_checkpoints(tmp_path, capsys):
    """Model and input come from the weights.

    A head for other classes is reinitialised and reported, and the run outlives its start.
    """
    start = shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "vit", tmp_path / "start")
    config, task_file = config_of("lora", steps=3, init_from=str(start))
    fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    said = capsys.readouterr().out
    assert "head/kernel (16, 10) -> (16, 2) reinitialised" in said and ": 30 of 40 arrays" in said
    run = kj.restore(tmp_path / "run")
    assert run.config.data.mean == [127.5] and run.config.model.name == "vit"
    assert run.config.model.lora == 8
    shutil.rmtree(start)
    config, task_file = config_of("lora", steps=6, init_from=str(start))
    assert fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))["steps"] == 6


def test_what_shapes_do_not_show_is_said():
    """Another input or form of the model than the weights had is reported."""
    config, _ = config_of("lora", **{"data.mean": 0.0, "data.std": 127.5, "model.heads": 4})
    assert init_from.differences(config) == [
        "note: config.data.mean = 0.0, but these weights learned with [127.5]",
        "note: config.model.heads = 4, but these weights learned with 2"]
    config, _ = config_of("finetune")
    assert init_from.differences(config) == []
    del config.data["mean"]
    assert "config.data has no mean and std" in init_from.differences(config)[0]


def test_skipped_positions_start_anew():
    config, task_file = config_of("lora", init_skip=("position",))
    exp = assemble(config, task_file, mesh_of(1))
    begun = exp.fresh_state()
    state, said = load_weights(config.init_from, begun, exp.task, config.init_skip)
    np.testing.assert_array_equal(state.params["position"], begun.params["position"])
    assert "position" not in said[0]


def test_a_grid_that_is_not_square_is_refused_before_anything_is_written(tmp_path):
    config, task_file = config_of("lora", steps=3,
                                  **{"data.resize": (12, 8), "data.crop": 0, "augment": []})
    with pytest.raises(UserError, match="positions of 4 patches for 6: expected square grids"):
        fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_project(tmp_path):
    """Arrays are matched by name alone: the file's stand in the state."""
    config, task_file = config_of("finetune")
    exp = assemble(config, task_file, mesh_of(1))
    state, said = load_weights(config.init_from, exp.fresh_state(), exp.task)
    theirs = weights.translated(exp.task.model, files.read_arrays(config.init_from), "file")
    ours = by_name(state.variables)
    different = {name for name in ours if ours[name].shape != theirs[name].shape
                 or (ours[name] != theirs[name]).any()}
    assert different == {"head/kernel", "head/bias"}
    assert "head/bias (10,) -> (2,) reinitialised" in said[0]


def test_a_file_does_not_say_its_model(tmp_path):
    config, task_file = config_of("lora",
                                  init_from=os.path.join(os.environ["TFDS_DATA_DIR"], "vit.npz"))
    config.model = {}
    with pytest.raises(UserError, match="another project's file does not say what it is of; "
                                        "give config.model"):
        assemble(config, task_file, mesh_of(1))


def test_positions_are_resized_as_timm_does():
    expected = np.load(GOLDENS / "positions.npz")
    given = jnp.asarray(expected["given"])
    for side in (3, 8):
        np.testing.assert_allclose(resized(given, (1 + side**2, given.shape[1]), 1),
                                   expected[f"side{side}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(resized(given, given.shape, 1), given, rtol=0, atol=1e-6)


def test_a_vision_transformer_on_larger_pictures(tmp_path):
    config, task_file = config_of("lora", **{"data.resize": (24, 24), "data.crop": 16,
                                          "augment": [dict(name="random_resized_crop", size=16)]})
    exp = assemble(config, task_file, mesh_of(1))
    state, said = load_weights(config.init_from, exp.fresh_state(), exp.task)
    assert "position (5, 16) -> (17, 16) resized" in said[0]
    assert np.isfinite(state.params["position"]).all()
    assert state.params["position"].shape == (17, 16)


# ----------------------------------------------------------------------- LoRA, and frozen backbones

@pytest.mark.full
def test_lora():
    """LoRA begins as the base, bit by bit.

    Trained, it is the base with other matrices, and only the head moves beside it.
    """
    config, task_file = config_of("lora", steps=4, **{"optimizer.learning_rate": 0.01})
    exp = assemble(config, task_file, mesh_of(1))
    begun, _ = load_weights(config.init_from, exp.fresh_state(), exp.task)
    begun = jax.tree.map(np.asarray, begun.variables)
    base, lora = kj.restore(config.init_from), exp.task.model
    pictures = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)

    def pooled(model, variables):
        return model.apply(variables, pictures, features=True)[1]["pooled"]

    np.testing.assert_array_equal(pooled(lora, begun), pooled(base.model, base.variables))

    from guarantees import harness
    trained = harness.run(config, task_file, mesh_of(1), steps=4,
                          change=lambda x: started(x, config.init_from))
    moved = {name.removeprefix("params/") for name, array in trained.state.items()
             if name.startswith("params/")
             and not np.array_equal(array, by_name(begun)[name.removeprefix("params/")])}
    assert moved == {name for name in by_name(begun) if "lora_" in name or name.startswith("head/")}
    variables = {"params": jax.tree.map_with_path(
        lambda path, _: trained.state["/".join(["params", *(k.key for k in path)])],
                                                  begun["params"])}
    plain, together = merge_lora(lora, variables)
    assert plain.lora == 0 and not any("lora" in name for name in by_name(together))
    np.testing.assert_allclose(plain.apply(together, pictures), lora.apply(variables, pictures),
                               rtol=0, atol=1e-5)
    assert np.abs(pooled(plain, together) - pooled(base.model, base.variables)).max() > 1e-3


def started(exp, path):
    """Make an experiment's fresh state start from other weights."""
    fresh = exp.fresh_state
    exp.fresh_state = lambda: load_weights(path, fresh(), exp.task)[0]
    return exp


@pytest.mark.full
def test_lora_leaves_for_other_projects_merged(tmp_path):
    config, task_file = config_of("lora", steps=3)
    fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    into_file(tmp_path / "run", tmp_path / "out.npz", "newest", "timm")
    assert files.read_arrays(tmp_path / "out.npz").keys() == files.read_arrays(
        os.path.join(os.environ["TFDS_DATA_DIR"], "vit.npz")).keys()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_keeps_its_statistics(frozen):
    """frozen_statistics keeps them. Without it, BatchNorm moves under frozen parameters."""
    config, task_file = config_of("finetune", frozen_statistics=frozen,
                                  **{"optimizer.freeze": ("(?!head/).*",)})
    from guarantees import harness
    trained = harness.run(config, task_file, mesh_of(1), steps=2)
    fresh = assemble(config, task_file, mesh_of(1)).fresh_state()
    begun = {f"{part}/{name}": leaf for part in ("params", "model_state")
             for name, leaf in by_name(getattr(fresh, part)).items()}
    moved = {name for name, leaf in begun.items() if not np.array_equal(trained.state[name], leaf)}
    moved_params = {name for name in moved if name.startswith("params/")}
    assert moved_params == {"params/head/kernel", "params/head/bias"}
    assert any(name.startswith("model_state/") for name in moved) == (not frozen)


# ----------------------------------------------------------------------------------------- pictures

@pytest.mark.full
def test_the_middle_is_evaluated_and_crops_are_learned_from():
    config, task_file = config_of("finetune")
    source = assemble(config, task_file, mesh_of(1)).source
    rows = source.first(1)["image"]
    assert rows.shape == (1, 12, 12, 3)
    assert source.preprocess(source.first(1))["image"].shape == (1, 8, 8, 3)
    mean, std = np.float32(config.data.mean), np.float32(config.data.std)
    np.testing.assert_allclose(source.preprocess(source.first(1))["image"],
                               (rows[:, 2:10, 2:10] - mean) / std, rtol=1e-5)
    state = source.init(jax.random.key(0))
    _, chunk = source.advance(source.arrays, state, None)
    assert source.batch(source.arrays, chunk, 0)["image"].shape == (16, 8, 8, 3)


@pytest.mark.parametrize("change, says", [
    ({"data.dir": "nowhere"}, "config.data.dir = 'nowhere': no such folder"),
    ({"data.dir": ""}, "expected the name of a data set, or the dir of an ImageFolder"),
    ({"data.crop": 13}, "config.data.crop = 13: the images are 12 x 12"),
    ({"data.test": "val"}, "has no split 'val'; it has \\['test', 'train'\\]")])
def test_folders_that_will_not_do(change, says):
    config, task_file = config_of("finetune", **change)
    with pytest.raises(UserError, match=says):
        assemble(config, task_file, mesh_of(1))


def test_a_run_does_not_go_on_with_other_pictures(tmp_path):
    """A run with another input is refused. Its checkpoint still predicts as before."""
    folder = shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "pictures",
                             tmp_path / "mine")
    config, task_file = config_of("lora", steps=3, **{"data.dir": str(folder)})
    fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    before = kj.restore(tmp_path / "run").predict(pixels)
    (folder / "train" / "ants").rename(folder / "train" / "zebras")
    (folder / "test" / "ants").rename(folder / "test" / "zebras")
    config.steps = 6
    with pytest.raises(UserError,
                       match="its pictures have changed since this run began; put them back"):
        fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(1))
    run = kj.restore(tmp_path / "run")
    np.testing.assert_array_equal(run.predict(pixels), before)
    assert run.task.source.spec["names"] == ["ants", "bees"]
    with pytest.raises(UserError,
                       match="its pictures have changed since this run began; put them back"):
        next(iter(run.task.source.eval_batches("test")))


def test_a_folder_that_changes_is_another_set(tmp_path):
    from karpjax.datasets.folders import prepared_folder
    folder = shutil.copytree(pathlib.Path(os.environ["TFDS_DATA_DIR"]) / "pictures",
                             tmp_path / "mine")
    sets = tmp_path / "sets"
    first = prepared_folder(folder, sets)
    assert prepared_folder(folder, sets) == first
    (folder / "train" / "ants" / "0.png").unlink()
    assert prepared_folder(folder, sets) != first and len(list(sets.glob("folder_*"))) == 2


# --------------------------------------------------------------------------------- restore anywhere

@pytest.mark.full
def test_from_eight_devices_to_one_without_frameworks(tmp_path):
    """A run restores without its config file in a process that can import neither TensorFlow nor
    PyTorch."""
    config, task_file = config_of("finetune", steps=2)
    fit(config, tmp_path / "run", task_file=task_file, mesh=mesh_of(8))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    for package in ("tensorflow", "torch"):
        (tmp_path / "blocked" / package).mkdir(parents=True)
        (tmp_path / "blocked" / package / "__init__.py").write_text("raise ImportError('blocked')")
    code = ("import jax, karpjax, numpy as np\n"
            "run = karpjax.restore('run'); assert jax.device_count() == 1\n"
            "np.save('out.npy', run.predict(np.load('pixels.npy')))")
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                             env={**os.environ, "PYTHONPATH": python_path(tmp_path / "blocked")},
                             text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    expected = kj.restore(tmp_path / "run").predict(pixels)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-5)
