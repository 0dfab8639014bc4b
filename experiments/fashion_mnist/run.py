"""Fashion-MNIST (Xiao et al. 2017) as a person's own pictures: PNG files in class folders, the
config to start from, and the README's command, timed from its first to its last second.

    apt-get install dataset-fashion-mnist                # a package of Debian, 31 MB
    python experiments/fashion_mnist/run.py --workdir=runs/fashion_png       # 10 minutes of 2 cores
    python experiments/fashion_mnist/run.py --quick --log=/tmp/quick.jsonl

The package's four files lie in /usr/share/datasets/fashion-mnist. To unpack them elsewhere: apt-get
download dataset-fashion-mnist; dpkg-deb -x dataset-fashion-mnist_*.deb DIR, then
--idx=DIR/usr/share/datasets/fashion-mnist.

The study writes 60,000 training and 10,000 test pictures as PNG files: train/coat/00005.png. Then
it starts the training in a process of its own, with an empty folder of data sets and no compiled
programs. So the seconds hold reading the pictures, preparing and compiling. 54,000 pictures are
learned from, and 6,000 validate. The test pictures are read once, by the run's end. results.jsonl
gets a row for the pictures and one for each seed. A run that was stopped begins again, or its
seconds would not count all; one that is done is read.
--quick: few pictures, made of the UCI digits, and few steps, for tests.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.runs import Log, command  # noqa: E402
from karpjax.datasets.images import read_idx  # noqa: E402
from karpjax.run.seeds import over_seeds  # noqa: E402

PACKAGE = "/usr/share/datasets/fashion-mnist"
CLASSES = ("t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "ankle_boot")
FILES = {"train": "train", "test": "t10k"}
QUICK = ["--config.steps=3", "--config.eval_every=3", "--config.save_every=3",
         "--config.data.batch_size=16"]


def read_package(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 28, 28) and labels (N,) of a split of the package."""
    files = [folder / f"{FILES[split]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        sys.exit(f"expected {', '.join(missing)}; see the first lines of this file for the package")
    return read_idx(files[0], 3), read_idx(files[1], 1)


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 200 digits as images (N, 28, 28) and their labels (N,), in place of the package."""
    with np.load(ROOT / "karpjax" / "data" / "digits.npz") as stored:
        images, labels = stored["image"][:200], stored["label"][:200]
    large = np.repeat(np.repeat(images.reshape(-1, 8, 8), 4, 1), 4, 2)[:, 2:-2, 2:-2]
    return (15 * large).astype(np.uint8), labels


def write_pictures(folder: pathlib.Path, read) -> dict:
    """Write SPLIT/CLASS/NUMBER.png of both splits, and return their counts."""
    from PIL import Image
    counts = {}
    for split in FILES:
        images, labels = read(split)
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / split / CLASSES[label] / f"{i:05}.png")
        counts[split] = len(labels)
    return counts


def timed(pictures: pathlib.Path, seed: int, workdir: pathlib.Path, quick: bool) -> dict:
    """Return the summary of a run of the README's command, and the seconds from start to end."""
    run, sets, stamp = (workdir / f"{name}_{seed}" for name in ("run", "sets", "seconds"))
    flags = ["--config=configs/image_folder.py:28", f"--config.seed={seed}",
             *(QUICK if quick else ())]
    if not stamp.exists():
        for folder in (run, sets):
            shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(sets)}
        subprocess.run([sys.executable, "-m", "karpjax.train", *flags, f"--workdir={run}",
                        f"--config.data.dir={pictures}", "--config.compile_cache=off"],
                       cwd=ROOT, env=env, check=True)
        stamp.write_text(str(time.monotonic() - start))
    summary = json.loads((run / "summary.json").read_text())
    return {"flags": flags, "seconds_of_command": round(float(stamp.read_text()), 1), **summary}


def pictures_in(workdir: pathlib.Path, idx: str, quick: bool) -> pathlib.Path:
    """Return the folder of PNG files, written once. Their counts lie beside it."""
    pictures, done = workdir / "pictures", workdir / "pictures.json"
    if not done.exists():
        def read(split):
            return read_digits(split) if quick else read_package(pathlib.Path(idx), split)
        done.write_text(json.dumps(write_pictures(pictures, read)))
    return pictures


def study(options, workdir: pathlib.Path):
    log, pictures = Log(options.log), pictures_in(workdir, options.idx, options.quick)
    log({"run": "pictures", **json.loads((workdir / "pictures.json").read_text())})
    summaries = []
    for seed in range(options.seeds):
        summaries.append(timed(pictures, seed, workdir, options.quick))
        log({"run": "image_folder", "seed": seed, **summaries[-1]})
    if options.seeds > 1:
        log({"run": "image_folder", "seeds": options.seeds, "metrics": over_seeds(summaries)})


def arguments(parser):
    parser.add_argument("--idx", default=PACKAGE, help="the folder of the package's four files")
    parser.add_argument("--seeds", type=int, default=1)


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
