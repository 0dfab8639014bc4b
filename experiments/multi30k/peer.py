"""The translator in Marian's form here and in Hugging Face's PyTorch: the part "peer" of run.py.

    python experiments/multi30k/peer.py FOLDER SEED DATA_DIR [--quick]   # internal: our worker

Both sides (experiments/side_by_side.py) start from the same weights and train on the same batches
with the same rates, without dropout. Then they read the same validation captions. Rows hold a pair
each, as MarianMTModel cannot tell apart pairs that share one. The bias of the logits is frozen, as
it does not train it.
"""
import functools
import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments import side_by_side  # noqa: E402
from experiments.runs import config_of, kept  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.experiment import Experiment, assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

STEPS, WARMUP, SEEDS = 500, 100, 2


def peer(log, options, workdir, data_dir: str) -> None:
    """Train both sides in turns from several seeds, and log losses, validation nats and times."""
    mesh = make_mesh(devices=jax.devices()[:1])
    for seed in range(1 if options.quick else SEEDS):
        file = workdir / f"peer_{seed}{'' if options.torch_python else '_alone'}.json"
        row = kept(file, functools.partial(compared, options, seed, data_dir))
        log({"part": "peer", "seed": seed, **row, "versions": versions(), "device": device(mesh)})


def compared(options, seed: int, data_dir: str) -> dict:
    """Return the row of a seed, with target tokens a second of each side."""
    ours = [str(HERE / "peer.py"), str(seed), data_dir, *["--quick"] * options.quick]
    row = side_by_side.compared(experiment(seed, data_dir, options.quick), write_inputs, ours,
                                str(HERE / "torch_marian.py"), options.torch_python)
    sides, tokens = row["workers"], row["target_tokens_a_step"]
    middle = {name: statistics.median(turn[name] for turn in row["turns"][1:]) for name in sides}
    return {**row, "target_tokens_per_s": {name: round(1000 * tokens / middle[name])
                                           for name in sides}}


def experiment(seed: int, data_dir: str, quick: bool) -> Experiment:
    """Return the run in Marian's form, on one device."""
    own = {"seed": seed, "steps": STEPS, "optimizer.learning_rate.warmup_steps": WARMUP,
           "data.test": "", "data.name": "multi30k_apart"}
    if quick:
        own |= {"steps": 4, "data.batch_size": 4, "model.layers": 1, "model.width": 16,
                "model.heads": 2, "optimizer.learning_rate.warmup_steps": 1,
                "data.validation": "val[:6]"}
    config, task_file = config_of("translate_multi30k:marian", **own, **{
        "data.data_dir": data_dir, "model.dropout": 0.0, "optimizer.freeze": ("bias",)})
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def write_inputs(folder: pathlib.Path, exp: Experiment) -> dict:
    """Write what both sides begin with, train on and are measured on, and return what a step has.
    """
    source, config, state = exp.source, exp.config, exp.fresh_state()
    batches = [{side: np.asarray(batch[side], np.uint16) for side in ("source", "target")}
               for batch in side_by_side.batches_of(exp, state)]
    np.savez(folder / "weights.npz", **weights.to_pytorch(exp.task.model, state.variables))
    inputs = {side: np.stack([batch[side] for batch in batches]) for side in batches[0]}
    held_out = {f"validation_{side}": source.data["validation"][side] for side in batches[0]}
    np.savez(folder / "inputs.npz", **inputs, **held_out,
             rates=[exp.learning_rate(i) for i in range(config.steps)])
    vocabulary = source.vocabulary
    (folder / "size.json").write_text(json.dumps(dict(
        vocabulary=vocabulary.size, pad=vocabulary.pad, start=vocabulary.cls, end=vocabulary.sep,
        can_follow=vocabulary.can_follow.tolist(), length=source.spec["length"],
        smoothing=config.label_smoothing, layers=config.model.layers, width=config.model.width,
        heads=config.model.heads, clip=config.optimizer.clip, b2=config.optimizer.b2,
        weight_decay=config.optimizer.weight_decay)))
    tokens = float((inputs["target"] != vocabulary.pad).sum() / config.steps)
    return {"target_tokens_a_step": tokens}


def serve_ours(folder: pathlib.Path, seed: int, data_dir: str, quick: bool) -> None:
    """Train with the shared step on the written batches, on request."""
    exp, inputs = experiment(seed, data_dir, quick), np.load(folder / "inputs.npz")
    sides = {side: jnp.asarray(inputs[side]) for side in ("source", "target")}   # (steps, B, T)

    @jax.jit
    def batch(i):
        rows = {side: array[i] for side, array in sides.items()}
        return {**exp.source.preprocess(rows), "weight": jnp.ones(len(rows["source"]))}
    nll_of = jax.jit(lambda variables, batch: exp.task.loss(
        variables["params"], {}, exp.source.preprocess(batch), None)[1]["nll"])

    def nll(state) -> dict:
        pairs = [nll_of(exp.eval_variables(state), each)
                 for each in exp.source.eval_batches("validation")]
        total, count = (float(sum(each)) for each in zip(*pairs, strict=True))
        return {"nll": total / count}
    side_by_side.serve_ours(folder, exp, exp.fresh_state(), batch, nll)


if __name__ == "__main__":
    serve_ours(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], "--quick" in sys.argv)
