"""Masked language modelling, one change at a time, at equal tokens: masks, norms, activations,
positions, optimizer.

    python experiments/masked_ablation/run.py --workdir=runs/ablation  # some hours on 2 cores
    python experiments/masked_ablation/run.py --quick --log=/tmp/quick.jsonl

Tiny (2 layers, 128 wide) on 5M tokens of IMDB's reviews, prepared as configs/imdb_mlm.py describes
(or by experiments/imdb: then --data_dir=runs/imdb/tfds_128_256). Three seeds of each. The loss is
that of the same held-out rows under the same masks, 15 % whatever the training rate. results.jsonl
gets a line for each run, then mean and deviation, and ablation.png shows them. A second start
continues where the first stopped. --quick: a few steps of three variants, for tests.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import Log, command, config_of, trained  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

TOKENS, SEEDS = 5_000_000, 3
RATE = dict(name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3, warmup_steps=60)
MUON = {"clip": 1.0, "groups": [
    ["block.*/kernel", dict(name="muon", learning_rate={**RATE, "peak_value": 1e-2},
                            weight_decay=0.01)],
    [".*", dict(name="adamw", learning_rate=RATE, weight_decay=0.01, b2=0.98)]]}
VARIANTS = {
    "base: 30 % masked, pre-norm, GeGLU, RoPE, AdamW": {},
    "15 % masked": {"mask_rate": 0.15},
    "40 % masked": {"mask_rate": 0.4},
    "80/10/10": {"replace": True},
    "post-norm": {"model.norm": "post"},
    "GELU": {"model.mlp": "gelu"},
    "learned positions": {"model.positions": "learned", "model.context": 128},
    "Muon": {"optimizer": MUON},
}
LOSS = "validation/mlm"


def base(options) -> dict:
    """Return the values that all variants share."""
    if options.quick:
        return {"data.data_dir": options.data_dir, "steps": 3, "eval_every": 3, "save_every": 3,
                "data.batch_size": 8,
                "model.layers": 1, "model.width": 32, "model.heads": 2, "data.train": "train[:90%]",
                "data.validation": "train[90%:]", "optimizer.learning_rate.warmup_steps": 1}
    config, _ = config_of("imdb_mlm")
    steps = round(TOKENS / config.data.batch_size / 128)
    return {"steps": steps, "eval_every": steps, "save_every": steps,
            "data.data_dir": options.data_dir, "model.layers": 2,
            "model.width": 128, "model.heads": 2, "optimizer.learning_rate": RATE,
            "data.train": "train[:95%]+unsup[:95%]", "data.validation": "train[98%:]"}


def draw(rows: list[dict], path) -> None:
    """Draw mean and deviation of each variant's loss, beside the base's."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    names = [row["variant"] for row in rows][::-1]
    means, deviations = ([row["metrics"][LOSS][what] or 0.0 for row in rows][::-1]
                         for what in ("mean", "sd"))
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.errorbar(means, range(len(names)), xerr=deviations, fmt="o", capsize=3)
    axes.axvline(means[-1], color="grey", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("validation loss, nats a masked token (15 % masked)")
    figure.savefig(path, dpi=100)


def study(options, workdir: pathlib.Path):
    log, means = Log(options.log), []
    numbered = list(enumerate(VARIANTS.items()))
    for i, (variant, own) in numbered[::3] if options.quick else [numbered[i]
                                                                  for i in options.only]:
        summaries = []
        for seed in range(1 if options.quick else SEEDS):
            summaries.append(trained("imdb_mlm", workdir / f"{i}_{seed}", seed=seed,
                                     **{**base(options), **own}))
            log({"variant": variant, "seed": seed, **summaries[-1]})
        means.append({"variant": variant, "seeds": len(summaries),
                      "metrics": over_seeds(summaries)})
        print(f"{variant}\n{seeds_table(means[-1]['metrics'])}", flush=True)
    for row in means:
        log(row)
    draw(means, pathlib.Path(options.log).with_name("ablation.png"))


def arguments(parser):
    parser.add_argument("--data_dir", default="",
                        help="where imdb_packed is prepared; empty: TFDS's default")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(VARIANTS)),
                        choices=range(len(VARIANTS)), metavar="N",
                        help="variants, by number: several processes may share the work, each "
                             "with a --log of its own, before one that collects")


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
