"""Files of weights as they lie about: prefixes, copies, bare encoders, MAE's own, several files."""
import json
import re

from data.goldens.make_vision import weights as drawn_weights
import jax
import jax.numpy as jnp
from karpjax.models.encoder import is_padded
import numpy as np
import pytest
from test_published import SMALL, file_of, published_tokenizer

import karpjax as kj
from karpjax import UserError, weights
from karpjax.core import files
from karpjax.core.trees import by_name
from karpjax.run.published import published
from karpjax.weights import archs
from karpjax.weights.files import tensors_of

RESNET = kj.models.make_model(dict(name="resnet_cifar", depth=8), classes=3)
MAE = kj.models.make_model(dict(name="mae", patch=4, decoder_layers=1, decoder_width=8,
                                decoder_heads=2, **SMALL))


@pytest.fixture(scope="module")
def resnet():
    """Return (the shapes of the model's variables, a file's arrays, the variables)."""
    like = jax.eval_shape(RESNET.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    arrays = drawn(RESNET, like)
    return like, arrays, weights.to_karpjax(RESNET, like, arrays, "plain")


def drawn(model, like, names="") -> dict:
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    arrays = weights.to_pytorch(model, zeros, names)
    return drawn_weights({name: array.shape for name, array in arrays.items()})


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ----------------------------------------------------------------------------------------- prefixes

@pytest.mark.parametrize("prefix", [
    "module.", "model.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "net.encoder.",
    "model.module._orig_mod.", "module.model.model.", "backbone.body.", "0.",
    "_fsdp_wrapped_module._orig_mod."])
def test_a_prefix_falls_away(prefix, resnet):
    like, arrays, variables = resnet
    counters = {f"{prefix}bn1.num_batches_tracked": np.array(3), "n_averaged": np.array(2)}
    given = {f"{prefix}{name}": array for name, array in arrays.items()} | counters
    equal(weights.to_karpjax(RESNET, like, given, "file"), variables)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_not_finite(value, resnet):
    like, arrays, _ = resnet
    given = {**arrays, "linear.bias": np.full(3, value, np.float32)}
    with pytest.raises(UserError, match=r"finite numbers, found others in \['linear.bias'\]"):
        weights.to_karpjax(RESNET, like, given, "file")


def test_a_wrapper_within_names(resnet):
    like, arrays, variables = resnet
    given = {name.replace("layer1.", "layer1._orig_mod."): array for name, array in arrays.items()}
    equal(weights.to_karpjax(RESNET, like, given, "file"), variables)
    given["layer1.0.conv1.weight"] = given["layer1._orig_mod.0.conv1.weight"] + 1
    with pytest.raises(UserError, match="two arrays are called layer1.0.conv1.weight, apart from"):
        weights.to_karpjax(RESNET, like, given, "file")


def test_what_is_beside_the_network_is_unexpected(resnet):
    """An array outside of the prefix is named, and so is the nearest of a misspelt name."""
    like, arrays, _ = resnet
    given = {f"model.{name}": array for name, array in arrays.items()}
    given["model.linear.wieght"] = given.pop("model.linear.weight")
    given["criterion.weight"] = np.ones(3, np.float32)
    with pytest.raises(UserError) as error:
        weights.to_karpjax(RESNET, like, given, "file")
    for words in ("missing in the checkpoint: ['linear.weight']", "linear.weight is like linear.wie"
                  "ght", "unexpected in it: ['criterion.weight', 'linear.wieght']"):
        assert words in str(error.value), words


def test_names_of_another_architecture_are_told(tmp_path):
    file_of("vit_timm", tmp_path / "vit.npz")
    with pytest.raises(UserError, match="every bert has; .* names are those of vit or vit_timm or "
                                        "deit or vit_mae"):
        published(tmp_path / "vit.npz", "bert", tmp_path / "run")
    files.write_arrays(tmp_path / "odd.npz", {"a.b": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"every bert has; .* It has \['a.b'\]"):
        published(tmp_path / "odd.npz", "bert", tmp_path / "run")


# ------------------------------------------------------------------------------------------- copies

def two(arrays: dict, first: str, second: str) -> dict:
    """Return arrays twice, those of the second copy other by 1."""
    return {f"{first}{name}": array for name, array in arrays.items()} | {
        f"{second}{name}": array + 1 for name, array in arrays.items()}


@pytest.mark.parametrize("first, second", [
    ("state_dict::", "state_dict_ema::"), ("model::module.", "model_ema::module."),
    ("", "ema."), ("state_dict::model.", "swa_state_dict::model.")])
def test_the_live_network_is_read_unless_another_is_asked_for(first, second, resnet):
    like, arrays, variables = resnet
    given = two(arrays, first, second)
    named = weights.name_arrays(RESNET, given, "file")
    equal(weights.to_karpjax(RESNET, like, named.arrays, "file"), variables)
    label = re.match(r"\w+", second)[0]
    read = repr(re.sub("::|[.]", " ", first).strip().replace(" ", ".")) if first else \
        "what has no prefix"
    assert named.choices == [f"read {read}, left out ['{label}'] (karpjax convert --part=NAME)"]
    averaged = weights.name_arrays(RESNET, given, "file", part=label)
    equal(averaged.arrays, {name: array + 1 for name, array in arrays.items()})


def test_two_networks_without_a_first(resnet):
    like, arrays, _ = resnet
    given = two(arrays, "student::backbone.", "teacher::backbone.")
    says = ("has the network 2 times, under 'student.backbone' and 'teacher.backbone'; expected to "
            "be told which one to read, found no choice; give karpjax convert "
            "--part=teacher.backbone")
    with pytest.raises(UserError, match=re.escape(says)):
        weights.to_karpjax(RESNET, like, given, "file")
    named = weights.name_arrays(RESNET, given, "file", "teacher")
    assert named.prefix == "teacher::backbone." and "['student']" in named.choices[0]
    with pytest.raises(UserError, match="--part=ema: no array is under that name; expected one of "
                                        "student, teacher, or a longer one"):
        weights.name_arrays(RESNET, given, "file", "ema")


def test_a_part_is_read_alone(resnet):
    """What a file has beside the part is left out by name: MoCo's queue, a criterion's weights."""
    like, arrays, variables = resnet
    given = two(arrays, "module.encoder_q.", "module.encoder_k.") | {
        "module.queue": np.ones(3, np.float32)}
    named = weights.name_arrays(RESNET, given, "file", "module.encoder_q")
    equal(weights.to_karpjax(RESNET, like, named.arrays, "file"), variables)
    assert named.choices == ["read 'module.encoder_q', left out ['module.encoder_k', "
                             "'module.queue'] (karpjax convert --part=NAME)"]


def test_one_network_saved_twice_is_one(resnet):
    like, arrays, variables = resnet
    given = {**{f"net.{name}": array for name, array in arrays.items()},
             **{f"compiled._orig_mod.{name}": array for name, array in arrays.items()}}
    equal(weights.to_karpjax(RESNET, like, given, "file"), variables)


@pytest.mark.parametrize("loaded, names", [
    ({"a": 1.0}, ["a"]), ({"state_dict": {"a": 1.0}, "epoch": 3}, ["a"]),
    ({"model_state_dict": {"a": 1.0}, "optimizer_state_dict": {"state": {}}}, ["a"]),
    ({"state_dict": {"a": 1.0}, "state_dict_ema": {"a": 2.0}},
     ["state_dict::a", "state_dict_ema::a"])])
def test_state_dicts_of_scripts(loaded, names):
    assert list(tensors_of(loaded, lambda x: isinstance(x, float), "net.pth")) == names


@pytest.mark.parametrize("loaded, found", [
    ({}, "a dict of none; save"), ([1.0], "a list; save"),
    ({"epoch": 3}, r"a dict of \['epoch \(int\)'\]; save"),
    ({"state_dict": {}}, r"a dict of \['state_dict \(dict\)'\]; save"),
    ({"a": 1.0, "b": 2}, r"a dict of \['a \(float\)', 'b \(int\)'\]; save")])
def test_no_state_dict(loaded, found):
    says = f"net.pth: expected a state dict {{name: tensor}}, or one in a dict, found {found}"
    with pytest.raises(UserError, match=says):
        tensors_of(loaded, lambda x: isinstance(x, float), "net.pth")


# ------------------------------------------------------------------------- bare encoders, and MAE's

def bare(arrays: dict, root: str, prefix: str = "") -> dict:
    return {prefix + name.removeprefix(root): array for name, array in arrays.items()
            if name.startswith(root)}


@pytest.mark.parametrize("model, given, root", [
    (dict(name="masked_lm", context=12, **SMALL, **kj.models.BERT), dict(vocabulary=40), "bert."),
    (dict(name="masked_lm", context=12, **SMALL, **kj.models.ROBERTA), dict(vocabulary=40),
     "roberta."),
    (dict(name="vit", patch=4, **SMALL), dict(classes=3), "vit."),
    (dict(name="resnet", depth=18), dict(classes=3), "resnet.")], ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("prefix", ["", "encoder.model."])
def test_a_bare_encoder(model, given, root, prefix):
    model = kj.models.make_model(model, **given)
    inputs = jnp.zeros((1, 12), jnp.int32) if "vocabulary" in given else jnp.zeros((1, 32, 32, 3))
    like = jax.eval_shape(model.init, jax.random.key(0), inputs)
    names = "huggingface" if root == "resnet." else ""
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(1), leaf.shape), like)
    arrays = weights.to_pytorch(model, zeros, names)
    encoder = {name: array for name, array in arrays.items() if name.startswith(root)}
    found = weights.name_arrays(model, bare(arrays, root, prefix), "file").arrays
    assert {name: array.shape for name, array in found.items()} == \
        {name: array.shape for name, array in encoder.items()} and len(found) > 20


@pytest.mark.full
def test_the_head_of_a_bare_bert_is_drawn(tmp_path, capsys):
    """BertModel has no head: ours is drawn, which is reported, and its pooler is left out."""
    _, variables = file_of("bert", tmp_path / "whole.npz")
    arrays = bare(files.read_arrays(tmp_path / "whole.npz"), "bert.")
    files.write_arrays(tmp_path / "bare.npz",
                       {**arrays, "pooler.dense.weight": np.zeros((16, 16), np.float32)})
    (tmp_path / "tokenizer.json").write_text(published_tokenizer("bert"))
    summary = published(tmp_path / "bare.npz", "bert", tmp_path / "run", heads=2,
                        tokenizer=str(tmp_path / "tokenizer.json"))
    assert summary["anew"] == ["transform/.*", "norm_transform/.*", "bias"]
    said = capsys.readouterr().out
    assert "left out, of other tasks: ['bert.pooler.dense.weight']" in said
    assert "drawn at random, as the file has none: transform/.*, norm_transform/.*, bias" in said
    restored = by_name(kj.restore(tmp_path / "run").variables)
    for name, array in by_name(variables).items():
        if not re.fullmatch("(norm_)?transform/.*|bias", name):
            np.testing.assert_array_equal(restored[name], array)


def as_its_authors(arrays: dict) -> dict:
    """Return Hugging Face's arrays of an MAE by the names of its authors' code."""
    pairs = [("vit.encoder.layer.", "blocks."), ("decoder.decoder_layers.", "decoder_blocks."),
             ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
             ("vit.embeddings.position_embeddings", "pos_embed"),
             ("vit.embeddings.cls_token", "cls_token"), ("vit.layernorm", "norm"),
             ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
             ("attention.output.dense", "attn.proj"), ("intermediate.dense", "mlp.fc1"),
             ("output.dense", "mlp.fc2"), ("decoder.", "")]
    own = {}
    for name, array in arrays.items():
        if re.search(r"\.(key|value)\.", name):
            continue
        if ".query." in name:
            array = np.concatenate([arrays[name.replace("query", x)]
                                    for x in ("query", "key", "value")])
            name = name.replace("attention.attention.query", "attn.qkv")
        for theirs, its in pairs:
            name = name.replace(theirs, its)
        own[name] = array
    return own


def test_maes_own_file(tmp_path):
    """It is Hugging Face's by other names, with another epsilon. Its encoder may be alone."""
    like = jax.eval_shape(MAE.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    arrays = drawn(MAE, like)
    own = as_its_authors(arrays)
    assert {"mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_pred.bias",
            "blocks.1.attn.qkv.weight", "decoder_blocks.0.mlp.fc2.bias"} <= own.keys()
    variables = weights.to_karpjax(MAE, like, arrays, "theirs")
    equal(weights.to_karpjax(MAE, like, own, "own"), variables)
    equal(weights.to_pytorch(MAE, variables, "facebook"), own)
    model = archs.bare_model("vit_mae", own)
    assert model.eps == 1e-6 and archs.bare_model("vit_mae", arrays).eps == 1e-12
    ours = weights.translated(model, own, "own")
    heads = {"heads": 2, "decoder_heads": 2}
    told = kj.weights.beside.Told()
    config, _ = archs.config_for("vit_mae", ours, model, told, heads)
    assert config.model.eps == 1e-6 and config.model.decoder_layers == 1
    encoder = {name: array for name, array in ours.items()
               if not re.fullmatch("decoder.*|mask", name)}
    assert archs.absent_head("vit_mae", encoder) == ("decoder.*", "mask")
    config, assumed = archs.config_for("vit_mae", encoder, model, told, {"heads": 2})
    assert config.model.decoder_layers == 8 and assumed["decoder_heads"] == 16


# ------------------------------------------------------------------------------------ several files

@pytest.fixture
def parts(tmp_path, resnet):
    """Return the index of two files of safetensors, and what they hold."""
    arrays = resnet[1]
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    place = {name: names[i % 2] for i, name in enumerate(arrays)}
    for part in names:
        files.write_arrays(tmp_path / part, {name: array for name, array in arrays.items()
                                             if place[name] == part})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place}))
    return index, names, place


