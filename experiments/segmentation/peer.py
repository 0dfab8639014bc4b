"""Our Semantic FPN, and torchvision's LR-ASPP in PyTorch, on one backbone: "peer" of run.py.

    python experiments/segmentation/peer.py FOLDER DATA_DIR [--quick]    # internal: our worker

Both sides are processes of their own (experiments/speed/harness.py), and train on the same prepared
pictures. Their heads differ, so their times are what compares, and their losses are not.
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

from experiments.detection.peer import first_state  # noqa: E402
from experiments.runs import config_of, kept  # noqa: E402
from experiments.shakespeare.peer import side_by_side  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.run.experiment import Experiment, assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
CLASSES = ("sky building pole road pavement tree sign fence car pedestrian bicyclist").split()
STEPS = 300
QUICK = {"steps": 4, "data.batch_size": 2, "data.size": (96, 96), "model.width": 32,
         "data.train": "train[:4]", "optimizer.learning_rate.warmup_steps": 1,
         "augment": [dict(name="scale_jitter", size=(96, 96), scale=(1.0, 2.5), flip=0.5)]}


def peer(log, options, workdir) -> None:
    """Train both sides in turns, and log their losses and times."""
    data_dir = prepared(workdir)
    file = workdir / f"peer{'' if options.torch_python else '_alone'}.json"
    row = kept(file, functools.partial(compared, options, data_dir))
    log({"part": "peer", **row, "versions": versions(),
         "device": device(make_mesh(devices=jax.devices()[:1]))})


def prepared(workdir: pathlib.Path) -> str:
    """Return the data_dir in which CamVid is prepared."""
    if not (workdir / "tfds" / "camvid").exists():
        prepare("masks", SHARED / "camvid", "camvid", str(workdir / "tfds"), classes=CLASSES)
    return str(workdir / "tfds")


def compared(options, data_dir: str) -> dict:
    """Return the row of both sides."""
    exp = experiment(data_dir, options.quick)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(pathlib.Path(folder), exp)
        ours = [str(HERE / "peer.py"), folder, data_dir, *["--quick"] * options.quick]
        theirs = [str(HERE / "torch_lraspp.py"), folder]
        return side_by_side(pathlib.Path(folder), ours, theirs, options.torch_python,
                            exp.config.steps)


def experiment(data_dir: str, quick: bool) -> Experiment:
    """Return the run of configs/segment_camvid.py, on one device, without its moving average."""
    own = {"steps": STEPS, **(QUICK if quick else {}), "data.data_dir": data_dir,
           "data.validation": "", "data.test": "", "ema_decay": 0.0,
           "init_from": str(SHARED / "weights" / "efficientnet_lite0.safetensors")}
    config, task_file = config_of("segment_camvid", **own)
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write the backbone that both sides begin with, and what they train on."""
    source, config, state = exp.source, exp.config, first_state(exp)

    @jax.jit
    def next_batch(arrays, after):
        after, chunk = source.advance(arrays, after, None)
        return after, source.batch(arrays, chunk, 0)
    files, after = {}, state.source
    for i in range(config.steps):
        after, batch = next_batch(source.arrays, after)
        for name, dtype in (("image", np.float16), ("mask", np.uint8)):
            if i == 0:
                shape = (config.steps, *batch[name].shape)
                files[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
            files[name][i] = batch[name]
    variables = {part: tree["backbone"] for part, tree in state.variables.items()}
    np.savez(folder / "weights.npz", **weights.to_pytorch(exp.task.model.backbone, variables))
    (folder / "size.json").write_text(json.dumps(dict(
        classes=source.classes, clip=config.optimizer.clip,
        weight_decay=config.optimizer.weight_decay,
        rates=[float(exp.learning_rate(i)) for i in range(config.steps)])))


def serve_ours(folder: pathlib.Path, data_dir: str, quick: bool) -> None:
    """Train with the shared step on the written batches, on request."""
    exp = experiment(data_dir, quick)
    state, step, losses = first_state(exp), jax.jit(exp.train_step(), donate_argnums=0), []
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))

    def run(steps):
        nonlocal state
        for _ in range(max(0, steps)):
            i = len(losses)
            state, metrics = step(state, {"image": jnp.asarray(images[i], jnp.float32),
                                          "mask": masks[i], "weight": jnp.ones(images.shape[1])})
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        if steps < 0:
            (folder / "ours.json").write_text(
                json.dumps({"losses": [float(loss) for loss in losses]}))
    serve(run, f"jax {jax.__version__}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    serve_ours(pathlib.Path(sys.argv[1]), sys.argv[2], "--quick" in sys.argv)
