"""Published weights become checkpoints: architectures by name, names of both projects, heads,
tokenizers, refusals."""
import os
import pickle

from command import command, refused
from data.goldens.make_vision import weights as drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core import files
from karpjax.core.task import apply
from karpjax.core.trees import by_name
from karpjax.run.loop import fit
from karpjax.run.published import into_file, published
from karpjax.weights import archs

SMALL = dict(layers=2, width=16, heads=2)
SIZES = {"resnet18": {}, "resnet20_cifar": {}, "vit": dict(patch=4, **SMALL),
         "vit_timm": dict(patch=4, **SMALL),
         "deit": dict(patch=4, distilled=True, **SMALL),
         "vit_mae": dict(patch=4, decoder_layers=1, decoder_width=8, decoder_heads=2, **SMALL),
         "bert": dict(context=12, **SMALL), "roberta": dict(context=12, **SMALL)}
NAMES = {"vit_timm": "timm", "deit": "timm", "roberta": "roberta"}


def file_of(arch: str, to, size=16, **fields) -> tuple:
    """Write drawn weights as another project would and return (model, its variables)."""
    options = {**archs.find_arch(arch).model, **SIZES[arch], **fields}
    given = dict(vocabulary=40) if "bert" in arch else {} if arch == "vit_mae" else dict(classes=7)
    model = kj.models.make_model(options, **given)
    inputs = jnp.zeros((1, 12), jnp.int32) if "bert" in arch else jnp.zeros((1, size, size, 3))
    like = jax.eval_shape(model.init, jax.random.key(0), inputs)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    theirs = weights.to_pytorch(model, zeros, NAMES.get(arch, ""))
    arrays = drawn_weights({name: array.shape for name, array in theirs.items()})
    files.write_arrays(to, arrays)
    return model, weights.to_karpjax(model, like, arrays, to)


def published_tokenizer(arch: str) -> str:
    """Return a tokenizer in BERT's or RoBERTa's form: special tokens at their places, 40 in all."""
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if arch == "bert" else \
        ["<s>", "<pad>", "</s>", "<unk>"]
    last = [] if arch == "bert" else ["<mask>"]
    words = [f"word{i}" for i in range(40 - len(special) - len(last))]
    vocabulary = {token: i for i, token in enumerate([*special, *words, *last])}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token=special[2 if arch == "bert" else 3]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([token for token in [*special, *last] if "unused" not in token])
    return tokenizer.to_str()


# -------------------------------------------------------------------------------- published weights

@pytest.mark.parametrize("arch", [  # a small one; the others are in the full run
    arch if arch == "resnet20_cifar" else
    pytest.param(arch, marks=pytest.mark.full) for arch in SIZES])
def test_an_architecture_by_its_name(arch, tmp_path):
    """Sizes come from the file. The checkpoint predicts as the model does and knows its input."""
    model, variables = file_of(arch, tmp_path / "file.npz")
    (tmp_path / "tokenizer.json").write_text(published_tokenizer(arch) if "bert" in arch else "")
    published(tmp_path / "file.npz", arch, tmp_path / "run", heads=2, decoder_heads=2,
              tokenizer=str(tmp_path / "tokenizer.json") if "bert" in arch else "")
    run = kj.restore(tmp_path / "run")
    assert run.model == model
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    if "bert" in arch:
        ids = run.task.source.encode(["word1 word2"])
        assert run.task.source.vocabulary.ordinary == ((6, 40) if arch == "bert" else (4, 39))
        assert ids.shape == (1, 12)
        assert list(ids[0, :4]) == ([3, 7, 8, 4] if arch == "bert" else [0, 5, 6, 2])
        assert run.predict(ids).shape == (1, 12, 40)
    elif arch == "vit_mae":
        assert run.config.data.resize == [16, 16]
    else:
        recipe = archs.find_arch(arch).recipe
        size = run.config.data.resize[0]
        pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
        scaled = (pixels - np.float32(recipe["mean"])) / np.float32(recipe["std"])
        expected = apply(model, variables["params"],
                         {n: v for n, v in variables.items() if n != "params"},
                         jnp.asarray(scaled))[0]
        np.testing.assert_allclose(run.predict(pixels), expected, rtol=1e-4, atol=1e-4)
        assert size == {"resnet18": 224, "resnet20_cifar": 32}.get(arch, 16)


