"""Facts about weights that arrays cannot say: read from the files beside them, or reported."""
import json

from data.goldens import make_transformers, make_unseen
from data.goldens.make_vision import weights as drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_published import SMALL, file_of, published_tokenizer
from test_weights import BERT, GOLDENS, VIT, shapes_of

import karpjax as kj
from karpjax import UserError
from karpjax.core import files
from karpjax.core.trees import by_name
from karpjax.run import init_from
from karpjax.run import published as published_module
from karpjax.run.published import into_workdir, published
from karpjax.weights.beside import told_of

HUGGINGFACE = {"bert": {"model_type": "bert"}, "vit": {"model_type": "vit"},
               "roberta": {"model_type": "roberta", "pad_token_id": 1},
               "vit_mae": {"model_type": "vit_mae"}, "resnet18": {"model_type": "resnet"}}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
TIMM = {"architecture": "vit_base_patch16_224.augreg_in1k", "num_classes": 7,
        "global_pool": "token", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3,
                                                    "input_size": [3, 224, 224]}}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Return a function that converts without writing: (config.model, config.data, the lines)."""
    def plan(arch, config=None, preprocessor=None, **flags):
        there = (tmp_path / "model.npz").exists()
        if arch == "resnet18" and not there:  # a few of its arrays say as much
            files.write_arrays(tmp_path / "model.npz", drawn_weights(
                {"conv1.weight": (64, 3, 7, 7), "fc.weight": (7, 512), "fc.bias": (7,)}))
        elif not there:
            file_of(arch, tmp_path / "model.npz")
        (tmp_path / "tokenizer.json").write_text(published_tokenizer(arch))
        for name, values in (("config", config), ("preprocessor_config", preprocessor)):
            if values is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(values))
        if arch in ("bert", "roberta"):
            flags["tokenizer"] = str(tmp_path / "tokenizer.json")
        return published(tmp_path / "model.npz", arch, tmp_path / "run", **flags)

    def write(config, *_, facts, choices, **others):
        return config.model.to_dict(), config.data.to_dict(), facts, choices
    monkeypatch.setattr(published_module, "assemble", lambda config, *_: config)
    monkeypatch.setattr(published_module, "write_workdir", write)
    return plan


@pytest.mark.parametrize("arch, config, fields", [
    ("bert", dict(num_attention_heads=4, hidden_act="relu", layer_norm_eps=1e-5),
     dict(heads=4, mlp="relu", eps=1e-5)),
    ("bert", dict(num_attention_heads=2, hidden_act="gelu_new"), dict(mlp="gelu_tanh", eps=1e-12)),
    ("roberta", dict(num_attention_heads=4), dict(heads=4, eps=1e-12)),  # transformers' default
    ("vit", dict(num_attention_heads=8, hidden_act="quick_gelu", layer_norm_eps=1e-6),
     dict(heads=8, mlp="quick_gelu", eps=1e-6, pool="cls")),
    ("vit_mae", dict(num_attention_heads=4, decoder_num_attention_heads=1),
     dict(heads=4, decoder_heads=1, eps=1e-12)),
    ("vit_timm", {**TIMM, "model_args": {"num_heads": 8, "act_layer": "silu"}},
     dict(heads=8, mlp="silu", pool="cls")),
    ("vit_timm", {**TIMM, "global_pool": "avg", "model_args": {"num_heads": 8, "fc_norm": False}},
     dict(heads=8, mlp="gelu", pool="mean")),
    ("deit", {**TIMM, "architecture": "deit_tiny_distilled_patch16_224", "num_heads": 4},
     dict(heads=4, distilled=True))])
def test_config_json_is_read(arch, config, fields, planned):
    model, _, facts, _ = planned(arch, {**HUGGINGFACE.get(arch, {}), **config})
    assert {name: model[name] for name in fields} == fields
    assert facts[0].startswith("config.json: ")


def test_what_is_assumed_is_said(planned):
    """One line has every field that the arrays do not say."""
    model, data, facts, choices = planned("vit", heads=2)
    assert facts == [] and choices == [
        "assumed mean = [127.5], std = [127.5], eps = 1e-12, mlp = gelu, pool = cls"]
    assert model["heads"] == 2 and "mlp" not in model and data["mean"] == [127.5]
    _, data, facts, choices = planned("vit", {"model_type": "vit", "num_attention_heads": 2},
                                      IMAGENET)
    assert choices == [] and data["mean"] == [123.675, 116.28, 103.53]
    assert data["std"] == [58.395, 57.12, 57.375] and data["resize"] == [16, 16]
    assert facts == ["config.json and preprocessor_config.json: heads = 2, eps = 1e-12, mlp = "
                     "gelu, pool = cls, mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, "
                     "57.375]"]


@pytest.mark.parametrize("arch, config, names, says", [
    ("vit", {"id2label": {"2": "c", "0": "a", "1": "b", "3": "d", "4": "a", "5": "e", "6": "f"}},
     ["a", "b", "c", "d", "a (4)", "e", "f"], "7 names of classes, 'a' first"),
    ("vit_timm", {**TIMM, "label_names": list("abcdefg")}, list("abcdefg"),
     "7 names of classes, 'a' first"),
    ("vit", {"id2label": {str(i): f"LABEL_{i}" for i in range(7)}}, None, ""),
    ("vit", {"id2label": {"0": "a", "1": "b"}}, None,
     "config.json's 2 names of classes are not read, as the head has 7")],
    ids=["huggingface", "timm", "placeholders", "too few"])
def test_names_of_classes(arch, config, names, says, planned):
    """They become `run.class_names` of the checkpoint."""
    config = {"num_attention_heads": 2, "num_heads": 2, **HUGGINGFACE.get(arch, {}), **config}
    _, data, facts, choices = planned(arch, config)
    assert data["described"].get("names") == names
    assert [each for each in facts + choices if "names of classes" in each] == [says] * bool(says)


def test_a_distilled_vit_by_another_name(planned, tmp_path):
    file_of("deit", tmp_path / "model.npz")
    with pytest.raises(UserError, match=r"^the file has a token of distillation \(dist_token\), "
                                        "and with it a position and a head more; expected --arch="):
        planned("vit_timm", heads=2)


@pytest.mark.parametrize("arch, fields, expected", [
    ("bert", dict(types=1), dict(types=1)), ("bert", dict(types=0), dict(types=0)),
    ("roberta", dict(types=2), dict(types=2))])
def test_types_come_with_the_file(arch, fields, expected, planned, tmp_path):
    file_of(arch, tmp_path / "model.npz", **fields)
    model, *_ = planned(arch, heads=2)
    assert {name: model[name] for name in expected} == expected


@pytest.mark.parametrize("values, data", [
    ({**IMAGENET, "do_rescale": False}, dict(mean=[0.485, 0.456, 0.406])),
    ({"do_normalize": False}, dict(mean=[0.0], std=[255.0])),
    ({"image_mean": [0.5], "image_std": [0.5], "rescale_factor": 1 / 127.5, "size": 384},
     dict(mean=[63.75], std=[63.75], resize=[384, 384])),
    ({**IMAGENET, "size": {"shortest_edge": 256}, "do_center_crop": True,
      "crop_size": {"height": 240, "width": 240}}, dict(resize=[240, 240])),
    ({**IMAGENET, "size": {"shortest_edge": 192}}, dict(resize=[192, 192]))])
def test_the_input_that_a_preprocessor_says(values, data, planned):
    _, given, _, _ = planned("resnet18", HUGGINGFACE["resnet18"], values)
    assert {name: given[name] for name in data} == data


@pytest.mark.parametrize("arch, config, says", [
    ("bert", dict(model_type="nystromformer"), "model_type = 'nystromformer', expected bert for"),
    ("bert", dict(hidden_act="mish"), "hidden_act: expected one of 'gelu', .* found 'mish'"),
    ("bert", dict(position_embedding_type="relative_key"), "'relative_key', expected 'absolute'"),
    ("bert", dict(is_decoder=True), "is_decoder = True, expected False"),
    ("bert", dict(num_attention_heads="many"), "expected transformers' or timm's values"),
    ("roberta", dict(pad_token_id=0), "pad_token_id = 0, expected 1"),
    ("resnet18", dict(hidden_act="silu"), "hidden_act = 'silu', expected 'relu'"),
    ("resnet18", dict(downsample_in_bottleneck=True), "downsample_in_bottleneck = True"),
    ("resnet18", dict(architecture="resnet18d"), "architecture = 'resnet18d', expected one that"),
    ("resnet18", dict(architecture="resnet18.a1", model_args=dict(act_layer="gelu")),
     "act_layer = 'gelu', expected 'relu'"),
    ("resnet18", dict(architecture="resnet18.a1", model_args=dict(global_pool="max")),
     "global_pool = 'max', expected 'avg'"),
    ("vit_timm", {**TIMM, "global_pool": "map"}, "global_pool: expected one of 'token', 'avg'")])
def test_another_network_of_the_same_arrays(arch, config, says, planned):
    with pytest.raises(UserError, match=says) as error:
        planned(arch, {**HUGGINGFACE.get(arch, {}), **config})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [dict(image_mean=0.5), {**IMAGENET, "image_std": [0.2, 0, 1]}])
def test_a_preprocessor_of_other_values(values, planned):
    """The error names that file, not config.json."""
    with pytest.raises(UserError, match="preprocessor_config.json: expected transformers' or timm"):
        planned("resnet18", HUGGINGFACE["resnet18"], values)


def test_heads_are_said_once(planned):
    with pytest.raises(UserError, match="--heads=2, but config.json beside the file says 4; leave"):
        planned("bert", {"model_type": "bert", "num_attention_heads": 4}, heads=2)


def test_a_config_that_says_nothing(planned, tmp_path):
    """A config.json of something else is not read, which is reported. A torn one is an error."""
    assert "config.json beside it names no network: not read" in planned(
        "vit", {"task": "classify"}, heads=2)[3]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: expected JSON, found none .*get it again"):
        planned("vit", heads=2)


WHOLE = "is not read: pictures are scaled whole, bilinearly"


def test_a_scaling_that_is_not_ours_is_said(planned):
    """A crop of the middle and a bicubic scaling give other pixels than config.data.resize."""
    cropped = {**IMAGENET, "size": {"shortest_edge": 256}, "crop_size": {"height": 224}}
    _, data, _, choices = planned("resnet18", HUGGINGFACE["resnet18"], {**cropped, "resample": 3})
    assert data["resize"] == [224, 224] and choices == [
        f"preprocessor_config.json's crop = 0.875 {WHOLE}",
        f"preprocessor_config.json's resample = 3 {WHOLE}"]
    convnext = {**IMAGENET, "size": 224, "crop_pct": 0.875}
    assert planned("resnet18", HUGGINGFACE["resnet18"], convnext)[3] == choices[:1]
    given = dict(architecture="resnet18.a1", pretrained_cfg=dict(
        mean=[0.5] * 3, std=[0.5] * 3, input_size=[3, 224, 224], crop_pct=0.95,
        interpolation="bicubic"))
    assert planned("resnet18", given)[3] == [f"config.json's crop_pct = 0.95 {WHOLE}",
                                             f"config.json's interpolation = bicubic {WHOLE}"]


def test_an_argument_of_timm_that_is_not_read(planned):
    config = {**TIMM, "model_args": {"num_heads": 2, "norm_layer": "rmsnorm"}}
    assert planned("vit_timm", config)[3] == [
        "config.json's norm_layer = 'rmsnorm' is not read"]


def test_strict(planned, monkeypatch, tmp_path):
    """--strict ends with an error if something was assumed, before anything is written."""
    monkeypatch.undo()
    file_of("vit", tmp_path / "model.npz")
    with pytest.raises(UserError, match="--strict, but assumed .*mlp = gelu.* leave out --strict"):
        published(tmp_path / "model.npz", "vit", tmp_path / "run", heads=2, strict=True)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------- from end to end

def test_a_grey_vision_transformer(tmp_path, capsys):
    """Channels, mean and heads come with the file, and the logits are transformers' own."""
    model = kj.models.make_model(VIT, classes=3)
    _, shapes = shapes_of(model, np.zeros((1, 8, 8, 1), np.float32))
    files.write_arrays(tmp_path / "model.npz", drawn_weights(shapes))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "vit", "num_attention_heads": 2}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGENET))
    published(tmp_path / "model.npz", "vit", tmp_path / "run", strict=True)
    assert "model.npz: 40 arrays; config.json and" in capsys.readouterr().out
    run = kj.restore(tmp_path / "run")
    assert run.task.source.spec["shape"] == [8, 8, 1]
    np.testing.assert_allclose(run.config.data.mean, [np.mean([123.675, 116.28, 103.53])])
    logits = run.model.apply(run.variables, jnp.asarray(make_unseen.grey(), jnp.float32))
    np.testing.assert_allclose(logits, GOLDENS["vit_grey"], rtol=0, atol=1e-5)
    assert run.predict(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 3)


