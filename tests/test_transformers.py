"""Our transformers equal Hugging Face's and timm's (PyTorch), our ResNets Hugging Face's: states,
logits, losses, gradients, weights."""
import importlib.util
import pathlib

from data.goldens import make_transformers
from data.goldens.make_vision import weights as drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.models.vit import images_of, patches_of, sines
from karpjax.tasks.masked_image import error_of_masked

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens"
LIVE = all(map(importlib.util.find_spec, ("torch", "transformers", "timm")))
NEEDS_BOTH = pytest.mark.skipif(not LIVE,
                                reason="PyTorch and transformers are not installed, or timm is not")
SOURCES = ["golden", pytest.param("live", marks=NEEDS_BOTH)]


def reference(name: str, source: str) -> dict:
    return getattr(make_transformers,
                   name)() if source == "live" else dict(np.load(GOLDENS / f"{name}.npz"))


def drawn(model, inputs, names=""):
    """Return (variables with the weights of the reference, its arrays)."""
    like = jax.eval_shape(model.init, jax.random.key(0), inputs)
    arrays = drawn_weights({name: array.shape
                            for name, array in weights.to_pytorch(model, jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like), names).items()})
    return jax.tree.map(jnp.asarray, weights.to_karpjax(model, like, arrays, "drawn")), arrays


def close(ours, theirs, atol: float):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def bert_form(form=kj.models.BERT):
    return kj.models.make_model(dict(name="masked_lm", layers=2, width=16, heads=2, context=16,
                                     **form), vocabulary=40)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name, form", [("bert", kj.models.BERT), ("roberta", kj.models.ROBERTA)])
def test_bert(name, form, source):
    """Every hidden state and the logits agree within 1e-5, the loss and every gradient within 1e-4.
    """
    expected, rows, model = reference(name, source), make_transformers.tokens(), bert_form(form)
    inputs, segments = jnp.asarray(rows["inputs"]), jnp.asarray(rows["there"])
    there = rows["there"] > 0
    variables, _ = drawn(model, inputs)
    logits, states = model.apply(variables, inputs, segments=segments, features=True)
    for i in range(3):
        close(states[f"state{i}"][there], expected[f"state{i}"][there], atol=1e-5)
    close(logits[there], expected["logits"][there], atol=1e-5)
    # or this would test nothing
    assert np.abs(expected["logits"][0] - expected["logits"][1]).max() > 0.1

    def loss(params):
        logits = model.apply({"params": params}, inputs, segments=segments)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), rows["tokens"][..., None],
                                   -1)[..., 0]
        return jnp.sum(nll * rows["chosen"]) / rows["chosen"].sum()
    value, gradient = jax.value_and_grad(loss)(variables["params"])
    assert abs(value - expected["loss"]) < 1e-4
    gradients_are_those_of(expected, model, gradient, rows_of_padding=2 if name == "roberta" else 0)


def test_bert_there_and_back():
    """Weights convert there and back without a changed bit.

    Further names of files are known: copies, other tasks' parts, old names.
    """
    model = bert_form()
    variables, arrays = drawn(model, jnp.zeros((1, 8), jnp.int32))
    back = weights.to_pytorch(model, variables)
    assert back.keys() == arrays.keys()
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)
    old = {name.replace("LayerNorm.weight",
                        "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
           for name, array in arrays.items()}
    old |= {"bert.pooler.dense.weight": np.zeros((16, 16)),
            "cls.seq_relationship.bias": np.zeros(2),
            "cls.predictions.decoder.weight": arrays["bert.embeddings.word_embeddings.weight"]}
    again = weights.to_karpjax(model, variables, old, "old")
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, variables))
    old["cls.predictions.decoder.weight"] = old["cls.predictions.decoder.weight"] + 1
    with pytest.raises(UserError,
                       match="cls.predictions.decoder.weight from bert.embeddings.* differs"):
        weights.to_karpjax(model, variables, old, "old")


def test_only_berts_form_has_names():
    model = kj.models.make_model(dict(name="masked_lm", layers=1, width=16, heads=2), vocabulary=40)
    with pytest.raises(UserError, match="only an encoder in BERT's or RoBERTa's form"):
        weights.to_pytorch(model, model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))


