"""Our training and a peer's, side by side: what the studies' peer.py have in common.

Both sides are processes of their own (speed/harness.py). A study writes what both begin with and
train on into a folder. Then each trains on request, in turns, and a request for EVALUATE steps
writes FOLDER/ours.json or FOLDER/torch.json: its losses, and what else it measures. PyTorch's side
is torch_side.py.
"""
from collections.abc import Callable, Iterator
import json
import os
import pathlib
import sys
import tempfile

import jax

from experiments.speed.harness import Worker, ratio, serve
from karpjax.run.experiment import Experiment

BLOCK = 100      # steps of a turn
EVALUATE = -1    # the request, in place of a number of steps, to measure and write
LOGGED = 20      # every so manieth loss


def compared(exp: Experiment, write_inputs: Callable, ours: list[str], theirs: str,
             torch_python: str) -> dict:
    """Return the row of what both sides measured.

    write_inputs   (folder, exp) writes what both sides read, and may return more of the row
    ours           our script, and its arguments behind the folder
    theirs         PyTorch's script, left out without a `torch_python`
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        more = write_inputs(folder, exp) or {}
        script, *arguments = ours
        workers = {"ours": Worker([sys.executable, script, name, *arguments])}
        if torch_python:
            workers["torch"] = Worker([torch_python, theirs, name])
        turns = in_turns(workers, exp.config.steps)
        row = {"turns": turns, "workers": {name: each.hello for name, each in workers.items()}}
        for name, each in workers.items():
            end = ended(each, folder / f"{name}.json")
            row[name] = {**end, "losses": end["losses"][::LOGGED]}
    if torch_python:
        row["time_ratio"] = ratio(turns[1:], "ours", "torch")              # the first compiles
    return {**row, **more}


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
    """Let a worker measure, end it, and return what it wrote: losses, and others."""
    worker.seconds(EVALUATE)
    worker.close()
    return json.loads(file.read_text())


def batches_of(exp: Experiment, state) -> Iterator[dict]:
    """Yield the batches of a whole run that begins with `state`."""
    @jax.jit
    def next_batch(arrays, after):
        after, chunk = exp.source.advance(arrays, after, None)
        return after, exp.source.batch(arrays, chunk, 0)
    after = state.source
    for _ in range(exp.config.steps):
        after, batch = next_batch(exp.source.arrays, after)
        yield batch


def serve_ours(folder: pathlib.Path, exp: Experiment, state, batch: Callable,
               measure: Callable = lambda state: {}) -> None:
    """Train with the shared step on request, on batch(0), batch(1), ..., from `state`.

    measure   state -> what ours.json holds beside the losses
    """
    step, losses = jax.jit(exp.train_step(), donate_argnums=0), []

    def run(steps):
        nonlocal state
        for _ in range(max(0, steps)):
            state, metrics = step(state, batch(len(losses)))
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        if steps == EVALUATE:
            row = {**measure(state), "losses": [float(loss) for loss in losses]}
            (folder / "ours.json").write_text(json.dumps(row))
    serve(run, f"jax {jax.__version__}, {os.cpu_count()} CPUs")
