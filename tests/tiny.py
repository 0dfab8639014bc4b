"""A task that trains in a second: rows of noise labelled by a linear rule.

It is for tests of everything but learning.

    python -m karpjax.train --config=tests/tiny.py --workdir=runs/tiny
"""
from flax import linen as nn
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj


def get_config():
    return kj.config(steps=8, log_every=2, eval_every=4, save_every=4, keep=5,
                     model=dict(width=8, layers=1, classes=3),
                     data=dict(batch_size=8), optimizer=dict(name="adam", learning_rate=0.01))


class MLP(nn.Module):
    width: int
    layers: int
    classes: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i in range(self.layers):
            x = nn.relu(nn.Dense(self.width, name=f"hidden{i}")(x))  # (B, width)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(self.classes, name="head")(x)  # (B, classes)


def build(config):
    x = np.random.default_rng(0).normal(size=(112, 6)).astype(np.float32)
    rows = {"x": x, "label": x[:, :3].argmax(1).astype(np.int32)}

    def part(start, stop):
        return {name: column[start:stop] for name, column in rows.items()}
    source = kj.sources.arrays(part(0, 64), batch_size=config.data.batch_size,
                               splits={"validation": part(64, 88), "test": part(88, 112)})
    model = MLP(**config.model)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["x"], key)  # (B, C)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])        # (B,)
        correct = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)                  # (B,)
        losses = {"nll": kj.mean(nll, batch["weight"])}
        return losses, {"accuracy": kj.mean(correct, batch["weight"])}, model_state

    return kj.Task(model, source, loss, inputs="x")
