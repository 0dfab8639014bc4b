"""The shared step's overhead: the digits CNN's step by karpjax against the same step by hand, in
pairs, on one device.

    python -m experiments.overhead.run                     # a minute; adds a run to results.jsonl
    python -m experiments.overhead.run --control           # by hand against itself: the noise
    python -m experiments.overhead.run --quick --log=FILE  # seconds, to see that it works

Both steps get the same batch, donate their state and are dispatched from Python. A pair is a block
of steps of each, the order turned round every time, so that a machine that slows down slows both.
The ratio is taken within the pair. Beside the time on the wall stands this process's processor
time, all threads together: other people's work disturbs it less. --control writes control.jsonl.
Times of --quick mean nothing.
"""
import datetime
import json
import os
import pathlib
import statistics
import time

import jax

from experiments.overhead import bare
from karpjax.core import sharding
from karpjax.core.task_file import module_from_text
from karpjax.run import cli
from karpjax.run.experiment import assemble
from karpjax.run.workdir import device, versions

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "digits_cnn.py"


def programs(control: bool) -> tuple:
    """Return {name: (compiled step, state)} of both, or of the step by hand twice, a batch for
    them, and its mesh."""
    config = module_from_text(str(CONFIG), CONFIG.read_text()).get_config()
    exp = assemble(config, mesh=sharding.make_mesh(1, 1, devices=jax.devices()[:1]))
    state = exp.fresh_state()

    def first(arrays, state):
        chunk = exp.source.advance(arrays, state.source, state.variables)[1]
        return exp.source.batch(arrays, chunk, 0)

    def by_hand():
        return bare.train_step, jax.jit(bare.init)(jax.random.key(config.seed))

    def compiled(step, state):
        return jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    batch = jax.jit(first)(exp.source.arrays, state)
    state = state.replace(source={})  # data comes from outside, as it does for the step by hand
    both = {"karpjax": by_hand() if control else (exp.train_step(), state), "bare": by_hand()}
    running = {name: (compiled(step, state), state) for name, (step, state) in both.items()}
    return running, batch, exp.mesh


def timed(step, state, batch, steps: int) -> tuple:
    """Return ([wall, processor] milliseconds a step over a block of steps, state)."""
    started = time.perf_counter(), time.process_time()
    for _ in range(steps):
        state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    ended = time.perf_counter(), time.process_time()
    milliseconds = [round(1000 * (end - start) / steps, 4)
                    for start, end in zip(started, ended, strict=True)]
    return milliseconds, state


def compared(rows: list[dict], clock: int) -> dict | None:
    """Return medians of each and of the ratio within a pair, with its quartiles.

    Clock 0: wall, 1: processor (None: not taken).
    """
    def of(name):
        return [row[name][clock] for row in rows if row[name][clock] is not None]
    ratios = [a / b for a, b in zip(of("karpjax"), of("bare"), strict=True)]
    if not ratios:
        return None
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"karpjax_ms": round(statistics.median(of("karpjax")), 2),
            "bare_ms": round(statistics.median(of("bare")), 2),
            "ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def table(rows: list[dict]) -> str:
    """Return the runs of a log as Markdown, and all their pairs together."""
    pairs = [row for row in rows if "pair" in row]

    def cell(c):
        text = "{karpjax_ms} | {bare_ms} | {ratio} ({quartiles[0]} to {quartiles[1]})"
        return text.format(**c) if c else "| |"

    def line(name, own, load):
        cells = " | ".join(cell(compared(own, clock)) for clock in (0, 1))
        return f"| {name} | {len(own)} | {cells} | {load} |"
    runs = [line(row["run"], [pair for pair in pairs if pair["run"] == row["run"]],
                 row["load"] or "")
            for row in rows if "pairs" in row]
    return "\n".join([*runs, line("all", pairs, "")])


def main(argv) -> int:
    options = cli.parse(argv, __doc__, quick=False, control=False, log="")
    log = pathlib.Path(options.log
                       or HERE / ("control.jsonl" if options.control else "results.jsonl"))
    pairs, steps = (2, 2) if options.quick else (60, 30)
    running, batch, mesh = programs(options.control)
    run = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows, states = [], {}
    for name, (step, state) in running.items():  # the first steps also pay for memory: not counted
        _, states[name] = timed(step, state, batch, steps)
    for pair in range(pairs):
        order = ("bare", "karpjax") if pair % 2 else ("karpjax", "bare")
        row = {"run": run, "pair": pair, "first": order[0]}
        for name in order:
            row[name], states[name] = timed(running[name][0], states[name], batch, steps)
        rows.append(row)
    summary = {"run": run, "pairs": pairs, "steps_a_block": steps, "batch": batch["label"].shape[0],
               "wall": compared(rows, 0), "processor": compared(rows, 1),
               "load": round(os.getloadavg()[0], 1),
               "device": device(mesh), "versions": versions()}
    with log.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*rows, summary])
    print(table([json.loads(line) for line in log.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    cli.run(main)
