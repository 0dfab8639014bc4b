"""FCOS on EfficientNet-Lite0 here and in torchvision, side by side: the part "peer" of run.py.

    python experiments/detection/peer.py FOLDER DATA_DIR [--quick]       # internal: our worker

Both sides (on_lite0.py) start from the same weights. Locations are the cells' corners, as
torchvision's are.
"""
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments import side_by_side  # noqa: E402
from experiments.detection import on_lite0  # noqa: E402
from experiments.runs import prepared  # noqa: E402
from karpjax.run.experiment import Experiment  # noqa: E402

STEPS, TRUTH = 500, ("boxes", "labels", "valid")
SMALL = {"data.batch_size": 2, "data.size": (64, 96), "data.train": "train[:4]", "model.width": 32,
         "model.depth": 1, "optimizer.learning_rate.warmup_steps": 1,
         "augment": [dict(name="scale_jitter", size=(64, 96), scale=(0.8, 1.5), flip=0.5)]}


def peer(log, options, workdir) -> None:
    """Train both sides in turns, and log their losses and times."""
    data_dir = prepared(workdir, "coco", "bccd")
    on_lite0.log_peer(log, options, workdir, functools.partial(compared, options, data_dir))


def compared(options, data_dir: str) -> dict:
    """Return the row of both sides."""
    ours = [str(HERE / "peer.py"), data_dir, *["--quick"] * options.quick]
    return side_by_side.compared(experiment(data_dir, options.quick), write_inputs, ours,
                                 str(HERE / "torch_fcos.py"), options.torch_python)


def experiment(data_dir: str, quick: bool) -> Experiment:
    """Return the run of configs/detect_bccd.py."""
    own = {**SMALL, "steps": 4} if quick else {"steps": STEPS}
    return on_lite0.experiment("detect_bccd", data_dir, **{"model.place": 0.0, **own})


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write what both sides begin with and train on."""
    model = exp.config.model
    on_lite0.write_inputs(folder, exp, TRUTH, strides=list(model.strides), width=model.width,
                          depth=model.depth)


if __name__ == "__main__":
    on_lite0.serve_ours(pathlib.Path(sys.argv[1]), experiment(sys.argv[2], "--quick" in sys.argv),
                        TRUTH)
