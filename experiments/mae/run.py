"""MAE on CIFAR-10: a small ViT from scratch beside one pretrained by masking, at equal epochs, and
a linear probe.

    python experiments/mae/run.py --workdir=runs/mae  # two to three hours on 2 cores
    python experiments/mae/run.py --quick --log=/tmp/quick.jsonl

CIFAR-10 must be prepared (python -m karpjax.prepare). Trains configs/cifar10_mae.py, then
configs/cifar10_vit.py from it and from scratch with the same recipe except for layer_decay, and a
probe that trains the head alone. Then k nearest neighbours, without training. Choices are made on
the validation split. The test split is evaluated once for each run, at its end. results.jsonl gets
a line for each run. A second start continues where the first stopped. --quick: a few steps, for
tests.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import Log, command, config_of, trained  # noqa: E402
from karpjax.explain.features import knn  # noqa: E402

QUICK = {"steps": 3, "eval_every": 3, "save_every": 3, "data.batch_size": 16, "model.width": 16,
         "model.layers": 1,
         "model.patch": 8, "optimizer.learning_rate.warmup_steps": 1}
PROBE = {"optimizer.freeze": ("(?!head/).*",), "model.drop_path": 0.0}
CLASSIFIERS = {"scratch": {}, "pretrained": {"optimizer.layer_decay": 0.75},
               "linear probe, pretrained": PROBE, "linear probe, random encoder": PROBE}
RUNS = [*CLASSIFIERS, "neighbours, pretrained"]
NEED_IT = {run for run in RUNS if "pretrained" in run}


def study(options, workdir: pathlib.Path):
    log = Log(options.log)
    quick = QUICK if options.quick else {}

    def steps(name, epochs):
        if options.quick or not epochs:
            return {}
        return {"steps": epochs * 45_000 // config_of(name)[0].data.batch_size}
    workdir = workdir / f"{options.pretrain_epochs}_{options.epochs}"  # other epochs are other runs
    mae = workdir / "mae"
    if NEED_IT & set(options.only):
        log({"run": "mae", **trained("cifar10_mae", mae, **quick,
                                     **steps("cifar10_mae", options.pretrain_epochs))})
    for run in options.only:
        if run == "neighbours, pretrained":
            log({"run": run, **knn(mae, "cifar10", "train[:90%]", "train[90%:]")})
        else:
            own = {**CLASSIFIERS[run], **({"init_from": str(mae)} if run in NEED_IT else {})}
            log({"run": run, **trained("cifar10_vit",
                                       workdir / run.replace(", ", "_").replace(" ", "_"),
                                       **{**quick, **steps("cifar10_vit", options.epochs), **own})})


def arguments(parser):
    parser.add_argument("--pretrain_epochs", type=int, default=0, help="0: the config's own")
    parser.add_argument("--epochs", type=int, default=0,
                        help="of each classifier; 0: the config's own")
    parser.add_argument("--only", nargs="+", default=RUNS, choices=RUNS,
                        help="several processes may share the work, each with a --log of its own, "
                             "before one that collects")


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
