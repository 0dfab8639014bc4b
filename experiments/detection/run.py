"""Detection: blood cells and photographs of 64 pixels from ImageNet weights, beside torchvision.

    python experiments/detection/run.py --workdir=runs/detection --torch_python=PATH
    python experiments/detection/run.py --workdir=runs/detection --parts floor quarter
    python experiments/detection/run.py --quick --log=FILE      # without PyTorch: that ours runs

Pictures and EfficientNet-Lite0 come from the shared data ($KARPJAX_TEST_DATA, ../shared/data by
default), and are prepared in the workdir. Parts, each on two cores, alone:

    floor     tiny_detect: the right class with that class's median box, a minute
    overfit   8 pictures of coco128, seen until they are known
    quarter   configs/detect_bccd.py, 2 seeds of 30 minutes
    long      the same, one seed of 2 hours
    tiny      the same recipe on tiny_detect at 128 x 128, an hour
    peer      the first 500 steps on BCCD here and with torchvision's FCOS on the same backbone: the
              same first weights, batches and rates, in turns

Choices are made on BCCD's validation pictures. The checkpoint of the best validation AP reads the
test pictures once. results.jsonl gets a line a run.
"""
import functools
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.detection.floor import median_boxes  # noqa: E402
from experiments.detection.on_lite0 import WEIGHTS  # noqa: E402
from experiments.detection.peer import SMALL, peer  # noqa: E402
from experiments.runs import command_of_parts, kept, measured, prepared, trained  # noqa: E402

LONG = 4000  # steps of 2 hours
QUICK = {**SMALL, "steps": 2, "eval_every": 2, "save_every": 2, "data.validation": "val[:3]"}
# One object a picture of 64 x 64, twice as large to the network.
TINY = {"data.name": "tiny_detect", "data.train": "train[:90%]", "data.validation": "train[90%:]",
        "data.size": (128, 128), "data.objects": 1, "data.batch_size": 32,
        "augment": [dict(name="scale_jitter", size=(128, 128), scale=(0.8, 1.3), flip=0.5)]}
OVERFIT = {"data.name": "coco128", "data.train": "train[:8]", "data.validation": "train[:8]",
           "data.size": (256, 256), "data.batch_size": 8, "augment": [], "ema_decay": 0.9,
           "optimizer.lr_scale": ()}


def floor(log, options, workdir) -> None:
    """Log the average precision of what no network finds."""
    data_dir = prepared(workdir, "coco", "tiny_detect")
    log({"part": "floor", **median_boxes(data_dir, "tiny_detect", "train", "val")})


def run(log, options, workdir, part: str, seeds: tuple[int, ...], test: str, **own) -> None:
    """Train from several seeds, and measure a split once with the best checkpoint of each."""
    name = own.get("data.name", "bccd")
    own = {"data.data_dir": prepared(workdir, "coco", name), "data.test": "",
           "init_from": str(WEIGHTS), **own}
    if options.quick:
        own |= {key: value for key, value in QUICK.items() if key != "data.validation"
                or name == "bccd"}
    for seed in seeds[:1] if options.quick else seeds:
        folder = workdir / f"{part}_{seed}"
        log({"part": part, "seed": seed, **trained("detect_bccd", folder, seed=seed, **own)})
        row = kept(workdir / f"{folder.name}_test.json",
                   functools.partial(measured, folder, short_of(test) if options.quick else test))
        log({"part": part, "seed": seed, **row})


def short_of(split: str) -> str:
    """Return the first pictures of a split."""
    return split if "[" in split else f"{split}[:5]"


PARTS = {
    "floor": floor,
    "overfit": functools.partial(run, part="overfit", seeds=(0,), test="train[:8]", steps=400,
                                 **OVERFIT),
    "quarter": functools.partial(run, part="quarter", seeds=(1, 2), test="test", steps=LONG // 4),
    "long": functools.partial(run, part="long", seeds=(0,), test="test", steps=LONG),
    "tiny": functools.partial(run, part="tiny", seeds=(0,), test="val", steps=2000, **TINY),
    "peer": peer}


if __name__ == "__main__":
    command_of_parts(PARTS, HERE / "results.jsonl")
