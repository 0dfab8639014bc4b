"""Our Semantic FPN, and torchvision's LR-ASPP in PyTorch, on one backbone: "peer" of run.py.

    python experiments/segmentation/peer.py FOLDER DATA_DIR [--quick]    # internal: our worker

Both sides (../detection/on_lite0.py) start from the same backbone. Their heads differ, so their
times are what compares, and their losses are not.
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

CLASSES = ("sky building pole road pavement tree sign fence car pedestrian bicyclist").split()
STEPS, TRUTH = 300, ("mask",)
SMALL = {"data.batch_size": 2, "data.size": (96, 96), "data.train": "train[:4]", "model.width": 32,
         "optimizer.learning_rate.warmup_steps": 1,
         "augment": [dict(name="scale_jitter", size=(96, 96), scale=(1.0, 2.5), flip=0.5)]}


def peer(log, options, workdir) -> None:
    """Train both sides in turns, and log their losses and times."""
    data_dir = camvid(workdir)
    on_lite0.log_peer(log, options, workdir, functools.partial(compared, options, data_dir))


def camvid(workdir: pathlib.Path) -> str:
    """Return the data_dir in which CamVid is prepared."""
    return prepared(workdir, "masks", "camvid", classes=CLASSES)


def compared(options, data_dir: str) -> dict:
    """Return the row of both sides."""
    ours = [str(HERE / "peer.py"), data_dir, *["--quick"] * options.quick]
    return side_by_side.compared(experiment(data_dir, options.quick), write_inputs, ours,
                                 str(HERE / "torch_lraspp.py"), options.torch_python)


def experiment(data_dir: str, quick: bool) -> Experiment:
    """Return the run of configs/segment_camvid.py."""
    own = {**SMALL, "steps": 4} if quick else {"steps": STEPS}
    return on_lite0.experiment("segment_camvid", data_dir, **own)


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write the backbone that both sides begin with, and what they train on."""
    on_lite0.write_inputs(folder, exp, TRUTH, part="backbone")


if __name__ == "__main__":
    on_lite0.serve_ours(pathlib.Path(sys.argv[1]), experiment(sys.argv[2], "--quick" in sys.argv),
                        TRUTH)