def test_only_a_class_tokens_vit_has_names():
    model = vit_form(pool="mean")
    with pytest.raises(UserError, match="config.model.pool = 'mean': expected 'cls'"):
        weights.to_pytorch(model, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


# ------------------------------------------------------------------------------------------- images

def vit_form(name="vit", **fields):
    given = dict(classes=3) if name == "vit" else {}
    return kj.models.make_model({**dict(name=name, patch=4, layers=2, width=16, heads=2, eps=1e-12),
                                 **fields}, **given)


def mae_form():
    return vit_form("mae", decoder_layers=1, decoder_width=8, decoder_heads=2)


def gradients_are_those_of(expected: dict, model, gradient, names="", rows_of_padding=0) -> None:
    theirs = weights.to_pytorch(model, {"params": gradient}, names)
    compared = [name for name in theirs if f"gradient/{name}" in expected]
    assert {f"gradient/{name}" for name in compared} == {name for name in expected
                                                         if name.startswith("gradient/")}
    for name in compared:
        # ours has none for padding
        skipped = rows_of_padding if "position_embeddings" in name else 0
        close(theirs[name][skipped:], expected[f"gradient/{name}"][skipped:], atol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name, fields, names",
                         [("vit", {}, "huggingface"), ("timm", dict(eps=1e-6), "timm"),
                          ("deit", dict(eps=1e-6, distilled=True), "timm")])
def test_vit(name, fields, names, source):
    expected, given = reference(name, source), make_transformers.pictures()
    model = vit_form(**fields)
    images = jnp.asarray(given["images"], jnp.float32)
    variables, _ = drawn(model, images, names)
    logits, states = model.apply(variables, images, features=True)
    states_are_those_of(expected, states, count=3)
    close(logits, expected["logits"], atol=1e-5)
    value, gradient = jax.value_and_grad(
        lambda params: xent(model.apply({"params": params}, images), given["labels"]))(
        variables["params"])
    assert abs(value - expected["loss"]) < 1e-4
    assert np.abs(expected["logits"][0] - expected["logits"][1]).max() > 0.1
    gradients_are_those_of(expected, model, gradient, names)


def states_are_those_of(expected: dict, states: dict, count: int) -> None:
    """Compare every stored state, the last of an encoder after its norm."""
    names = [name for name in expected if "state" in name and "gradient" not in name]
    assert len(names) == count
    for name in names:
        close(states[name], expected[name], atol=1e-5)


def xent(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1).mean()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name, depth", [
    ("resnet_basic", 18), pytest.param("resnet_bottleneck", 50, marks=pytest.mark.full)])
def test_resnet(name, depth, source):
    """Each stage agrees within 1e-5 of its largest value."""
    expected, images = reference(name, source), jnp.asarray(make_transformers.photo(), jnp.float32)
    model = kj.models.make_model(dict(name="resnet", depth=depth), classes=3)
    variables, arrays = drawn(model, images, "huggingface")
    logits, stages = jax.jit(lambda variables: model.apply(variables, images, features=True))(
        variables)
    for i, stage in enumerate(["stem", "stage1", "stage2", "stage3", "stage4"]):
        close(stages[stage], expected[f"stage{i}"], atol=1e-5 * np.abs(expected[f"stage{i}"]).max())
    close(logits, expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())
    value, gradient = jax.jit(jax.value_and_grad(
        lambda params: xent(model.apply({**variables, "params": params}, images), np.array([2]))))(
        variables["params"])
    assert abs(value - expected["loss"]) < 1e-4
    gradients_are_those_of(expected, model, gradient, "huggingface")
    back = weights.to_pytorch(model, variables, "huggingface")
    assert back.keys() == arrays.keys()
    assert all(back[n].tobytes() == arrays[n].tobytes() for n in arrays)


