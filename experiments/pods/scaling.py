"""The TPU compiler's report on four models on 4 to 256 chips of a v5e, and on 1.07 billion
parameters on 256.

    python experiments/pods/scaling.py --log=experiments/pods/scaling.jsonl --workdir=DIR \
        [--chips 4 256]                                    # 3 minutes a row
    python experiments/pods/scaling.py --quick --log=FILE  # needs libtpu, as the other

Configs of configs/ with other sizes, on data of noise. The batch a chip is the same on every slice.
A row for each compilation, as karpjax.precompile reports it. README.md lists what is not in it.
"""
import json
import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_platforms", "cpu")

from experiments.runs import Log, command, config_of  # noqa: E402
from karpjax.datasets.images import ImageRows, ImageSet  # noqa: E402
from karpjax.datasets.text import import_texts  # noqa: E402
from karpjax.datasets.write import write_dataset  # noqa: E402
from karpjax.precompile.compile import precompile  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

LENGTH, VOCABULARY, ROWS = 512, 32_768, 4096
SLICES = {4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}
TEXT = {"data.name": "words", "data.train": "train", "data.validation": "", "data.test": ""}
PICTURES = {"data.train": "train", "data.validation": "", "data.test": "", "precision": "bf16"}
# config, what differs from it, the key of the batch, and the batch a chip
MODELS = {
    "ResNet-50, 224 x 224": ("cifar10_resnet", {
        **PICTURES, "model": dict(name="resnet", depth=50),
        "augment": [dict(name="random_resized_crop", size=224)]},
        "data.batch_size", 64),
    "MAE of ViT-B, 256 patches": ("cifar10_mae", {
        **PICTURES, "model": dict(name="mae", patch=2, layers=12, width=768, heads=12,
                                  decoder_layers=8, decoder_width=512,
                                  decoder_heads=16)}, "data.batch_size", 64),
    "BERT-base, 512 tokens": ("imdb_mlm", {
        **TEXT, "precision": "bf16", "model.layers": 12, "model.width": 768, "model.heads": 12},
                              "data.batch_size", 16),
    "PPO on CartPole": ("ppo_cartpole", {}, "data.num_envs", 64),
}


def prepare(folder: pathlib.Path, rows: int, words: int) -> None:
    """Write noise by the names of sets: `cifar10`, and `words`, packed rows of made-up words with a
    tokenizer of VOCABULARY."""
    rng = np.random.default_rng(0)
    pictures = ImageRows(rng.integers(0, 256, (rows * 4, 32, 32, 3), np.uint8),
                         rng.integers(0, 10, rows * 4))
    classes = [str(i) for i in range(10)]
    write_dataset("cifar10", ImageSet(classes, (32, 32, 3), {"train": pictures}), folder)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    made_up = ["".join(rng.choice(letters, n)) for n in rng.integers(3, 12, words)]
    text = folder / "text"
    text.mkdir()
    lines = (json.dumps({"text": " ".join(rng.choice(made_up, LENGTH))}) for _ in range(rows))
    (text / "train.jsonl").write_text("\n".join(lines))
    vocabulary = VOCABULARY if words > 1000 else 300
    write_dataset("words", import_texts(text, length=LENGTH, vocabulary=vocabulary, pack=True),
                  folder)


def report(log: Log, name: str, file: str, topology: str, overrides: dict) -> None:
    config, task_file = config_of(file, steps_per_dispatch=1, **overrides)
    compiled = precompile(config, task_file, topology)
    del compiled["model_fields"]
    log({"model": name, "config": file, "topology": topology, **compiled})


def study(options, workdir: pathlib.Path) -> None:
    log, data = Log(options.log), workdir / "data"
    log({"versions": versions()})
    if not data.exists():
        part = workdir / "data.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        prepare(part, *((64, 50) if options.quick else (ROWS, 60_000)))
        part.rename(data)
    os.environ["TFDS_DATA_DIR"] = str(data)
    if options.quick:
        small = {"model": dict(name="mae", patch=8, layers=1, width=16, heads=2, decoder_layers=1,
                               decoder_width=16,
                               decoder_heads=2), "data.batch_size": 16}
        return report(log, "small", "cifar10_mae", SLICES[4], {**PICTURES, **small})
    for name, (file, overrides, key, each) in MODELS.items():
        for chips in options.chips:
            report(log, name, file, SLICES[chips], {**overrides, key: each * chips})
    if 256 in options.chips:
        report(log, "1.07 billion parameters", "mlm_1b_v5e256", SLICES[256], TEXT)


def arguments(parser) -> None:
    parser.add_argument("--chips", type=int, nargs="+", choices=SLICES, default=[*SLICES])


if __name__ == "__main__":
    command(study, HERE / "scaling.jsonl", arguments)
