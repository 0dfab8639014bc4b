"""nanoGPT's CPU set-up here and in plain PyTorch, side by side: the part "peer" of run.py.

    python experiments/shakespeare/peer.py FOLDER SEED [--quick]         # internal: our worker

Both sides are processes of their own (experiments/speed/harness.py). They start from the same
weights, train on the same batches with the same rates, and read the same test windows.
"""
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.runs import config_of, kept  # noqa: E402
from experiments.speed.harness import Worker, ratio, serve  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.core.trees import named  # noqa: E402
from karpjax.run.experiment import Experiment, assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

BLOCK = 100      # steps of a turn
EVALUATE = -1    # the request, in place of a number of steps, to read the test split
LOGGED = 20      # every so manieth loss
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
    exp = experiment(seed, options.quick)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(pathlib.Path(folder), exp)
        ours = [str(HERE / "peer.py"), folder, str(seed), *["--quick"] * options.quick]
        theirs = [str(HERE / "torch_gpt.py"), folder]
        return side_by_side(pathlib.Path(folder), ours, theirs, options.torch_python,
                            exp.config.steps)


def side_by_side(folder: pathlib.Path, ours: list[str], theirs: list[str], torch_python: str,
                 steps: int) -> dict:
    """Train two workers in turns, and return the row of what they measured.

    ours, theirs   scripts and their arguments; the second is left out without a `torch_python`
    """
    workers = {"ours": Worker([sys.executable, *ours])}
    if torch_python:
        workers["torch"] = Worker([torch_python, *theirs])
    turns = in_turns(workers, steps)
    row = {"turns": turns, "workers": {name: each.hello for name, each in workers.items()}}
    for name, each in workers.items():
        end = ended(each, folder / f"{name}.json")
        row[name] = {**end, "losses": end["losses"][::LOGGED]}
    if torch_python:
        row["time_ratio"] = ratio(turns[1:], "ours", "torch")              # the first compiles
    return row


def in_turns(workers: dict[str, Worker], steps: int) -> list[dict]:
    """Train all workers to the end, and return the milliseconds a step of each turn."""
    rows, block = [], min(BLOCK, max(1, steps // 4))
    for start in range(0, steps, block):
        order = list(workers) if len(rows) % 2 == 0 else list(workers)[::-1]
        n = min(block, steps - start)
        times = {name: round(1000 * workers[name].seconds(n), 3) for name in order}
        rows.append({"step": start + n, **times})
    return rows


def ended(worker: Worker, file: pathlib.Path) -> dict:
    """Let a worker read what it is measured on, end it, and return what it wrote: nll, losses."""
    worker.seconds(EVALUATE)
    worker.close()
    return json.loads(file.read_text())


def experiment(seed: int, quick: bool) -> Experiment:
    """Return the run of nanoGPT's CPU set-up, on one device."""
    own = {**QUICK, "model.context": QUICK["data.length"]} if quick else {}
    config, task_file = config_of("gpt_shakespeare:nano_cpu", seed=seed, **ALL, **own)
    return assemble(config, task_file, make_mesh(devices=jax.devices()[:1]))


def write_inputs(folder: pathlib.Path, exp: Experiment) -> None:
    """Write what both sides begin with, train on and are measured on."""
    source, config, state = exp.source, exp.config, exp.fresh_state()

    @jax.jit
    def next_batch(arrays, after):
        after, chunk = source.advance(arrays, after, None)
        return after, source.batch(arrays, chunk, 0)
    batches, after = [], state.source
    for _ in range(config.steps):
        after, batch = next_batch(source.arrays, after)
        batches.append(windows_of(batch))
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
    state, step, losses = exp.fresh_state(), jax.jit(exp.train_step(), donate_argnums=0), []
    written = jnp.asarray(inputs["batches"], jnp.int32)                      # (steps, B, T + 1)

    @jax.jit
    def batch(windows):
        tokens, rows = windows[:, :-1], jnp.ones(len(windows))               # (B, T), (B,)
        return {"tokens": tokens, "target": windows[:, 1:], "weight": rows, "bytes": rows,
                "weight_of_token": jnp.ones(tokens.shape, bool)}

    def run(steps):
        nonlocal state
        for _ in range(max(0, steps)):
            state, metrics = step(state, batch(written[len(losses)]))
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        if steps == EVALUATE:
            nll = exp.evaluator(exp.eval_variables(state), "test")["nll"]
            (folder / "ours.json").write_text(
                json.dumps({"nll": nll, "losses": [float(loss) for loss in losses]}))
    serve(run, f"jax {jax.__version__}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    serve_ours(pathlib.Path(sys.argv[1]), int(sys.argv[2]), "--quick" in sys.argv)
