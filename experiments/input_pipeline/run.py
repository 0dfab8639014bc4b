"""Input pipelines and what they starve: images a second of each way to feed, beside those of train
steps of several sizes.

    python experiments/input_pipeline/run.py                     # 10 minutes on 2 cores, alone
    python experiments/input_pipeline/run.py --quick --log=FILE  # a minute, to see that it works

The feeds are CIFAR-10 (prepared as `cifar10`) from device memory and through grain, and pictures of
ImageNet's size through grain. The pictures are JPEGs of 500 x 375, made of COCO photographs in the
shared data and decoded to 224 x 224. Steps: networks of growing size on 32 x 32 and 224 x 224. Each
is timed alone, in turns. A feed starves every step that is faster than it. On a machine whose CPU
also runs the step the two share its cores, and both get less than alone.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import karpjax as kj  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402
from karpjax.sources import augment  # noqa: E402

SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
SMALL = {"cnn, width 8": dict(name="cnn", width=8), "cnn, width 32": dict(name="cnn", width=32),
         "cnn, width 128": dict(name="cnn", width=128),
         "ResNet-20": dict(name="resnet_cifar", depth=20)}
LARGE = {"cnn, width 8": dict(name="cnn", width=8), "cnn, width 32": dict(name="cnn", width=32),
         "ResNet-18": dict(name="resnet", depth=18), "ResNet-50": dict(name="resnet", depth=50)}


def photographs(folder: pathlib.Path, n: int) -> None:
    """Write n JPEGs of 500 x 375, quality 90, in two classes: cuts of COCO photographs, the same
    every time."""
    from PIL import Image
    sources = sorted((SHARED / "coco128" / "train2017").glob("*.jpg"))
    rng = np.random.default_rng(0)
    for i in range(n):
        picture = Image.open(sources[i % len(sources)]).convert("RGB")
        left, top = rng.integers(0, [picture.width // 4, picture.height // 4])
        (folder / "train" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        cut = picture.crop((left, top, left + picture.width * 3 // 4,
                            top + picture.height * 3 // 4))
        cut.resize((500, 375)).save(folder / "train" / str(i % 2) / f"{i}.jpg", quality=90)


def on_device(source):
    """Return a function that makes the next batch in device memory."""
    program = jax.jit(lambda arrays, state: (
        lambda after, chunk: (after, source.batch(arrays, chunk, 0)))(
        *source.advance(arrays, state, None)))
    arrays, state = jax.device_put(source.arrays), source.init(jax.random.key(0))

    def one():
        nonlocal state
        state, batch = program(arrays, state)
        jax.block_until_ready(batch)
    return one


def from_host(source):
    step = iter(range(10**9))
    return lambda: source.next_batch(next(step), seed=0)


def train_step(options, size: int, batch_size: int):
    model = kj.models.make_model(options, classes=10)
    batch = {"image": jax.random.normal(jax.random.key(0), (batch_size, size, size, 3)),
             "label": jax.random.randint(jax.random.key(1), (batch_size,), 0, 10)}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["image"], key)
        return {"xent": kj.mean(optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["label"]))}, {}, model_state
    optimizer = optax.sgd(0.01, momentum=0.9)
    state = kj.TrainState.create(jax.jit(model.init)(jax.random.key(2), batch["image"][:1]),
                                 optimizer, jax.random.key(3))
    step = jax.jit(kj.make_train_step(loss, optimizer), donate_argnums=0)

    def one():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    return one


def rate(one, images: int, seconds: float) -> float:
    """Return the images a second over about `seconds`."""
    started, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - started < seconds:
        one()
        n += images
    return n / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, seconds, pictures, many, few = (2, 0.1, 16, 16,
                                            2) if options.quick else (7, 3.0, 1024, 128, 32)
    with tempfile.TemporaryDirectory() as folder:
        each, _ = augment.make([dict(name="pad_crop", pixels=4), dict(name="flip")])
        cifar = dict(name="cifar10", train="train[:1%]" if options.quick else "train",
                     batch_size=many)
        measured = {"CIFAR-10 from device memory": (
            on_device(kj.sources.images(cifar | {"on_device": "yes"}, each)), many),
                    "CIFAR-10 through grain": (
            from_host(kj.sources.images(cifar | {"on_device": "no"}, each)), many)}
        if SHARED.exists():
            photographs(pathlib.Path(folder, "photographs"), pictures)
            prepare("imagefolder", pathlib.Path(folder, "photographs"), "photographs",
                    f"{folder}/tfds")
            pictures = dict(name="photographs", data_dir=f"{folder}/tfds", train="train",
                            batch_size=few, resize=(224, 224))
            measured["JPEG to 224 x 224 through grain"] = \
                (from_host(kj.sources.images(pictures | {"on_device": "no"})), few)
        for networks, size, batch in ((SMALL, 32, many), (LARGE, 224, few)):
            for name, model in list(networks.items())[:1 if options.quick else None]:
                measured[f"step of {name}, {size} x {size}"] = \
                    (train_step(model, size, batch), batch)
        with open(options.log, "w") as log:
            rates = {name: [] for name in measured}
            for one, _ in measured.values():
                one()  # compiles
            for i in range(rounds):
                for name, (one, images) in list(measured.items())[::1 if i % 2 == 0 else -1]:
                    rates[name].append(round(rate(one, images, seconds), 2))
                    log.write(json.dumps({"round": i, "what": name,
                                          "images_per_second": rates[name][-1]}) + "\n")
                    log.flush()
            medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
            machine = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
            log.write(json.dumps({"medians": medians, **machine}) + "\n")
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
