"""FCOS on EfficientNet-Lite0 here and in torchvision, side by side: the part "peer" of run.py.

    python experiments/detection/peer.py FOLDER DATA_DIR [--quick]       # internal: our worker

Both sides are processes of their own (experiments/speed/harness.py). They start from the same
weights, and train on the same prepared pictures and boxes with the same rates. Locations are the
cells' corners, as torchvision's are.
"""
import functools
import json
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.runs import config_of, kept  # noqa: E402
from experiments.shakespeare.peer import side_by_side  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.run.experiment import Experiment, assemble  # noqa: E402
from karpjax.run.init_from import load_weights  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
STEPS, TRUTH = 500, ("boxes", "labels", "valid")
QUICK = {"steps": 4, "data.batch_size": 2, "data.size": (64, 96), "model.width": 32,
         "model.depth": 1, "data.train": "train[:4]", "optimizer.learning_rate.warmup_steps": 1,
         "augment": [dict(name="scale_jitter", size=(64, 96), scale=(0.8, 1.5), flip=0.5)]}


def peer(log, options, workdir) -> None:
    """Train both sides in turns, and log their losses and times."""
    data_dir = workdir / "tfds"
    if not (data_dir / "bccd").exists():
        prepare("coco", SHARED / "bccd", "bccd", str(data_dir))
    file = workdir / f"peer{'' if options.torch_python else '_alone'}.json"
    row = kept(file, functools.partial(compared, options, str(data_dir)))
    log({"part": "peer", **row, "versions": versions(),
         "device": device(make_mesh(devices=jax.devices()[:1]))})


def compared(options, data_dir: str) -> dict:
    """Return the row of both sides."""
    exp = experiment(data_dir, options.quick)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(pathlib.Path(folder), exp)
        ours = [str(HERE / "peer.py"), folder, data_dir, *["--quick"] * options.quick]
        theirs = [str(HERE / "torch_fcos.py"), folder]
        return side_by_side(pathlib.Path(folder), ours, theirs, options.torch_python,
                            exp.config.steps)


def experiment(data_dir: str, quick: bool) -> Experiment:
    """Return the run of configs/detect_bccd.py, on one device, without its moving average."""
    own = {"steps": STEPS, **(QUICK if quick else {}), "data.data_dir": data_dir,
           "data.validation": "", "data.test": "", "model.place": 0.0, "ema_decay": 0.0,
           "init_from": str(SHARED / "weights" / "efficientnet_lite0.safetensors")}
    config, task_file = config_of("detect_bccd", **own)
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def first_state(exp: Experiment):
    """Return the state that a run begins with: the published backbone, all else drawn."""
    return load_weights(exp.config.init_from, exp.fresh_state(), exp.task, ())[0]


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write what both sides begin with and train on."""
    source, config, state = exp.source, exp.config, first_state(exp)

    @jax.jit
    def next_batch(arrays, after):
        after, chunk = source.advance(arrays, after, None)
        return after, source.batch(arrays, chunk, 0)
    shape = (config.steps, config.data.batch_size, *config.data.size, 3)
    images = np.lib.format.open_memmap(folder / "batches.npy", "w+", np.float16, shape)
    truth, after = {name: [] for name in TRUTH}, state.source
    for i in range(config.steps):
        after, batch = next_batch(source.arrays, after)
        images[i] = batch["image"]
        for name in TRUTH:
            truth[name].append(np.asarray(batch[name]))
    images.flush()
    np.savez(folder / "truth.npz", **{name: np.stack(each) for name, each in truth.items()},
             rates=[float(exp.learning_rate(i)) for i in range(config.steps)])
    np.savez(folder / "weights.npz", **weights.to_pytorch(exp.task.model, state.variables))
    (folder / "size.json").write_text(json.dumps(dict(
        classes=source.classes, strides=list(config.model.strides), width=config.model.width,
        depth=config.model.depth, clip=config.optimizer.clip,
        weight_decay=config.optimizer.weight_decay)))


def serve_ours(folder: pathlib.Path, data_dir: str, quick: bool) -> None:
    """Train with the shared step on the written batches, on request."""
    exp = experiment(data_dir, quick)
    state, step, losses = first_state(exp), jax.jit(exp.train_step(), donate_argnums=0), []
    images = np.load(folder / "batches.npy", mmap_mode="r")                  # (steps, B, H, W, 3)
    truth = dict(np.load(folder / "truth.npz"))

    def run(steps):
        nonlocal state
        for _ in range(max(0, steps)):
            i = len(losses)
            batch = {"image": jnp.asarray(images[i], jnp.float32),
                     "weight": jnp.ones(images.shape[1]),
                     **{name: truth[name][i] for name in TRUTH}}
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        if steps < 0:
            (folder / "ours.json").write_text(
                json.dumps({"losses": [float(loss) for loss in losses]}))
    serve(run, f"jax {jax.__version__}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    serve_ours(pathlib.Path(sys.argv[1]), sys.argv[2], "--quick" in sys.argv)
