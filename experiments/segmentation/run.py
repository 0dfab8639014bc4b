"""Segmentation: CamVid's streets from ImageNet weights, from nothing, and from pictures alone.

    python experiments/segmentation/run.py --workdir=runs/segmentation --torch_python=PATH
    python experiments/segmentation/run.py --workdir=runs/segmentation --parts floor short
    python experiments/segmentation/run.py --quick --log=FILE      # without PyTorch: that ours runs

Pictures and EfficientNet-Lite0 come from the shared data ($KARPJAX_TEST_DATA, ../shared/data by
default), and are prepared in the workdir. Parts, each on two cores, alone:

    floor    the most frequent class of each place, a minute
    short    configs/segment_camvid.py for half an hour, from ImageNet weights and from scratch
    long     the same from ImageNet weights, 2 hours
    mae      a small ViT pretrained by masking on CamVid's and coco128's pictures without labels,
             then segmentation, beside the same ViT from scratch, 3 seeds each: an hour in all
    peer     the first 300 steps here, and with torchvision's LR-ASPP head on the same backbone in
             PyTorch, in turns: of the times only, as the heads differ

Choices are made on CamVid's validation pictures. The checkpoint of the best validation mIoU reads
the test pictures once. results.jsonl gets a line a run, and one with the interval of the
differences between the ViTs.
"""
import functools
import pathlib
import shutil
import statistics
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.detection.on_lite0 import WEIGHTS  # noqa: E402
from experiments.runs import SHARED, command_of_parts, kept, measured, trained  # noqa: E402
from experiments.segmentation.floor import by_place  # noqa: E402
from experiments.segmentation.peer import SMALL, camvid, peer  # noqa: E402
from karpjax.weights.archs import LITE  # noqa: E402

LONG, SEEDS = 4000, 3  # steps of 2 hours
STUDENT = 4.303  # 97.5 % of Student's t with 2 degrees of freedom
SHORT = {"steps": 2, "eval_every": 2, "save_every": 2}
QUICK = {**SMALL, **SHORT, "data.validation": "val[:3]"}
# From nothing all learns at one rate, and BatchNorm has its own statistics.
SCRATCH = {"init_from": "", "frozen_statistics": False, "optimizer.lr_scale": ()}
SIDE = 256
VIT = dict(patch=16, layers=6, width=192, heads=6)
ON_VIT = {**SCRATCH, "steps": 1000, "eval_every": 500, "save_every": 500,
          "model.backbone": dict(name="vit", **VIT), "data.size": (SIDE, SIDE),
          "augment": [dict(name="scale_jitter", size=(SIDE, SIDE), scale=(1.0, 2.5), flip=0.5)]}
MAE = {"steps": 1500, "model": dict(name="mae", **VIT, decoder_layers=2, decoder_width=96,
                                    decoder_heads=4),
       "data.batch_size": 32, "augment": [dict(name="random_resized_crop", size=SIDE),
                                          dict(name="flip")],
       "eval_every": 500, "save_every": 500, "optimizer.learning_rate.warmup_steps": 100,
       "data.validation": "", "data.resize": (SIDE, SIDE),
       **{f"data.{key}": value for key, value in LITE.items()}}  # of segment_camvid.py too


def pictures(workdir: pathlib.Path, quick: bool) -> pathlib.Path:
    """Return a folder of CamVid's training pictures and coco128's, without any label."""
    folder, part = workdir / "pictures", workdir / "pictures.part"
    if not folder.exists():
        shutil.rmtree(part, ignore_errors=True)
        (part / "train" / "all").mkdir(parents=True)
        for place in ("camvid/train", "coco128/train2017", "coco128/val2017"):
            for file in sorted((SHARED / place).iterdir())[:4 if quick else None]:
                shutil.copyfile(file, part / "train" / "all" / file.name)
        part.rename(folder)
    return folder


def floor(log, options, workdir) -> None:
    """Log the scores of what no network sees."""
    log({"part": "floor", **by_place(camvid(workdir), "camvid", "train", "test")})


def of_config(workdir, options, folder: str, seed: int = 0, **own) -> dict:
    """Return the summary of a run of configs/segment_camvid.py, and its scores on the test."""
    quick = {**QUICK, **{key: own[key] for key in ("model.backbone",) if key in own}}
    own = {"data.data_dir": camvid(workdir), "data.test": "", "init_from": str(WEIGHTS), **own,
           **(quick if options.quick else {})}
    summary = trained("segment_camvid", workdir / folder, seed=seed, **own)
    split = "test[:3]" if options.quick else "test"
    row = kept(workdir / f"{folder}_test.json",
               functools.partial(measured, workdir / folder, split))
    return {"run": folder, "seed": seed, **summary, "test": row}


def short(log, options, workdir) -> None:
    for name, own in (("pretrained", {}), ("scratch", SCRATCH)):
        log({"part": "short", **of_config(workdir, options, name, steps=LONG // 4, **own)})


def long(log, options, workdir) -> None:
    log({"part": "long", **of_config(workdir, options, "long", steps=LONG)})


def mae(log, options, workdir) -> None:
    """Log the ViT's runs from masked pretraining and from scratch, and their differences."""
    quick = {**SHORT, "data.batch_size": 2, "optimizer.learning_rate.warmup_steps": 1}
    own = {**MAE, **(quick if options.quick else {}), "data.name": "",
           "data.dir": str(pictures(workdir, options.quick)),
           "data.data_dir": str(workdir / "tfds"), "data.train": "train"}
    log({"part": "mae", **trained("cifar10_mae", workdir / "mae", **own)})
    starts, found = {"from masking": str(workdir / "mae"), "from scratch": ""}, {}
    for seed in range(1 if options.quick else SEEDS):
        for name, start in starts.items():
            folder = f"vit_{name.split()[1]}_{seed}"
            row = of_config(workdir, options, folder, seed, **{**ON_VIT, "init_from": start})
            found.setdefault(name, []).append(row["test"]["mIoU"])
            log({"part": "mae", "from": name, **row})
    gains = [a - b for a, b in zip(*found.values(), strict=True)]
    mean, row = statistics.fmean(gains), {"part": "mae", "test/mIoU": found, "gains": gains}
    if len(gains) == SEEDS:
        half = STUDENT * statistics.stdev(gains) / SEEDS**0.5
        row |= {"interval_95": [mean - half, mean + half]}
    log({**row, "gain": mean})


PARTS = {"floor": floor, "short": short, "long": long, "mae": mae, "peer": peer}


if __name__ == "__main__":
    command_of_parts(PARTS, HERE / "results.jsonl")
