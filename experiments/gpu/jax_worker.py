"""karpjax's train step in bf16 on one batch of noise.

    python experiments/gpu/jax_worker.py CASE [cudnn] [quick]

"cudnn": attention by cuDNN's flash kernels in place of XLA's own.
"""
import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from experiments.gpu.cases import Case, case  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
import karpjax as kj  # noqa: E402

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def resnet50(c: Case, key):
    """Return (model, its example, batch, loss)."""
    image_key, label_key = jax.random.split(key)
    batch = {"image": jax.random.normal(image_key, (c.batch, c.side, c.side, 3)),
             "label": jax.random.randint(label_key, (c.batch,), 0, 1000)}
    model = kj.models.make_model(dict(name="resnet", depth=50), classes=1000)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)
        return {"xent": kj.mean(cross_entropy(logits, batch["label"]))}, {}, model_state
    return model, batch["image"][:1], batch, loss


def bert(c: Case, key):
    token_key, place_key, target_key = jax.random.split(key, 3)
    at = jax.random.uniform(place_key, (c.batch, c.length)).argsort(axis=1)[:, :c.chosen]
    batch = {"inputs": jax.random.randint(token_key, (c.batch, c.length), 0, c.vocabulary),
             "at": at,
             "target": jax.random.randint(target_key, at.shape, 0, c.vocabulary)}
    size = dict(layers=c.layers, width=c.width, heads=c.width // 64)
    model = kj.models.make_model(dict(name="masked_lm", context=c.length, **size, **kj.models.BERT),
                                 vocabulary=c.vocabulary)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["inputs"], key,
                                       at=batch["at"])
        return {"mlm": kj.mean(cross_entropy(logits, batch["target"]))}, {}, model_state
    return model, batch["inputs"][:1], batch, loss


def main(name: str, *options: str):
    model, example, batch, loss = {"resnet50": resnet50, "bert": bert}[name](
        case(name, "quick" in options), jax.random.key(0))
    optimizer = optax.sgd(0.01, momentum=0.9) if name == "resnet50" else optax.adamw(1e-4)
    state = kj.TrainState.create(jax.jit(model.init)(jax.random.key(1), example), optimizer,
                                 jax.random.key(2))
    if "cudnn" in options:  # from here on: it knows no fp32, in which the weights are drawn
        jax.nn.dot_product_attention = functools.partial(jax.nn.dot_product_attention,
                                                         implementation="cudnn")
    step = jax.jit(kj.make_train_step(loss, optimizer, precision="bf16"), donate_argnums=0)

    def run_steps(n):
        nonlocal state
        for _ in range(n):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        assert jnp.isfinite(metrics["loss"]) and not metrics["skipped"]
    serve(run_steps, f"jax {jax.__version__}, {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