@pytest.mark.full
@pytest.mark.parametrize("source", SOURCES)
def test_mae(source):
    """The task's own targets and masks give three equal states of the encoder and one of the
    decoder."""
    expected, given, model = reference("mae", source), make_transformers.pictures(), mae_form()
    images, order = jnp.asarray(given["images"], jnp.float32), jnp.asarray(given["order"])
    variables, _ = drawn(model, images)
    pixels, states = model.apply(variables, images, order=order, keep=2, features=True)
    states_are_those_of(expected, states, count=4)
    close(pixels, expected["logits"], atol=1e-5)

    def loss(params):
        pixels = model.apply({"params": params}, images, order=order, keep=2)
        total, count = error_of_masked(pixels, images, order, 2, model.patch, normalise=True)
        return total / count
    value, gradient = jax.value_and_grad(loss)(variables["params"])
    assert abs(value - expected["loss"]) < 1e-4
    gradients_are_those_of(expected, model, gradient)


@pytest.mark.parametrize("model, names",
                         [(vit_form(), ""), (mae_form(), ""), (vit_form(distilled=True), "timm")],
                         ids=["vit", "mae", "deit"])
def test_images_there_and_back(model, names):
    variables, arrays = drawn(model, jnp.zeros((1, 8, 8, 3)), names)
    back = weights.to_pytorch(model, variables, names)
    assert back.keys() == arrays.keys()
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)
    saved = {name.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer."): array
             for name, array in arrays.items()}
    jax.tree.map(np.testing.assert_array_equal, weights.to_karpjax(model, variables, saved, "new"),
                 jax.tree.map(np.asarray, variables))


def test_patches_and_back():
    images = jnp.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    patches = patches_of(images, 4)
    assert patches.shape == (2, 6, 48)
    assert (patches[1, 4].reshape(4, 4, 3) == images[1, 4:, 4:8]).all()
    assert (images_of(patches, 4, (8, 12, 3)) == images).all()


@pytest.mark.full
def test_the_encoder_of_a_mae_sees_visible_patches_only():
    model = mae_form()
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    variables, order = model.init(jax.random.key(1), images), jnp.array([[3, 0, 1, 2]])

    def out(images):
        return model.apply(variables, images, order=order, keep=1)

    assert (out(images) == out(images.at[:, :4].set(7.0))).all()
    assert not jnp.allclose(out(images), out(images.at[:, 4:].set(7.0)))


def test_positions_are_those_of_maes_code():
    """Positions follow the formula: omega_k = 10000^(-k / (D/4)), sines then cosines, columns then
    rows."""
    table = np.asarray(sines(None, (10, 8), 1))
    assert (table[0] == 0).all()
    column, row = 2, 1                                                  # patch 5 of a grid of 3 x 3
    expected = [np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100),
                np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100)]
    np.testing.assert_allclose(table[1 + 5], expected, rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("options,sizes,drawn_from", [
    (dict(name="masked_lm", layers=2, width=16, heads=2, dropout=0.1), dict(vocabulary=20),
     "tokens"),
    (dict(name="mae", patch=4, layers=2, width=16, heads=2, decoder_layers=1, decoder_width=8,
          decoder_heads=2), {}, "pixels"),
], ids=["text", "images"])
def test_blocks_computed_anew_are_the_same(options, sizes, drawn_from):
    """config.model.remat keeps names, losses and gradients.

    The backward pass repeats the forward pass's products.
    """
    x, extra = {"tokens": (jax.random.randint(jax.random.key(0), (3, 12), 0, 20), {}),
                "pixels": (jax.random.normal(jax.random.key(0), (3, 8, 8, 3)),
                           {"order": jnp.tile(jnp.arange(4), (3, 1)), "keep": 2})}[drawn_from]

    def trained(remat: bool):
        model = kj.models.make_model({**options, "remat": remat}, **sizes)
        variables = jax.jit(lambda: model.init(jax.random.key(1), x, **extra))()

        def loss(v):
            rngs = {"dropout": jax.random.key(2)}
            return jnp.sum(model.apply(v, x, train=True, rngs=rngs, **extra) ** 2)
        program = jax.jit(jax.value_and_grad(loss))
        return program(variables), program.lower(variables).as_text().count("dot_general")
    (plain, products), (anew, again) = trained(False), trained(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, anew)
    assert again > products
