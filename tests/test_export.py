"""A checkpoint as safetensors and JSON, and a restored run's inputs: pictures, texts, arrays."""
import json

from command import command, done, refused
from guarantees.harness import mesh_of
import jax
import numpy as np
from PIL import Image
import pytest

import karpjax as kj
from karpjax import UserError
from karpjax.core import files
from karpjax.run.export import export
from karpjax.run.loop import fit


def config(**own):
    """Return a small config of the digits, with changes."""
    data = dict(name="digits", train="train", validation="validation", test="", batch_size=16)
    values = dict(steps=4, eval_every=2, save_every=2, model=dict(name="cnn", width=4),
                  optimizer=dict(name="adam", learning_rate=1e-2), data=data)
    return kj.config(task="classify", **{**values, **own})


@pytest.fixture(scope="module", params=[pytest.param(0.0, marks=pytest.mark.full), 0.9],
                ids=["parameters", "moving average"])
def made(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("made") / "run"
    fit(config(ema_decay=request.param), workdir, mesh=mesh_of(1))
    return workdir


@pytest.fixture(scope="module")
def pair(made):
    export(made, made.parent / "digits.safetensors")
    return made.parent / "digits.safetensors"


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_pair_is_the_checkpoint(made, pair):
    run, exported = kj.restore(made), kj.restore(pair)
    assert same(run.variables, exported.variables)
    assert (run.step, run.metrics) == (exported.step, exported.metrics)
    images = np.full((2, 8, 8, 1), 7, np.uint8)
    np.testing.assert_array_equal(run.predict(images), exported.predict(images))


@pytest.mark.full
def test_start_from_the_pair(made, pair, tmp_path):
    """A step at a learning rate of 0 leaves the exported weights as they are."""
    still = dict(optimizer=dict(name="sgd", learning_rate=0.0), steps=1, eval_every=1, save_every=1)
    fit(config(init_from=str(pair), **still), tmp_path / "run", mesh=mesh_of(1))
    assert same(kj.restore(tmp_path / "run").params, kj.restore(made).params)
    fit(config(**still), tmp_path / "other", mesh=mesh_of(1))
    # The check can fail.
    assert not same(kj.restore(tmp_path / "other").params, kj.restore(made).params)


def test_the_commands(made, tmp_path):
    to = tmp_path / "digits.safetensors"
    assert json.loads(done(command("export", f"--workdir={made}", f"--to={to}")))["step"] == 4
    again = json.loads(done(command("evaluate", f"--workdir={to}", "--split=validation")))
    accuracy = kj.restore(made).metrics["validation/accuracy"]
    assert again["validation/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    refused(command("export", f"--workdir={made}", f"--to={to}"), "there already")
    refused(command("export", f"--workdir={made}", f"--to={tmp_path / 'digits.npz'}"),
            "ends in .safetensors")


def test_an_export_that_was_cut_off(pair, made, tmp_path, monkeypatch):
    """A fault between the two files leaves none, a kill one that the next call replaces."""
    to, arrays = tmp_path / "digits.safetensors", files.write_arrays

    def full(path, arrays):
        raise UserError("the disk is full")
    monkeypatch.setattr(files, "write_arrays", full)
    with pytest.raises(UserError, match="full"):
        export(made, to)
    assert list(tmp_path.iterdir()) == []
    to.with_suffix(".json").write_bytes(pair.with_suffix(".json").read_bytes())  # as a kill does
    monkeypatch.setattr(files, "write_arrays", arrays)
    export(made, to)
    assert same(kj.restore(to).variables, kj.restore(made).variables)


@pytest.mark.parametrize("mine", ['{"width": 3}', "[1]", "text", '{"sha256": "0"}'])
def test_an_export_replaces_no_file_of_yours(mine, made, tmp_path):
    to = tmp_path / "digits.safetensors"
    to.with_suffix(".json").write_text(mine)
    with pytest.raises(UserError, match="digits.json: there already"):
        export(made, to)
    to.with_suffix(".json").unlink()
    to.write_text("weights")
    with pytest.raises(UserError, match="there already"):
        export(made, to)
    assert [file.name for file in tmp_path.iterdir()] == [to.name] and to.read_text() == "weights"


def test_damage_is_found(pair, tmp_path):
    data, meta = bytearray(pair.read_bytes()), pair.with_suffix(".json").read_text()
    data[-3] ^= 1
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(data)
    bad.with_suffix(".json").write_text(meta)
    with pytest.raises(UserError, match="checksum of .* differs"):
        kj.restore(bad)
    bad.write_bytes(data[:-9])
    with pytest.raises(UserError, match="not a whole .safetensors file"):
        kj.restore(bad)
    bad.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="no checkpoint here"):
        kj.restore(bad)


def test_the_card(made):
    """The card holds the numbers, the config and the two lines that restore the run."""
    text = (made / "model_card.md").read_text()
    accuracy = kj.restore(made).metrics["validation/accuracy"]
    for part in ("# cnn on digits", f"| validation/accuracy | {accuracy:.4g} |", "| step 4 |",
                 'karpjax.restore("run")', '"learning_rate": 0.01', "head/kernel"):
        assert part in text, part


def test_pictures(made, tmp_path):
    """Files, paths and PIL images are inputs, grey or not, of any size."""
    run, grey = kj.restore(made), np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "small.png")
    Image.fromarray(np.repeat(grey, 2, 0).repeat(2, 1)).convert("RGB").save(tmp_path / "large.png")
    expected = run.predict(grey.reshape(1, 8, 8, 1))
    for picture in (str(tmp_path / "small.png"), tmp_path / "small.png", [Image.fromarray(grey)]):
        np.testing.assert_array_equal(run.predict(picture), expected)
    both = run.predict([tmp_path / "small.png", Image.open(tmp_path / "large.png")])
    assert both.shape == (2, 10)
    assert not np.array_equal(both[1], run.predict(np.zeros((1, 8, 8, 1), np.uint8))[0])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="broken.png: this picture cannot be read"):
        run.predict([tmp_path / "broken.png"])
    with pytest.raises(UserError, match="nowhere.png"):
        run.predict("nowhere.png")


