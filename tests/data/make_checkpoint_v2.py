"""Made tests/data/checkpoint_v2 with karpjax 0.2.0: schema 2, the averages with their statistics.

    python tests/data/make_checkpoint_v2.py

Do not run it again over the old files. A new schema gets a new script and a new folder beside this
one.
"""
import pathlib
import shutil
import tempfile

import numpy as np

import karpjax as kj
from karpjax.core.errors import UserError
from karpjax.core.sharding import make_mesh
from karpjax.run import cli, loop, metrics
from karpjax.run.evaluator import make_evaluator

TARGET = pathlib.Path(__file__).parent / "checkpoint_v2"
STEPS = 300


def get_config():
    """Return a task of karpjax's own, unlike checkpoint_v1's, whose text would travel along."""
    return kj.config(
        task="classify", steps=STEPS, log_every=100, eval_every=STEPS, save_every=STEPS,
        ema_decay=0.97, best="max validation/accuracy", model=dict(name="cnn", width=8),
        data=dict(name="digits", train="train", validation="validation", test="test",
                  batch_size=64, mean=[4.88], std=[6.02]),
        optimizer=dict(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-4))


def main(argv):
    if TARGET.exists():
        raise UserError(f"{TARGET.name} is there already, and is meant to stay as it is")
    with tempfile.TemporaryDirectory() as scratch:
        workdir = pathlib.Path(scratch) / "run"
        loop.fit(get_config(), workdir)

        # The numbers kept here must be those that training itself measured.
        run = kj.restore(workdir)
        measured = make_evaluator(run.task, make_mesh())(run.variables, "validation")
        logged = next(row for row in metrics.read_rows(workdir) if row["step"] == STEPS
                      and "validation/loss" in row)
        assert all(abs(logged[f"validation/{name}"] - value) < 1e-6
                   for name, value in measured.items() if name != "accuracy_by_class"), measured
        images = run.task.source.data["test"]["image"][:16]
        np.savez(workdir / "expected.npz", images=images, logits=run.predict(images))

        for path in workdir.iterdir():
            if path.name not in ("checkpoints", "config.json", "metrics.jsonl", "expected.npz"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # Orbax writes the path on this machine into these files.
        for file in workdir.rglob("commit_success.txt"):
            file.write_text(file.read_text().replace(scratch, ""))
        shutil.copytree(workdir, TARGET)


if __name__ == "__main__":
    cli.run(main)
