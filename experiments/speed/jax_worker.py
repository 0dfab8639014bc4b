"""The train step of karpjax on one batch of noise: python experiments/speed/jax_worker.py NETWORK BATCH [VARIANT,...]

VARIANT: what was tried for the CPU. "whole" is without convolution in parts; "reshape" pools by a reshape and a maximum.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import karpjax as kj  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
from karpjax.models import airbench, conv  # noqa: E402

NETWORKS = {"cnn": dict(name="cnn", width=32), "resnet20": dict(name="resnet_cifar", depth=20),
            "airbench": dict(name="airbench")}


def pool_by_reshape(x, n: int):
    """Its gradient compares and adds, where reduce_window's scatters; equal maxima share it."""
    B, H, W, C = x.shape
    return x[:, :H // n * n, :W // n * n].reshape(B, H // n, n, W // n, n, C).max((2, 4))


def main(network: str, batch_size: str, variants: str = ""):
    if "whole" in variants.split(","):
        conv.SMALLEST = float("inf")
    if "reshape" in variants.split(","):
        airbench.max_pool = pool_by_reshape
    model = kj.models.make(NETWORKS[network], classes=10)
    image_key, label_key, init_key, run_key = jax.random.split(jax.random.key(0), 4)
    batch = {"image": jax.random.normal(image_key, (int(batch_size), 32, 32, 3)),
             "label": jax.random.randint(label_key, (int(batch_size),), 0, 10)}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)
        xent = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"xent": kj.mean(xent)}, {}, model_state

    optimizer = optax.sgd(0.01, momentum=0.9)
    state = kj.TrainState.create(jax.jit(model.init)(init_key, batch["image"][:1]), optimizer, run_key)
    step = jax.jit(kj.make_train_step(loss, optimizer), donate_argnums=0)

    def run_steps(n):
        nonlocal state
        for _ in range(n):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        assert jnp.isfinite(metrics["loss"])
    serve(run_steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