def test_features(made):
    run, images = kj.restore(made), np.ones((3, 8, 8, 1), np.uint8)
    features = run.features(images)
    assert features["pooled"].ndim == 2 and len(features["pooled"]) == 3
    head = run.params["head"]
    np.testing.assert_allclose(features["pooled"] @ head["kernel"] + head["bias"],
                               run.predict(images), atol=1e-5)


@pytest.mark.full
def test_texts(tmp_path):
    config = kj.config(task="masked_text", steps=1, eval_every=1, save_every=1, mask_rate=0.3,
                       model=dict(name="masked_lm", layers=1, width=8, heads=1),
                       optimizer=dict(name="adam", learning_rate=1e-3),
                       data=dict(path="", length=16, batch_size=4))
    fit(config, tmp_path / "run", mesh=mesh_of(1))
    run = kj.restore(tmp_path / "run")
    text = "A fine day, a walk."
    np.testing.assert_array_equal(run.predict([text]), run.predict(run.task.source.encode([text])))
    assert run.features(text)["pooled"].shape == (1, 8)


@pytest.mark.full
def test_inputs_that_are_arrays_alone(tmp_path):
    """A policy's observations have no form for a person."""
    config = kj.config(task="reinforce", env=dict(name="cartpole"), discount=1.0, baseline=False,
                       steps=1, eval_every=1, save_every=1,
                       model=dict(name="actor_critic", width=4),
                       optimizer=dict(name="adam", learning_rate=1e-3),
                       data=dict(num_envs=2, num_steps=4, eval_episodes=0))
    fit(config, tmp_path / "run", mesh=mesh_of(1))
    run = kj.restore(tmp_path / "run")
    with pytest.raises(UserError, match="arrays as its data set stores them"):
        run.predict("left")
    with pytest.raises(UserError, match="does not give its features"):
        run.features(np.zeros((1, 4), np.float32))
