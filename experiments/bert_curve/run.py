"""Same data, same curve: our encoder in BERT's form beside Hugging Face's BertForMaskedLM
(PyTorch), step by step.

    python experiments/bert_curve/run.py --torch_python=PATH  # half an hour on 2 cores, alone
    python experiments/bert_curve/run.py --quick --log=FILE   # without PyTorch: that ours runs

Mini (4 layers, 256 wide) on bytes of the embedded novel: the same 500 batches, masks, first weights
and Adam, in fp32, no dropout. Then the speed of both, in turns, with the head on masked positions
only and on all. PyTorch and transformers may live in another Python. Rows: {"step", "ours",
"torch"}, then {"round", milliseconds a step}, then a summary.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from experiments.speed.harness import Worker, in_turns, ratio, serve  # noqa: E402
import karpjax as kj  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.core.task_file import build_task, load_task_module  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

SIZE = dict(layers=4, width=256, heads=4)
PEAK, WARMUP = 5e-4, 50
SMOOTH = 50


def task_of(length: int, batch_size: int, full: bool = False):
    config = kj.config(task="masked_text", steps=1, mask_rate=0.15, full_head=full,
                       model=dict(name="masked_lm", context=length, **SIZE, **kj.models.BERT),
                       data=dict(path="", length=length, batch_size=batch_size))
    return build_task(config, load_task_module("masked_text")[0])


def write_inputs(folder: pathlib.Path, steps: int, length: int, batch_size: int) -> None:
    """Write the first `steps` batches of the task's own source, with their masks, and the first
    weights under PyTorch's names."""
    task = task_of(length, batch_size)
    source, state = task.source, task.source.init(jax.random.key(0))
    program = jax.jit(lambda arrays, state: (
        lambda after, chunk: (after, source.batch(arrays, chunk, 0)))(
        *source.advance(arrays, state, None)))
    batches = []
    for _ in range(steps):
        state, batch = program(source.arrays, state)
        assert batch["masked"].all()  # every chosen position counts: there a plain mean
        batches.append({name: np.asarray(batch[name])
                        for name in ("tokens", "inputs", "at", "target", "masked", "weight")})
    np.savez(folder / "batches.npz",
             **{name: np.stack([batch[name] for batch in batches]) for name in batches[0]})
    variables = jax.jit(task.init)(jax.random.key(1))
    np.savez(folder / "weights.npz", **weights.to_pytorch(task.model, variables))
    (folder / "config.json").write_text(
        json.dumps({**SIZE, "vocabulary": source.vocabulary.size, "length": length,
                    "batch_size": batch_size, "peak": PEAK, "warmup": WARMUP}))


def stepper(folder: pathlib.Path, full: bool):
    """Return step(i) -> loss, on batch i."""
    said = json.loads((folder / "config.json").read_text())
    task = task_of(said["length"], said["batch_size"], full)
    like = jax.eval_shape(task.init, jax.random.key(0))
    variables = weights.to_karpjax(task.model, like, dict(np.load(folder / "weights.npz")),
                                   "weights.npz")
    optimizer = optax.adam(lambda count: PEAK * jnp.minimum(1.0, count / WARMUP))
    state = kj.TrainState.create(jax.tree.map(jnp.asarray, variables), optimizer, jax.random.key(0))
    step = jax.jit(kj.make_train_step(task.loss, optimizer), donate_argnums=0)
    batches = dict(np.load(folder / "batches.npz"))

    def run(i: int) -> float:
        nonlocal state
        state, metrics = step(state,
                              {name: jnp.asarray(column[i]) for name, column in batches.items()})
        return float(metrics["loss"])
    return run, len(batches["inputs"])


def compare(rows: list[dict]) -> dict:
    """Return the largest difference over the first 50 steps, and the relative one of the curves
    smoothed over 50 steps."""
    ours, theirs = (np.array([row[name] for row in rows]) for name in ("ours", "torch"))
    smooth_ours, smooth_theirs = (np.convolve(x, np.ones(SMOOTH) / SMOOTH, "valid")
                                  for x in (ours, theirs))
    relative = np.abs(smooth_ours - smooth_theirs) / smooth_theirs
    return {"largest_difference_first_50": float(np.abs(ours - theirs)[:50].max()),
            "largest_relative_difference_smoothed": float(relative.max()),
            "last_loss": {"ours": float(ours[-1]), "torch": float(theirs[-1])}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    parser.add_argument("--torch_python", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", default="",
                        help="internal: FOLDER, a worker that runs steps on request")
    parser.add_argument("--full", action="store_true", help="internal, with --serve")
    options = parser.parse_args()
    if options.serve:
        run, n = stepper(pathlib.Path(options.serve), options.full)
        return serve(lambda k: [run(i % n) for i in range(k)])
    steps, length, batch_size = (3, 32, 4) if options.quick else (500, 64, 32)
    with tempfile.TemporaryDirectory() as folder, open(options.log, "w") as log:
        def write(row):
            log.write(json.dumps(row) + "\n")
            log.flush()
        folder = pathlib.Path(folder)
        write_inputs(folder, steps, length, batch_size)
        theirs = options.torch_python and subprocess.run(
            [options.torch_python, HERE / "torch_worker.py", folder, "--train"], check=True)
        run, _ = stepper(folder, full=False)
        rows = [{"step": i + 1, "ours": run(i)} for i in range(steps)]
        if theirs:
            lines = (folder / "torch.jsonl").read_text().splitlines()
            for row, line in zip(rows, lines, strict=True):
                row["torch"] = json.loads(line)["loss"]
        for row in rows:
            write(row)
        summary = compare(rows) if theirs else {}
        ours = [sys.executable, str(HERE / "run.py"), f"--serve={folder}"]
        workers = {"ours": Worker(ours), "ours, full head": Worker([*ours, "--full"])}
        if theirs:
            torch = [options.torch_python, str(HERE / "torch_worker.py"), str(folder)]
            workers |= {"torch": Worker(torch), "torch, full head": Worker([*torch, "full"])}
        times = []
        for row in in_turns(workers, *((2, 1) if options.quick else (9, 4))):
            times.append(row)
            write(row)
        tokens = {name: round(1000 * length * batch_size / statistics.median(
            row[name] for row in times)) for name in workers}
        summary["tokens_per_second"] = tokens
        if theirs:
            summary["time_ratio"] = {"masked positions": ratio(times, "ours", "torch"),
                                     "all positions": ratio(times, "ours, full head",
                                                            "torch, full head")}
            summary["peer"] = workers["torch"].hello
        for worker in workers.values():
            worker.close()
        write({**summary, "versions": versions(),
               "device": device(make_mesh(1, 1, jax.devices()[:1]))})
        print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
