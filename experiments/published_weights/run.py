"""Published CIFAR-10 weights, converted and evaluated with karpjax's commands: exactly the
published test accuracies.

    python experiments/published_weights/run.py  # about 5 minutes on 2 shared cores
    python experiments/published_weights/run.py --only=resnet20 --limit=256 --log=/tmp/quick.jsonl

Reads CIFAR-10 and the weights from the shared data ($KARPJAX_TEST_DATA, ../shared/data by default),
and prepares, converts, evaluates and converts back in a temporary folder. results.jsonl gets a line
for each network: the accuracy on the test split and the published one, whether they are equal,
versions and machine. --limit takes the first rows of each CIFAR file only. The published figure
does not apply to them.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from karpjax.core import sharding  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402
from karpjax.core.files import read_arrays  # noqa: E402

SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
NETWORKS = {"resnet20": ("resnet20-12fca82f.safetensors", 0.9173),
            "resnet56": ("resnet56-4bfd9763.safetensors", 0.9339)}
ROW = 3073                                     # bytes: a label and 32 x 32 x 3 pixels


def command(name: str, *flags: str, **env) -> dict:
    """Run python -m karpjax.NAME and return its last line."""
    return json.loads(run("-m", f"karpjax.{name}", *flags, **env).splitlines()[-1])


def run(*arguments: str, **env) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:                        # what it had to say is on stderr already
        sys.exit(done.returncode)
    return done.stdout


def prepare(folder: pathlib.Path, limit: int) -> dict:
    """Write CIFAR-10 as TFDS has it, from the binary files."""
    run(str(SHARED / "unpack.py"), "cifar10", "--to", str(folder))
    for file in (folder / "cifar10").glob("*.bin") if limit else ():
        file.write_bytes(file.read_bytes()[:limit * ROW])
    return command("prepare", "--format=cifar", f"--from={folder / 'cifar10'}", "--name=cifar10",
                   f"--data_dir={folder / 'tfds'}")


def there_and_back(name: str, folder: pathlib.Path, data: dict) -> dict:
    """Return the test accuracy of published weights, and whether they come back out with the same
    bits."""
    file, published = NETWORKS[name]
    weights, workdir = SHARED / "weights" / file, folder / name
    back = folder / f"{name}.safetensors"
    started, env = time.perf_counter(), {"TFDS_DATA_DIR": data["data_dir"]}
    converted = command("convert",
                        f"--config=configs/cifar10_resnet.py:{name.removeprefix('resnet')}",
                        f"--weights={weights}",
                        f"--workdir={workdir}", **env)
    metrics = command("evaluate", f"--workdir={workdir}", "--split=test", **env)
    command("convert", f"--workdir={workdir}", f"--to={back}", **env)
    theirs, ours = read_arrays(weights), read_arrays(back)
    return {"network": name, "weights": file, "parameters": converted["parameters"],
            "images": data["examples"]["test"],
            "test/accuracy": metrics["test/accuracy"], "test/loss": metrics["test/loss"],
            "published": published,
            "back_bit_exact": theirs.keys() == ours.keys()
            and all(np.array_equal(theirs[key], ours[key]) for key in theirs),
            "seconds": round(time.perf_counter() - started, 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--limit", type=int, default=0, help="rows of each CIFAR file; 0: all")
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    options = parser.parse_args()
    names, met = options.only.split(","), {}
    with tempfile.TemporaryDirectory() as folder, open(options.log, "w") as log:
        data = prepare(pathlib.Path(folder), options.limit)
        for name in names:
            row = there_and_back(name, pathlib.Path(folder), data)
            equal = round(row["test/accuracy"], 6) == row["published"]
            met[name] = None if options.limit else equal
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(f"{name}: test accuracy {row['test/accuracy']:.2%} of {row['images']:,} images, "
                  f"published {row['published']:.2%}; "
                  f"back out with the same bits: {row['back_bit_exact']}", flush=True)
        # Devices last: the commands above need them free.
        log.write(json.dumps({"as_published": met, "versions": versions(),
                              "device": device(sharding.make_mesh())}) + "\n")
    if False in met.values():
        sys.exit(f"not the published accuracy: {met}")


if __name__ == "__main__":
    main()
