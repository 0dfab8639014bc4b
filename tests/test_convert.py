"""Weights of other projects: their own logits, conversion without a changed bit, and refusals."""
import json
import os
import pathlib
import sys
import types

from command import RESNET, command, done, refused
from data.goldens.make_vision import images, weights as drawn_weights
from guarantees.harness import mesh_of
import jax
import jax.numpy as jnp
from karpjax.core import files
from karpjax.convert import main
import numpy as np
import pytest
import safetensors.numpy

import karpjax as kj
from karpjax import restore, UserError, weights
from karpjax.core.task_file import module_from_text
from karpjax.core.trees import by_name
from karpjax.run.checkpoint import Checkpoints
from karpjax.run.experiment import assemble
from karpjax.run.init_from import load_weights
from karpjax.weights.names import DENSE, places

ROOT = pathlib.Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "data" / "goldens"
SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
MODELS = {"resnet_cifar20": dict(name="resnet_cifar", depth=20),
          "resnet18": dict(name="resnet", depth=18), "resnet50": dict(name="resnet", depth=50),
          "efficientnet_lite0": dict(name="efficientnet_lite0")}

RECORD = {"path": "config.py", "text": RESNET}

EIGHT_BITS = b'{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'


def empty(options: dict, classes: int, channels: int = 3):
    """Return (model, the shapes of its variables)."""
    model = kj.models.make_model(options, classes=classes)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))


def drawn(model, like) -> dict:
    """Return a PyTorch state dict for the model, drawn from a fixed seed."""
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    arrays = weights.to_pytorch(model, zeros)
    return drawn_weights({name: array.shape for name, array in arrays.items()})


