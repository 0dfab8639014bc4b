"""Choose the rate of configs/image_folder.py's convolutions on the pictures held back from training.

    python experiments/fashion_mnist/choose.py --workdir=runs/fashion_png     # 8 minutes a rate
    python experiments/fashion_mnist/choose.py --quick --log=/tmp/quick.jsonl

Each rate trains as run.py does, on 54,000 pictures, and is evaluated on the other 6,000. The test
pictures are not read. choose.jsonl gets a row for each rate.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.fashion_mnist.run import PACKAGE, pictures_in  # noqa: E402
from experiments.runs import Log, command, config_of  # noqa: E402
from karpjax.run.loop import fit  # noqa: E402

RATES = (0.05, 0.1, 0.2)


def study(options, workdir: pathlib.Path):
    log, pictures = Log(options.log), pictures_in(workdir, options.idx, options.quick)
    quick = {"steps": 3, "eval_every": 3, "save_every": 3, "data.batch_size": 16}
    for rate in RATES[:1] if options.quick else RATES:
        config, task_file = config_of("image_folder:28", **{
            "data.dir": str(pictures), "data.data_dir": str(workdir / "sets"), "data.test": "",
            **(quick if options.quick else {})})
        config.optimizer.groups[0][1]["learning_rate"]["init_value"] = rate
        log({"rate": rate, **fit(config, workdir / f"rate_{rate}", task_file=task_file)})


def arguments(parser):
    parser.add_argument("--idx", default=PACKAGE, help="the folder of the package's four files")


if __name__ == "__main__":
    command(study, HERE / "choose.jsonl", arguments)