def test_a_padded_vocabulary_of_one_type(tmp_path, capsys):
    """Rows without a token are left out and counted. Logits of the others are transformers'."""
    model = kj.models.make_model({**BERT, "types": 2}, vocabulary=48)
    _, shapes = shapes_of(model, np.zeros((1, 8), np.int32))
    files.write_arrays(tmp_path / "model.npz", drawn_weights(shapes))
    (tmp_path / "tokenizer.json").write_text(published_tokenizer("bert"))
    published(tmp_path / "model.npz", "bert", tmp_path / "run", heads=2,
              tokenizer=str(tmp_path / "tokenizer.json"))
    assert "left out 8 rows that pad the vocabulary, 40 to 48" in capsys.readouterr().out
    run, rows = kj.restore(tmp_path / "run"), make_transformers.tokens()
    there = rows["there"] > 0
    logits = run.model.apply(run.variables, jnp.asarray(rows["inputs"]),
                             segments=jnp.asarray(rows["there"]))
    np.testing.assert_allclose(logits[there], GOLDENS["bert_padded"][there][:, :40], rtol=0,
                               atol=1e-5)


# ------------------------------------------------------------------------------ config.init_from

def test_a_start_from_a_file_is_compared_with_its_config(tmp_path):
    """Fields that the config leaves to their defaults are compared too."""
    from guarantees.registry import config_of
    file_of("vit", tmp_path / "model.npz")
    (tmp_path / "config.json").write_text(json.dumps(
        {"model_type": "vit", "num_attention_heads": 4, "hidden_act": "relu"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGENET))
    config, _ = config_of("lora", init_from=str(tmp_path / "model.npz"))
    config.model = dict(name="vit", patch=4, **SMALL)
    config.data.mean = [127.5]
    lines = init_from.differences(config)
    assert lines[0].startswith("note: config.data.mean = [127.5], but these weights learned with "
                               "[123.675")
    for line in ("heads = 2, but these weights learned with 4",
                 "eps = 1e-06, but these weights learned with 1e-12",
                 "mlp = gelu, but these weights learned with relu"):
        assert f"note: config.model.{line}" in lines
    del config.data["mean"]
    assert init_from.differences(config)[-1].startswith(
        "note: config.data has no mean and std; these weights learned with mean = [123.675")


@pytest.mark.parametrize("ours, theirs, equal", [
    ([127.5] * 3, [127.5], True), ([127.5], [127.5] * 3, True), (127.5, [127.5], True),
    ([127.5, 1], [127.5], False), ([1, 2], [1, 2, 3], False), (1e-6, 1e-12, False),
    ("cls", "mean", False), (None, 16.0, False)])
def test_values_of_a_config_that_are_one(ours, theirs, equal):
    assert init_from.same(ours, theirs) == equal


# {field: another value}, of those that cannot be doubled
OTHER = dict(mlp="silu", norm="post", positions="rope", pool="mean", bias=True, distilled=True,
             lora=2, eps=1e-3, lora_alpha=8.0, ngrams=3, offset=1, scale_embedding=True,
             final_bias=True)
# They change the training alone, and the last a masked_lm, whose names show it.
OF_TRAINING = {"dropout", "drop_path", "remat", "transform"}
TINY = {"vit": dict(patch=4, layers=1, width=8, heads=2), "fasttext": dict(buckets=8),
        "mae": dict(patch=4, layers=1, width=8, heads=2, decoder_layers=1, decoder_width=8,
                    decoder_heads=2),
        "masked_lm": dict(layers=1, width=8, heads=2, context=16, positions="learned", lora=1),
        "causal_lm": dict(layers=1, width=8, heads=2, context=16, positions="learned", lora=1),
        "seq2seq": dict(layers=1, width=8, heads=2, context=16, positions="learned"),
        "text_classifier": dict(layers=1, width=8, heads=2, context=16, positions="learned")}


@pytest.mark.parametrize("name", [name if name in ("vit", "fasttext") else pytest.param(
    name, marks=pytest.mark.full) for name in TINY])
def test_fields_that_no_shape_shows_are_compared(name):
    """A field that changes no variable's shape stands in FORM, or concerns the training alone."""
    given = dict(classes=3, vocabulary=20)
    fields = init_from.fields_of(name)
    given = {key: value for key, value in given.items() if key in fields}
    example = jnp.zeros((1, 8, 8, 3)) if name in ("vit", "mae") else jnp.zeros((1, 8), jnp.int32)

    def shapes(**changed):
        model = kj.models.make_model(dict(name=name, **{**TINY[name], **changed}), **given)
        inputs = [example] * (2 if name == "seq2seq" else 1)
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        return {key: leaf.shape for key, leaf in by_name(variables).items()}
    unseen = {key for key in fields.keys() - given.keys() - OF_TRAINING
              if shapes(**{key: OTHER.get(key, 2 * TINY[name].get(key, 1))}) == shapes()}
    assert unseen <= set(init_from.FORM)


def test_a_config_of_ones_own_is_compared_too(tmp_path):
    """So is the config of convert --config, and with --strict a difference is an error."""
    file_of("vit", tmp_path / "model.npz")
    (tmp_path / "config.json").write_text(json.dumps(
        {"model_type": "vit", "num_attention_heads": 4}))
    config = kj.config(
        task="classify", model={**VIT, "patch": 4}, best="",
        optimizer=dict(name="sgd", learning_rate=0.1),
        data=dict(name="", train="", batch_size=1,
                  described=dict(classes=7, shape=[16, 16, 3])))
    with pytest.raises(UserError, match="config.model.heads = 2, but these weights learned with 4"):
        into_workdir(config, None, tmp_path / "model.npz", tmp_path / "run", strict=True)
    assert not (tmp_path / "run").exists()


def test_told_of_nothing(tmp_path):
    told = told_of(tmp_path / "model.npz", kj.models.make_model(VIT, classes=1))
    assert told.source == told.unread == [] and told.model == told.data == {}
