"""Made tests/data/checkpoint_v1 with karpjax 0.1.0: schema 1, which every later karpjax restores.

    python tests/data/make_checkpoint_v1.py

Do not run it again over the old files. A new schema gets a new script and a new folder beside this
one.
"""
import pathlib
import shutil
import tempfile

import numpy as np

from karpjax import restore
from karpjax.core.sharding import make_mesh
from karpjax.run import cli, loop, metrics
from karpjax.run.evaluator import make_evaluator

TARGET = pathlib.Path(__file__).parent / "checkpoint_v1"
# A user's own file, which the checkpoint carries: config, task and loss in one. A backslash joins
# lines that are one line in the checkpoint.
TASK = '''\
"""Poly-1 cross-entropy (Leng et al. 2022, eq. 6) on the digits, with a head of its own."""
from flax import linen as nn
import jax.numpy as jnp
import karpjax as kj
import optax


def get_config():
    return kj.config(steps=40, log_every=10, eval_every=20, save_every=40, epsilon=1.5, \
ema_decay=0.8, model=dict(width=4),
                     optimizer=dict(name="adam", learning_rate=1e-2), \
best="max validation/accuracy",
                     data=dict(name="digits", train="train", validation="validation", \
test="test", batch_size=32))


class Net(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = kj.models.CNN(self.width * 2, self.width, dropout=0.1, name="body")(images, train)   \
# (B, 2 width)
        return nn.Dense(self.classes, name="head")(nn.relu(x))                                    \
# (B, classes)


def build(config):
    source = kj.sources.images(config.data)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)      \
# (B, C)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])        # (B,)
        poly = nll + config.epsilon * (1 - jnp.exp(-nll))                                    # (B,)
        correct = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)                  # (B,)
        return {"poly": kj.mean(poly, batch["weight"])}, {"accuracy": kj.mean(correct, \
batch["weight"])}, model_state

    model = Net(source.classes, config.model.width)
    return kj.Task(model, source, loss)
'''


def main(argv):
    if TARGET.exists():
        raise cli.UserError(f"{TARGET.name} is there already, and is meant to stay as it is")
    from karpjax.core.task_file import module_from_text
    config = module_from_text("poly_v1.py", TASK).get_config()
    with tempfile.TemporaryDirectory() as scratch:
        workdir = pathlib.Path(scratch) / "run"
        loop.fit(config, workdir, record={"path": "poly_v1.py", "text": TASK})

        # The numbers kept here must be those that training itself measured.
        run = restore(workdir)
        measured = make_evaluator(run.task, make_mesh())(run.variables, "validation")
        logged = next(row for row in metrics.read_rows(workdir) if row["step"] == 40
                      and "validation/loss" in row)
        assert all(abs(logged[f"validation/{name}"] - value) < 1e-6
                   for name, value in measured.items()), (logged, measured)
        images = run.task.source.data["test"]["image"][:16]
        np.savez(workdir / "expected.npz", images=images, logits=run.predict(images))

        for name in ("tensorboard", "curves.png", "summary.json"):
            path = workdir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        # Orbax writes the path on this machine into these files.
        for file in workdir.rglob("commit_success.txt"):
            file.write_text(file.read_text().replace(scratch, ""))
        shutil.copytree(workdir, TARGET)


if __name__ == "__main__":
    cli.run(main)
