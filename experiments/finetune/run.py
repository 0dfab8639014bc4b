"""Ants and bees from published ImageNet weights: a linear probe on frozen features beside the
fine-tuning recipe.

    python experiments/finetune/run.py --workdir=runs/finetune          # an hour on 2 cores
    python experiments/finetune/run.py --quick --log=/tmp/quick.jsonl

Hymenoptera (243 pictures to train, 153 to test) and EfficientNet-Lite0 come from the shared data
($KARPJAX_TEST_DATA, ../shared/data by default). The probe is a logistic regression on
`run.features`, its penalty chosen by five folds of the training pictures. The recipe is
configs/finetune_imagefolder.py. Its settings are chosen among CANDIDATES by two folds of the
training pictures, with one seed and as many steps as in the end. Three seeds on all of them follow.
The test pictures are looked at once for each model. results.jsonl gets a line for each run. The
last is the difference of the two in right answers, picture by picture, with its 95 % interval. A
second start continues where the first stopped. --quick: a few steps on a few pictures, for tests.
"""
import os
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import SHARED, Log, command, trained  # noqa: E402
import karpjax  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.published import published  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

PENALTIES = [10.0**n for n in range(-5, 2)]
BATCH, EPOCHS, SEEDS = 32, 10, 3
# Statistics kept, or a few hundred pictures would replace those of a million; then nothing holds
# the activations, and gradients are clipped. (First tried without: 0.01, 0.003, and 0.002 with the
# head x 10, of which the last was chosen. README.md.)
KEPT = {"frozen_statistics": True, "optimizer.clip": 1.0,
        "optimizer.lr_scale": (("head/.*", 10.0),)}
FALLING = dict(name="cosine_decay_schedule", init_value=0.002)
CANDIDATES = {"rate 0.001": {**KEPT, "optimizer.learning_rate": 0.001},
              "rate 0.002": {**KEPT, "optimizer.learning_rate": 0.002},
              "rate 0.002, falling": {**KEPT, "optimizer.learning_rate": FALLING}}
QUICK = {"steps": 2, "data.batch_size": 4, "data.resize": (40, 40), "data.crop": 32,
         "augment": [dict(name="random_resized_crop", size=32)]}


def features(start, folder: pathlib.Path, split: str, resize=(256, 256), crop=224) -> tuple:
    """Return (N, 1280), (N,) of the pictures as the recipe evaluates them."""
    run, rows, labels = karpjax.restore(start), [], []
    recipe = {name: run.config.data[name] for name in ("mean", "std")}
    source = karpjax.sources.images(dict(dir=str(folder), train=split, test=split, batch_size=BATCH,
                                         resize=resize,
                                         crop=crop, **recipe))
    pooled = jax.jit(lambda batch: run.model.apply(run.variables, source.preprocess(batch)["image"],
                                                   features=True)[1]["pooled"])
    for batch in source.eval_batches("test"):
        real = batch["weight"] > 0
        rows.append(np.asarray(pooled(batch))[real])
        labels.append(batch["label"][real])
    return np.concatenate(rows), np.concatenate(labels)