def test_several_files(parts, resnet):
    index, names, _ = parts
    equal(weights.read_arrays(index), resnet[1])
    with pytest.raises(UserError, match="expected all of the weights, found one of 2 parts; give"):
        weights.read_arrays(index.with_name(names[0]))


@pytest.mark.parametrize("change, says", [
    (lambda index, names, place: index.with_name(names[1]).unlink(),
     r"lists 2 files, of which \['model-00002-of-00002.safetensors'\] is not beside it; get all"),
    (lambda index, names, place: index.write_text(json.dumps(
        {"weight_map": {**place, "more.weight": names[0]}})), r"its files lack \['more.weight'\]"),
    (lambda index, names, place: index.write_text(json.dumps(
        {"weight_map": {"a": "../a.npz"}})), "expected files beside it, found '../a.npz'"),
    (lambda index, names, place: index.write_text("{"), "expected JSON with a weight_map"),
    (lambda index, names, place: index.write_text('{"weight_map": {"a": 1}}'), "a weight_map")],
    ids=["a file", "an array", "elsewhere", "torn", "no names"])
def test_several_files_that_are_not_whole(change, says, parts):
    change(*parts)
    with pytest.raises(UserError, match=says) as error:
        weights.read_arrays(parts[0])
    assert "\n" not in str(error.value)


def test_a_folder_and_a_pointer(parts, tmp_path):
    with pytest.raises(UserError, match="found a folder, which has .*model.safetensors.index.json"):
        weights.read_arrays(tmp_path)
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha")
    with pytest.raises(UserError, match="found Git LFS's note of where they are; run git lfs pull"):
        weights.read_arrays(tmp_path / "a.safetensors")


@pytest.mark.parametrize("rows, size, padded", [
    (30528, 30522, True), (50304, 50257, True), (51200, 50257, True), (48, 40, True),
    (30522, 30522, False), (30522, 28996, False), (30528, 28996, False), (1024, 5, False),
    (40, 48, False)])
def test_padded_vocabularies(rows, size, padded):
    assert is_padded(rows, size) == padded


def test_a_padded_vocabulary_to_start_from():
    """config.init_from cuts the rows, by the model's own `adapt`."""
    model = kj.models.make_model(dict(name="masked_lm"), vocabulary=40)
    stored = np.arange(48.0)[:, None] * np.ones(4)
    np.testing.assert_array_equal(model.adapt("embed/embedding", stored, (40, 4)), stored[:40])
    assert model.adapt("embed/embedding", stored, (30, 4)) is None
    assert model.adapt("position/embedding", stored, (40, 4)) is None