def same(a: dict, b: dict) -> None:
    """Check that two dicts of arrays have the same names, types and bits."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


# ----------------------------------------------------------------------- against their own networks

@pytest.mark.parametrize("name, size", [("resnet_cifar20", 32), ("resnet18", 96), ("resnet50", 96)])
def test_logits_are_those_of_pytorch(name, size):
    model, like = empty(MODELS[name], classes=10)
    variables = weights.to_karpjax(model, like, drawn(model, like), name)
    expected = np.load(GOLDENS / f"{name}.npz")["logits"]
    logits = jax.jit(model.apply)(variables, jnp.asarray(images(2, size) / 128 - 1))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 0.01      # or the test would test nothing


def test_logits_of_the_published_efficientnet():
    file = SHARED / "weights" / "efficientnet_lite0.safetensors"
    if not file.exists():
        pytest.skip("KARPJAX_TEST_DATA has no weights/efficientnet_lite0.safetensors")
    model, like = empty(MODELS["efficientnet_lite0"], classes=1000)
    variables = weights.to_karpjax(model, like, files.read_arrays(file), file)
    logits = jax.jit(model.apply)(variables, jnp.asarray((images(3, 224) - 127) / 128))
    np.testing.assert_allclose(logits, np.load(GOLDENS / "efficientnet_lite0.npz")["logits"],
                               rtol=0, atol=1e-4)


# ----------------------------------------------------------------------------------- there and back

@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_round_trip_changes_no_bit(name, suffix, tmp_path):
    model, like = empty(MODELS[name], classes=10)
    arrays = drawn(model, like)
    files.write_arrays(tmp_path / f"a{suffix}", arrays)
    stored = files.read_arrays(tmp_path / f"a{suffix}")
    same(stored, arrays)
    same(weights.to_pytorch(model, weights.to_karpjax(model, like, stored, "a")), arrays)


def test_what_training_scripts_leave_in_files(tmp_path):
    """Files may hold DataParallel's prefix, BatchNorm's counters, and half precision (widened)."""
    model, like = empty(MODELS["resnet_cifar20"], classes=10)
    arrays = {name: array.astype(jnp.bfloat16 if "conv" in name else np.float16)
              for name, array in drawn(model, like).items()}
    stored = {f"module.{name}": array for name, array in arrays.items()}
    stored["module.bn1.num_batches_tracked"] = np.array(64_000)
    safetensors.numpy.save_file(stored, tmp_path / "left.safetensors")
    left = files.read_arrays(tmp_path / "left.safetensors")
    widened = {name: array.astype(np.float32) for name, array in arrays.items()}
    same(by_name(weights.to_karpjax(model, like, left, "a")),
         by_name(weights.to_karpjax(model, like, widened, "a")))


def test_three_of_theirs_in_one_of_ours():
    """A fused query, key and value (D, 3D) is made of three (D, D) that are transposed."""
    table = [("block{i}/qkv", ("layer.{i}.query", "layer.{i}.key", "layer.{i}.value"), DENSE)]
    ours = places(table, ["block3/qkv/kernel", "block3/qkv/bias"])

    def array(i, shape):
        return np.full(shape, i, np.float32) + np.arange(shape[-1], dtype=np.float32) / 10
    theirs = {f"layer.3.{name}.{leaf}": array(i, shape)
              for i, name in enumerate(["query", "key", "value"])
              for leaf, shape in (("weight", (2, 4)), ("bias", (2,)))}
    kernel, bias = (ours[f"block3/qkv/{leaf}"].ours(theirs) for leaf in ("kernel", "bias"))
    assert kernel.shape == (4, 6) and bias.shape == (6,)
    np.testing.assert_array_equal(kernel[:, 2:4], theirs["layer.3.key.weight"].T)
    back = {**ours["block3/qkv/kernel"].theirs(kernel), **ours["block3/qkv/bias"].theirs(bias)}
    same(dict(sorted(back.items())), dict(sorted(theirs.items())))


# ----------------------------------------------------------------------------------------- refusals

def test_missing_unexpected_and_shapes_are_listed():
    model, like = empty(MODELS["resnet_cifar20"], classes=10)
    arrays = drawn(model, like)
    arrays["layer1.0.conv1.wieght"] = arrays.pop("layer1.0.conv1.weight")
    arrays["linear.weight"] = arrays["linear.weight"][:7]
    with pytest.raises(UserError) as error:
        weights.to_karpjax(model, like, arrays, "weights.npz")
    for words in ("weights.npz: names or shapes differ",
                  "missing in the checkpoint: ['layer1.0.conv1.weight']",
                  "unexpected in it: ['layer1.0.conv1.wieght']",
                  "['linear.weight (7, 64) -> (10, 64)']",
                  "are these weights of config.model = CifarResNet"):
        assert words in str(error.value), words


def test_weights_of_another_architecture():
    (model, like), deeper = empty(MODELS["resnet_cifar20"],
                                  10), empty(dict(name="resnet_cifar", depth=32), 10)
    says = r"missing in the checkpoint: none; unexpected in it: \['layer1.3.bn1.bias'"
    with pytest.raises(UserError, match=says):
        weights.to_karpjax(model, like, drawn(*deeper), "a")


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_numbers_that_float32_cannot_hold(dtype):
    model, like = empty(MODELS["resnet_cifar20"], classes=10)
    arrays = drawn(model, like)
    arrays["linear.bias"] = arrays["linear.bias"].astype(dtype)
    says = f"expected float32 or less, found linear.bias {dtype.__name__}; store them"
    with pytest.raises(UserError, match=says):
        weights.to_karpjax(model, like, arrays, "a")


def test_a_model_without_a_table():
    says = "no table of PyTorch's names for the model CNN; there are tables for CifarResNet"
    with pytest.raises(UserError, match=says):
        weights.to_pytorch(kj.models.make_model(dict(name="cnn"), classes=3), {"params": {}})


@pytest.mark.parametrize("name, content, expected", [
    ("a.h5", b"", "expected a file of weights, .safetensors, .npz, .pth, .pt, .th, .bin, or its "
                  "*.index.json; found the suffix '.h5'"),
    ("a.npz", None, "no such file"),
    ("a.npz", b"PK\x03\x04 torn", "not a whole .npz file"),
    ("a.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a whole .safetensors file"),
    ("a.safetensors", len(EIGHT_BITS).to_bytes(8, "little") + EIGHT_BITS + b"0",
     "x is of F8_E4M3, expected one of F64, F32,"),
], ids=["kind", "missing", "npz", "safetensors", "8 bits"])
def test_files_that_cannot_be_read(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        weights.read_arrays(tmp_path / name)
    assert expected in str(error.value)


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a whole .npz file .*allow_pickle=False"):
        weights.read_arrays(tmp_path / "a.npz")


def test_safetensors_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for use in (lambda: weights.read_arrays(tmp_path / "a.safetensors"),
                lambda: files.write_arrays(tmp_path / "b.safetensors", {})):
        with pytest.raises(UserError, match=r'pip install "karpjax\[convert\]"'):
            use()


def test_a_pickle_needs_pytorch(tmp_path, monkeypatch):
    (tmp_path / "net.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError) as error:
        weights.read_arrays(tmp_path / "net.pth")
    for words in ("read by PyTorch", "pip install torch",
                  "torch.load('net.pth', 'cpu', weights_only=True)", "'net.npz'"):
        assert words in str(error.value), words


def test_a_pickle_is_left_to_pytorch(tmp_path, monkeypatch):
    """PyTorch is asked for weights only, and its state dict is read.

    A stand-in takes the place of PyTorch, which the tests do not install.
    """
    class Tensor(types.SimpleNamespace):
        def detach(self):
            return self

        def numpy(self):
            return self.value

    asked = {}

    def load(path, **options):
        asked.update(options)
        tensor = Tensor(value=np.ones(2, np.float32), dtype="float32")
        return {"epoch": 3, "state_dict": {"module.a": tensor}}
    torch = types.SimpleNamespace(load=load, is_tensor=lambda x: isinstance(x, Tensor),
                                  bfloat16="bfloat16")
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "net.th").write_bytes(b"")
    np.testing.assert_array_equal(weights.read_arrays(tmp_path / "net.th")["module.a"], [1, 1])
    assert asked == {"map_location": "cpu", "weights_only": True}


@pytest.mark.parametrize("to, expected",
                         [("out.pth", "ends in .safetensors or .npz"),
                          ("there.npz", "there already"), ("none/out.npz", "no folder")])
def test_places_that_cannot_be_written(tmp_path, to, expected):
    (tmp_path / "there.npz").write_bytes(b"mine")
    with pytest.raises(UserError, match=expected):
        files.write_arrays(tmp_path / to, {"a": np.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


def test_nothing_half_written(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="cannot be written .No space left"):
        files.write_arrays(tmp_path / "a.npz", {"a": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------- the command

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a config, weights for it, and the workdir that the command made."""
    folder = tmp_path_factory.mktemp("convert")
    (folder / "config.py").write_text(RESNET)
    files.write_arrays(folder / "w.safetensors",
                       drawn(*empty(dict(name="resnet_cifar", depth=8), classes=10, channels=1)))
    said = done(command("convert", "--config=config.py", "--weights=w.safetensors", "--workdir=run",
                        cwd=folder))
    assert json.loads(said.splitlines()[-1])["step"] == 0
    return folder