def regression(x, y, penalty: float):
    """Fit a logistic regression by L-BFGS: (D, C) and (C,), for x of mean 0 and deviation 1."""
    classes = int(y.max()) + 1

    def loss(w):
        nll = optax.softmax_cross_entropy_with_integer_labels(x @ w["kernel"] + w["bias"], y)
        return nll.mean() + penalty * jnp.sum(w["kernel"]**2)
    w = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}
    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_, carry):
        w, state = carry
        value, grad = value_and_grad(w, state=state)
        updates, state = optimizer.update(grad, state, w, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(w, updates), state
    return jax.jit(lambda w: jax.lax.fori_loop(0, 100, step, (w, optimizer.init(w)))[0])(w)


def probe(x, y, test_x, penalty: float) -> np.ndarray:
    """Return (N,) answers for the test rows."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    w = regression((x - mean) / std, y, penalty)
    return np.asarray(((test_x - mean) / std @ w["kernel"] + w["bias"]).argmax(-1))


def study(options, workdir: pathlib.Path):
    log = Log(options.log)
    raw, part = workdir / "hymenoptera", workdir / "hymenoptera.part"
    if not raw.exists():
        shutil.rmtree(part, ignore_errors=True)
        for split, most in (("train", 8), ("val", 4)):
            for folder in (SHARED / "hymenoptera" / split).iterdir():
                (part / split / folder.name).mkdir(parents=True)
                for file in sorted(folder.iterdir())[:most if options.quick else None]:
                    # the shared data is nobody's to change
                    shutil.copyfile(file, part / split / folder.name / file.name)
        part.rename(raw)
    start = workdir / "lite0"
    if not (start / "checkpoints" / "0").exists():
        published(SHARED / "weights" / "efficientnet_lite0.safetensors",
                  "efficientnet_lite0", start)
    common = {"init_from": str(start), "data.dir": str(raw), "data.data_dir": str(workdir / "tfds"),
              "data.batch_size": BATCH}
    os.environ.setdefault("TFDS_DATA_DIR", str(workdir / "tfds"))

    # ------------------------------------------------------------------------------------ the probe
    size = {"resize": QUICK["data.resize"], "crop": QUICK["data.crop"]} if options.quick else {}
    x, y = features(start, raw, "train", **size)
    test_x, test_y = features(start, raw, "val", **size)
    folds = np.arange(len(x)) % 5
    right = {p: np.mean([np.mean(probe(x[folds != k], y[folds != k], x[folds == k],
                                       p) == y[folds == k]) for k in range(5)])
             for p in PENALTIES[::3 if options.quick else 1]}
    penalty = max(right, key=right.get)
    answers = probe(x, y, test_x, penalty) == test_y
    log({"run": "probe", "cross_validation": {str(p): float(a) for p, a in right.items()},
         "penalty": penalty,
         "test/accuracy": float(answers.mean()), "right": answers.astype(int).tolist(),
         "versions": versions(),
         "device": device(make_mesh(1, 1, jax.devices()[:1]))})

    # ----------------------------------------------------------------------------------- the recipe
    steps = 2 if options.quick else options.epochs * len(x) // BATCH
    common |= {**(QUICK if options.quick else {"steps": steps}), "log_every": 1,
               "eval_every": steps, "save_every": 4,
               "dispatch": "step"}  # one program: this network takes minutes to compile on a GPU
    held = {}
    for i, (name, own) in list(enumerate(CANDIDATES.items()))[-1 if options.quick else 0:]:
        parts = [("train[50%:]", "train[:50%]"),
                 ("train[:50%]", "train[50%:]")][:1 if options.quick else 2]
        trials = [trained("finetune_imagefolder", workdir / f"{options.epochs}_fold_{i}_{k}", **{
            **common, **own, "data.train": train, "data.test": held_out})
                 for k, (train, held_out) in enumerate(parts)]
        held[name] = float(np.mean([each["test/accuracy"] for each in trials]))
        log({"run": "fold", "candidate": name, "accuracy": held[name],
             "parts": [each["test/accuracy"] for each in trials]})
    chosen = max(held, key=held.get)
    tuned = []
    if options.quick:
        # as many pictures as the fold's: the programs are compiled
        common["data.train"] = "train[50%:]"
    for seed in range(1 if options.quick else SEEDS):
        folder = workdir / f"{options.epochs}_tuned_{list(CANDIDATES).index(chosen)}_{seed}"
        summary = trained("finetune_imagefolder", folder,
                          **{**common, **CANDIDATES[chosen], "data.test": "val", "seed": seed})
        run = karpjax.restore(folder)
        logits = np.concatenate([np.asarray(run.predict(batch["image"]))[batch["weight"] > 0]
                                 for batch in run.task.source.eval_batches("test")])
        tuned.append(logits.argmax(-1) == test_y)
        log({"run": "tuned", "candidate": chosen, "seed": seed, **summary,
             "right": tuned[-1].astype(int).tolist()})

    # -------------------------------------------------------------------------------------- the two
    difference = np.mean(tuned, axis=0) - answers  # (N,), over pictures
    half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
    log({"run": "tuned - probe", "mean": float(difference.mean()),
         "interval": [float(difference.mean() - half), float(difference.mean() + half)],
         "tuned": [float(each.mean()) for each in tuned], "probe": float(answers.mean())})


def arguments(parser):
    parser.add_argument("--epochs", type=int, default=EPOCHS)


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