def test_there_and_back_by_the_names_of_either_project(tmp_path):
    file_of("vit_timm", tmp_path / "timm.npz")
    published(tmp_path / "timm.npz", "vit_timm", tmp_path / "run", heads=2)
    for names, to in (("timm", "again.npz"), ("", "huggingface.npz")):
        into_file(tmp_path / "run", tmp_path / to, "newest", names)
    first, again, other = (files.read_arrays(tmp_path / f)
                           for f in ("timm.npz", "again.npz", "huggingface.npz"))
    assert first.keys() == again.keys()
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert "vit.encoder.layer.1.layernorm_after.weight" in other and not other.keys() & first.keys()


@pytest.mark.parametrize("flags, expected", [
    (["--arch=resnet19"], ["no published architecture 'resnet19'; did you mean 'resnet1"]),
    (["--arch=resnet18"], ["names or shapes differ", "and ", " more",
                           "are these weights of config.model = ResNet"]),
    (["--arch=vit_mae"],
     ["the file has no array for our 'decoder_embed/kernel', which every vit_mae has"]),
    (["--arch=bert"], ["the file has no array for our 'embed/embedding', which every bert has"]),
    (["--arch=vit_timm"], ["the file is of width 16, of which no published size is known here",
                           "give --heads=N"]),
], ids=["unknown", "other shapes", "no decoder", "no text", "heads"])
def test_what_is_no_such_architecture(flags, expected, tmp_path):
    file_of("vit_timm", tmp_path / "vit.npz")
    result = command("convert", "--from=vit.npz", "--to=run", *flags, cwd=tmp_path)
    refused(result, *expected)
    assert not (tmp_path / "run").exists() and len(result.stderr) < 2500


@pytest.mark.parametrize("known, width, heads",
                         [(archs.VIT_HEADS, 768, 12), (archs.VIT_HEADS, 1280, 16),
                          (archs.TEXT_HEADS, 768, 12), (archs.TEXT_HEADS, 128, 2)])
def test_heads_of_published_sizes(known, width, heads):
    """Arrays do not show the number of heads: ViT-H is 1280 wide with 16, not with 20."""
    assert archs.published_heads(known, width) == heads
    with pytest.raises(UserError, match="give --heads=N"):
        archs.published_heads(known, 1408)


def test_a_bare_encoder_has_a_head_drawn_for_it(tmp_path):
    """Hugging Face saves a ViTModel without the prefix and without a classifier."""
    _, variables = file_of("vit", tmp_path / "whole.npz")
    bare = {name.removeprefix("vit."): array
            for name, array in files.read_arrays(tmp_path / "whole.npz").items()
            if name.startswith("vit.")}
    files.write_arrays(tmp_path / "bare.npz",
                       {**bare, "pooler.dense.weight": np.zeros((16, 16), np.float32)})
    assert published(tmp_path / "bare.npz", "vit", tmp_path / "run", heads=2)["anew"] == ["head/.*"]
    restored = by_name(kj.restore(tmp_path / "run").variables)
    assert restored["head/kernel"].shape == (16, 1)
    assert all(np.array_equal(restored[name], array) for name, array in by_name(variables).items()
               if "head" not in name)


def test_bert_needs_its_tokenizer(tmp_path):
    file_of("bert", tmp_path / "bert.npz")
    with pytest.raises(UserError, match="--arch=bert needs --tokenizer=tokenizer.json"):
        published(tmp_path / "bert.npz", "bert", tmp_path / "run", heads=2)


def test_weights_alone_are_not_trained(tmp_path):
    file_of("resnet20_cifar", tmp_path / "file.npz")
    published(tmp_path / "file.npz", "resnet20_cifar", tmp_path / "run")
    run = kj.restore(tmp_path / "run")
    with pytest.raises(UserError,
                       match="expected the name of a data set, or the dir of an ImageFolder"):
        fit(run.config, tmp_path / "run")


# ----------------------------------------------------------------------- files that must not be run

class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("payload", [
    lambda mark: Runs(os.system, f"touch {mark}"),
    lambda mark: Runs(eval, f"open({str(mark)!r}, 'w').close()"),
    lambda mark: {"state_dict": {"conv.weight": [Runs(os.system, f"touch {mark}")]}},
], ids=["os.system", "builtins.eval", "nested"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_pickle_that_runs_code_is_not_run(payload, suffix, tmp_path):
    """Code in a pickle is not run, with PyTorch or without."""
    mark, file = tmp_path / "mark", tmp_path / f"net{suffix}"
    file.write_bytes(pickle.dumps(payload(mark)))
    with pytest.raises(UserError) as error:
        weights.read_arrays(file)
    assert not mark.exists() and "\n" not in str(error.value)
    pickle.loads(file.read_bytes())  # it would have
    assert mark.exists()
