"""nanoGPT's CPU set-up here and in plain PyTorch, side by side: the part "peer" of run.py.

    python experiments/shakespeare/peer.py FOLDER SEED [--quick]         # internal: our worker

Both sides (experiments/side_by_side.py) start from the same weights, train on the same batches with
the same rates, and read the same test windows.
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
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.core.trees import named  # noqa: E402
from karpjax.run.experiment import Experiment, assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

ALL = {"data.held_out": 0.0}  # train on nanoGPT's training part, whole
QUICK = {"steps": 4, "eval_every": 4, "save_every": 4, "data.batch_size": 4, "data.length": 512,
         "model.layers": 1, "model.width": 16, "model.heads": 2,
         "optimizer.learning_rate.warmup_steps": 1}


def peer(log, options, workdir, seeds: int) -> None:
    """Train both sides in turns from several seeds, and log their losses, test nats and times."""
    mesh, rows = make_mesh(devices=jax.devices()[:1]), []
    for seed in range(1 if options.quick else seeds):
        file = workdir / f"peer_{seed}{'' if options.torch_python else '_alone'}.json"
        rows.append(kept(file, functools.partial(compared, options, seed)))
        log({"part": "peer", "seed": seed, **rows[-1]})
    sides = [name for name in ("ours", "torch") if name in rows[0]]
    nll = {name: [row[name]["nll"] for row in rows] for name in sides}
    means = {name: {"mean": statistics.fmean(each), "all": each} for name, each in nll.items()}
    log({"part": "peer", "test/nll": means, "versions": versions(), "device": device(mesh),
         "time_ratios": [row["time_ratio"]["ratio"] for row in rows if "time_ratio" in row]})


def compared(options, seed: int) -> dict:
    """Return the row of a seed."""
    ours = [str(HERE / "peer.py"), str(seed), *["--quick"] * options.quick]
    return side_by_side.compared(experiment(seed, options.quick), write_inputs, ours,
                                 str(HERE / "torch_gpt.py"), options.torch_python)


def experiment(seed: int, quick: bool) -> Experiment:
    """Return the run of nanoGPT's CPU set-up, on one device."""
    own = {**QUICK, "model.context": QUICK["data.length"]} if quick else {}
    config, task_file = config_of("gpt_shakespeare:nano_cpu", seed=seed, **ALL, **own)
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write what both sides begin with, train on and are measured on."""
    source, config, state = exp.source, exp.config, exp.fresh_state()
    batches = [windows_of(batch) for batch in side_by_side.batches_of(exp, state)]
    test = source.rows("test", range(len(source.records["test"])))
    params = {name: np.asarray(value) for name, value in named(state.params).items()}
    rates = [exp.learning_rate(i) for i in range(config.steps)]
    np.savez(folder / "inputs.npz", batches=np.stack(batches).astype(np.uint8), rates=rates,
             test=windows_of(test), test_counts=test["weight_of_token"], **params)
    (folder / "size.json").write_text(json.dumps(dict(
        vocabulary=source.vocabulary.size, context=config.data.length, layers=config.model.layers,
        width=config.model.width, heads=config.model.heads, clip=config.optimizer.clip,
        weight_decay=config.optimizer.weight_decay, b2=config.optimizer.b2)))


def windows_of(batch: dict) -> np.ndarray:
    """Return the windows (B, T + 1) whose tokens and targets these are."""
    return np.concatenate([batch["tokens"], batch["target"][:, -1:]], axis=1)


def serve_ours(folder: pathlib.Path, seed: int, quick: bool) -> None:
    """Train with the shared step on the written batches, on request."""
    exp, inputs = experiment(seed, quick), np.load(folder / "inputs.npz")
    written = jnp.asarray(inputs["batches"], jnp.int32)                      # (steps, B, T + 1)

    @jax.jit
    def batch(windows):
        tokens, rows = windows[:, :-1], jnp.ones(len(windows))               # (B, T), (B,)
        return {"tokens": tokens, "target": windows[:, 1:], "weight": rows, "bytes": rows,
                "weight_of_token": jnp.ones(tokens.shape, bool)}

    def nll(state) -> dict:
        return {"nll": exp.evaluator(exp.eval_variables(state), "test")["nll"]}
    side_by_side.serve_ours(folder, exp, exp.fresh_state(), lambda i: batch(written[i]), nll)


if __name__ == "__main__":
    serve_ours(pathlib.Path(sys.argv[1]), int(sys.argv[2]), "--quick" in sys.argv)
