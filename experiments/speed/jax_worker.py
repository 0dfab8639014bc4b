"""The train step of karpjax on one batch of noise.

    python experiments/speed/jax_worker.py NETWORK BATCH [VARIANT,...]

VARIANT leaves out a change made for the CPU. "whole": convolution in one part. "scatter": XLA's own
pooling and its gradient.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

from flax import linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from experiments.speed.harness import serve  # noqa: E402
import karpjax as kj  # noqa: E402
from karpjax.models import airbench
from karpjax.models.layers import conv  # noqa: E402

NETWORKS = {"cnn": dict(name="cnn", width=32), "resnet20": dict(name="resnet_cifar", depth=20),
            "airbench": dict(name="airbench")}


def main(network: str, batch_size: str, variants: str = ""):
    if "whole" in variants.split(","):
        conv.CACHE = float("inf")
    if "scatter" in variants.split(","):
        airbench.max_pool = lambda x, n: nn.max_pool(x, (n, n), (n, n))
    model = kj.models.make_model(NETWORKS[network], classes=10)
    image_key, label_key, init_key, run_key = jax.random.split(jax.random.key(0), 4)
    batch = {"image": jax.random.normal(image_key, (int(batch_size), 32, 32, 3)),
             "label": jax.random.randint(label_key, (int(batch_size),), 0, 10)}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)
        xent = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {"xent": kj.mean(xent)}, {}, model_state

    optimizer = optax.sgd(0.01, momentum=0.9)
    state = kj.TrainState.create(jax.jit(model.init)(init_key, batch["image"][:1]),
                                 optimizer, run_key)
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
