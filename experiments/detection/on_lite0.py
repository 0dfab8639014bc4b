"""Networks on EfficientNet-Lite0 beside PyTorch's: what peer.py here and of segmentation share.

Both sides train on the same prepared pictures and their truth, a file NAME.npy of each, from the
published backbone (torch_lite0.py) and with the same rates. size.json has the rest.
"""
from collections.abc import Callable
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments import side_by_side
from experiments.runs import SHARED, config_of, kept
from karpjax import weights
from karpjax.core.sharding import make_mesh
from karpjax.run.experiment import Experiment, assemble
from karpjax.run.init_from import load_weights
from karpjax.run.workdir import device, versions

WEIGHTS = SHARED / "weights" / "efficientnet_lite0.safetensors"


def log_peer(log, options, workdir, compare: Callable[[], dict]) -> None:
    """Log the losses and times of both sides, as `compare` measures them."""
    row = kept(workdir / f"peer{'' if options.torch_python else '_alone'}.json", compare)
    log({"part": "peer", **row, "versions": versions(),
         "device": device(make_mesh(devices=jax.devices()[:1]))})


def experiment(name: str, data_dir: str, **own) -> Experiment:
    """Return the run of a config, on one device, without its evaluations and moving average."""
    config, task_file = config_of(name, **{
        "data.data_dir": data_dir, "data.validation": "", "data.test": "", "ema_decay": 0.0,
        "init_from": str(WEIGHTS), **own})
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def first_state(exp: Experiment):
    """Return the state that a run begins with: the published backbone, all else drawn."""
    return load_weights(exp.config.init_from, exp.fresh_state(), exp.task, ())[0]


def write_inputs(folder: pathlib.Path, exp: Experiment, truth: tuple[str, ...], part: str = "",
                 **sizes) -> None:
    """Write what both sides begin with, and what they train on.

    truth   entries of a batch beside its image
    part    of the network, whose weights both sides have; "": all
    sizes   of the network
    """
    config, state, files = exp.config, first_state(exp), {}
    for i, batch in enumerate(side_by_side.batches_of(exp, state)):
        for name in ("image", *truth):
            if i == 0:
                dtype = np.float16 if name == "image" else batch[name].dtype
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", dtype, (config.steps, *batch[name].shape))
            files[name][i] = batch[name]
    for file in files.values():
        file.flush()
    model, variables = exp.task.model, state.variables
    if part:
        model = getattr(model, part)
        variables = {kind: tree[part] for kind, tree in variables.items()}
    np.savez(folder / "weights.npz", **weights.to_pytorch(model, variables))
    (folder / "size.json").write_text(json.dumps(dict(
        sizes, classes=exp.source.classes, clip=config.optimizer.clip,
        weight_decay=config.optimizer.weight_decay,
        rates=[float(exp.learning_rate(i)) for i in range(config.steps)])))


def serve_ours(folder: pathlib.Path, exp: Experiment, truth: tuple[str, ...]) -> None:
    """Train with the shared step on the written batches, on request."""
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", *truth)}

    def batch(i):
        rows = {name: file[i] for name, file in files.items()}
        return {**rows, "image": jnp.asarray(rows["image"], jnp.float32),
                "weight": jnp.ones(len(rows["image"]))}
    side_by_side.serve_ours(folder, exp, first_state(exp), batch)
