"""Our decoders equal Hugging Face's GPT-2 and Marian (PyTorch): states, logits, losses, gradients,
and weights both ways."""
import importlib.util
import pathlib

from data.goldens import make_decoders
from data.goldens.make_vision import weights as drawn_weights
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import karpjax as kj
from karpjax import UserError, weights
from karpjax.run.init_from import differences_from

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens"
LIVE = all(map(importlib.util.find_spec, ("torch", "transformers")))
NEEDS_BOTH = pytest.mark.skipif(not LIVE, reason="PyTorch and transformers are not installed")
SOURCES = ["golden", pytest.param("live", marks=NEEDS_BOTH)]
SIZE = dict(layers=2, width=16, heads=2)
GPT2 = dict(name="causal_lm", context=16, **SIZE, **kj.models.GPT2)
MARIAN = dict(name="seq2seq", decoder_layers=1, **SIZE, **kj.models.MARIAN)


def reference(name: str, source: str) -> dict:
    return getattr(make_decoders, name)() if source == "live" else \
        dict(np.load(GOLDENS / f"{name}.npz"))


def drawn(options: dict, *inputs):
    """Return (a model, its variables with the weights of the reference, their arrays)."""
    model = kj.models.make_model(options, vocabulary=40)
    like = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    shapes = {name: array.shape for name, array in weights.to_pytorch(model, zeros).items()}
    arrays = drawn_weights(shapes)
    variables = weights.to_karpjax(model, like, arrays, "drawn")
    return model, jax.tree.map(jnp.asarray, variables), arrays


def gpt2():
    return drawn(GPT2, jnp.zeros((1, 8), jnp.int32))


def marian():
    return drawn(MARIAN, *[jnp.zeros((1, 8), jnp.int32)] * 2)


def loss_of(logits, labels, weight):
    """Return the mean negative log likelihood of the labels that count."""
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
    return jnp.sum(nll * weight) / weight.sum()


def close(ours, theirs, there, atol):
    np.testing.assert_allclose(np.asarray(ours)[there > 0], theirs[there > 0], rtol=0, atol=atol)


def check_gradients(expected: dict, model, gradient) -> None:
    """Check every gradient that the reference has. It has none of the bias of Marian's logits."""
    theirs = weights.to_pytorch(model, {"params": gradient})
    compared = {name for name in expected if name.startswith("gradient/")}
    assert compared == {f"gradient/{name}" for name in theirs} - {"gradient/final_logits_bias"}
    for name in compared:
        np.testing.assert_allclose(theirs[name.removeprefix("gradient/")], expected[name], rtol=0,
                                   atol=1e-4, err_msg=name)


@pytest.mark.parametrize("source", SOURCES)
def test_gpt2(source):
    """States and logits agree within 1e-5, the loss and every gradient within 1e-4."""
    expected, rows = reference("gpt2", source), make_decoders.texts()
    tokens, there = jnp.asarray(rows["tokens"]), rows["there"]
    model, variables, _ = gpt2()

    @jax.jit
    def outputs(params):
        def loss(params):
            logits, states = model.apply({"params": params}, tokens, features=True,
                                         segments=jnp.asarray(there))
            return loss_of(logits[:, :-1], tokens[:, 1:], there[:, 1:]), (logits, states)
        return jax.value_and_grad(loss, has_aux=True)(params)
    (loss, (logits, states)), gradient = outputs(variables["params"])
    for i in range(3):
        close(states[f"state{i}"], expected[f"state{i}"], there, atol=1e-5)
    close(logits, expected["logits"], there, atol=1e-5)
    assert np.abs(expected["logits"][0] - expected["logits"][1]).max() > 0.1
    assert abs(loss - expected["loss"]) < 1e-5
    check_gradients(expected, model, gradient)