@pytest.mark.full
def test_the_workdir_is_a_run_at_step_0(folder):
    """restore, config.init_from, a loop that goes on and evaluate all see the weights."""
    arrays, run = files.read_arrays(folder / "w.safetensors"), restore(folder / "run")
    same(weights.to_pytorch(run.model, run.variables), arrays)
    assert run.step == 0 and run.predict(np.zeros((2, 8, 8, 1), int)).shape == (2, 10)

    exp = assemble(module_from_text("config.py", RESNET).get_config(), RECORD, mesh_of(1))
    begun = exp.fresh_state()
    same(weights.to_pytorch(run.model, load_weights(folder / "run", begun, exp.task)[0].variables),
         arrays)
    state, meta = Checkpoints(folder / "run").restore(exp.abstract)
    same(weights.to_pytorch(run.model, state.variables), arrays)
    assert meta["dispatch"] == "step"
    assert json.loads((folder / "run" / "config.json").read_text()) == exp.config.to_dict()

    accuracy = json.loads(done(command("evaluate", "--workdir=run", "--split=test",
                                    cwd=folder)).splitlines()[-1])
    test = kj.sources.images(run.config.data).data["test"]
    correct = np.argmax(run.predict(test["image"]), axis=-1) == test["label"]
    assert accuracy["step"] == 0 and accuracy["test/accuracy"] == pytest.approx(correct.mean())


@pytest.mark.full
def test_back_into_a_file(folder, capsys):
    main([f"--workdir={folder / 'run'}", f"--to={folder / 'back.npz'}"])
    same(files.read_arrays(folder / "back.npz"), files.read_arrays(folder / "w.safetensors"))
    # These are 7 convolutions and their norms, and the head.
    assert json.loads(capsys.readouterr().out)["arrays"] == 37


def test_refused_by_the_command(folder):
    """A refusal is one line. It leaves a workdir with checkpoints as it is, and begins none."""
    config = f"--config={folder / 'config.py'}"
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
    again = command("convert", "--config=config.py", "--weights=w.safetensors", "--workdir=run",
                    cwd=folder)
    refused(again, "run has checkpoints already; choose a new folder")
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")} == before
    given = f"--weights={folder / 'w.safetensors'}"
    for flags, expected in [((config, given, "--config.model.depth=14"), "missing in the"),
                            ((config, f"--weights={folder / 'v.safetensors'}"), "no such file"),
                            ((config,), "--weights=... is missing"),
                            ((), "expected --from=FILE, --config=FILE or --to=FILE, found"),
                            ((f"--to={folder / 'out.npz'}",), "no checkpoint here"),
                            ((f"--to={folder / 'out.bin'}",), "ends in .safetensors or .npz")]:
        with pytest.raises(UserError, match=expected):
            main([*flags, f"--workdir={folder / 'other'}"])
    assert not (folder / "other").exists() and not (folder / "out.npz").exists()