@pytest.mark.parametrize("source", SOURCES)
def test_marian(source):
    """States of encoder and decoder agree as GPT-2's do, with sources and targets of two lengths.
    """
    expected, rows = reference("marian", source), make_decoders.pairs()
    source, target = jnp.asarray(rows["tokens"]), jnp.asarray(rows["shifted"])
    model, variables, _ = marian()

    @jax.jit
    def outputs(params):
        def loss(params):
            logits, states = model.apply(
                {"params": params}, source, target, features=True,
                source_segments=jnp.asarray(rows["there"]),
                target_segments=jnp.asarray(rows["weight"]))
            return loss_of(logits, rows["labels"], rows["weight"]), (logits, states)
        return jax.value_and_grad(loss, has_aux=True)(params)
    (loss, (logits, states)), gradient = outputs(variables["params"])
    for i in range(3):
        close(states[f"state{i}"], expected[f"state{i}"], rows["there"], atol=1e-5)
    for i in range(2):
        close(states[f"decoder_state{i}"], expected[f"decoder_state{i}"], rows["weight"],
              atol=1e-5)
    close(logits, expected["logits"], rows["weight"], atol=1e-5)
    assert np.abs(expected["logits"][0] - expected["logits"][1]).max() > 0.1
    assert abs(loss - expected["loss"]) < 1e-5
    check_gradients(expected, model, gradient)


@pytest.mark.parametrize("made", [gpt2, marian])
def test_there_and_back(made):
    """Weights convert there and back without a changed bit. Copies and constants are known."""
    model, variables, arrays = made()
    back = weights.to_pytorch(model, variables)
    assert back.keys() == arrays.keys()
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)
    table = "transformer.wte.weight" if made is gpt2 else "model.shared.weight"
    more = {"lm_head.weight": arrays[table]}
    more |= {"transformer.h.0.attn.bias": np.ones((1, 1, 16, 16), bool),
             "transformer.h.0.attn.masked_bias": np.float32(-1e4)} if made is gpt2 else {
        "model.encoder.embed_tokens.weight": arrays[table],
        "model.decoder.embed_tokens.weight": arrays[table],
        "model.decoder.embed_positions.weight": np.ones((16, 16), np.float32)}
    again = weights.to_karpjax(model, variables, {**arrays, **more}, "more")
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, variables))
    more["lm_head.weight"] = more["lm_head.weight"] + 1
    with pytest.raises(UserError, match=f"lm_head.weight from {table} differs"):
        weights.to_karpjax(model, variables, {**arrays, **more}, "more")


@pytest.mark.parametrize("made, root", [(gpt2, "transformer."), (marian, "model.")])
def test_a_file_without_the_head(made, root):
    """GPT2Model's and MarianModel's names lack their beginning, as in OpenAI's own files."""
    model, variables, arrays = made()
    bare = {name.removeprefix(root): array for name, array in arrays.items()
            if name.startswith(root)}
    if made is marian:
        bare["decoder.embed_tokens.weight"] = bare["shared.weight"]
    anew = ("bias",) if made is marian else ()
    again = weights.to_karpjax(model, variables, bare, "bare", anew)
    jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, variables))


@pytest.mark.parametrize("options, fields, says", [
    (GPT2, dict(mlp="geglu"), "only a gpt2 has PyTorch's names, with {'norm': 'pre'"),
    (GPT2, dict(positions="rope"), "only a gpt2 has PyTorch's names"),
    (MARIAN, dict(norm="pre"), "only a marian has PyTorch's names, with {'norm': 'post'"),
    (MARIAN, dict(eps=1e-6), "only a marian has PyTorch's names")])
def test_other_forms_have_no_names(options, fields, says):
    model = kj.models.make_model({**options, **fields}, vocabulary=40)
    with pytest.raises(UserError, match=says):
        weights.to_pytorch(model, {"params": {}})


def test_a_scale_that_no_shape_shows():
    """Weights that learned with scaled embeddings start a network without them, which is said."""
    config = ConfigDict({"model": {**MARIAN, "scale_embedding": False}})
    assert differences_from({"model": MARIAN}, config) == [
        "config.model.scale_embedding = False, but these weights learned with True"]
