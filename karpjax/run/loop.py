"""The loop: advance, log, evaluate, save. The same for every task, mesh and dispatch.

    summary = fit(config, workdir)

It resumes from the newest checkpoint in workdir, or starts there. A run that is killed at any
moment and started again ends bitwise equal to one that was never stopped: the order of things
below is what makes it so.
"""
from collections.abc import Callable
import contextlib
import json
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from karpjax.core import files, old_names, settings
from karpjax.core.errors import Preempted, UserError
from karpjax.core.state import TrainState, parameter_table
from karpjax.run import compile_cache, distributed, init_from, lock, metrics, pictures, whole_batch
from karpjax.run.cadence import is_due, steps_to_event
from karpjax.run.checkpoint import Checkpoints, absolute
from karpjax.run.chips import check_platform
from karpjax.run.evaluator import Measured, last_tables
from karpjax.run.experiment import Experiment, assemble, check_evaluation
from karpjax.run.in_flight import InFlight
from karpjax.run.input_scale import input_notes
from karpjax.run.meta import LIVE_STATISTICS, evaluated
from karpjax.run.model_card import model_card
from karpjax.run.nonfinite import check_finite
from karpjax.run.profiling import Profile
from karpjax.run.programs import default_dispatch, make_programs, placed_arrays
from karpjax.run.progress import Clock, Progress
from karpjax.run.restore import check_data, check_tokens
from karpjax.run.signals import StopSignal
from karpjax.run.together import together
from karpjax.run.watchdog import COMPILING, Watchdog
from karpjax.run.workdir import (
    check_place, check_same_run, check_unchanged, checkpoint_meta, device, open_workdir,
    saved_config, saved_meta, versions, write_files)
from karpjax.sources.source import SpecOnly


@old_names.old_keywords(record="task_file")
def fit(config: ConfigDict, workdir, *, on_metrics: Callable[[int, dict], None] | None = None,
        task_file: dict | None = None, mesh=None) -> dict:
    """Train to config.steps and return the summary (also WORKDIR/summary.json).

    on_metrics  called with (step, row) for every row of metrics.jsonl: for Weights & Biases, ...
    task_file   {"path", "text"} of the config file, if it also holds the task
    mesh        default: all devices, by config.mesh
    """
    check_platform()  # before anything else asks jax for its devices
    started, workdir = time.perf_counter(), absolute(workdir)
    with together():
        saved, meta = saved_config(workdir), saved_meta(workdir)
    exp = make_experiment(config, task_file, mesh, saved, meta.get("source"))
    with together():
        check_place(workdir, exp.source.files)
    with distributed.ending(), lock.held(workdir, lambda: check_unchanged(workdir, saved)) as held:
        with together():
            open_workdir(workdir, exp, saved)
        return train(exp, workdir, held, on_metrics, started)


def train(exp: Experiment, workdir, held: lock.Lock, on_metrics, started: float) -> dict:
    """Train in a workdir that this run holds, and return the summary."""
    config, source = exp.config, exp.source
    checkpoints = Checkpoints(workdir, config.keep, config.best, config.keep_every)
    state, start = start_or_resume(exp, workdir, checkpoints)
    trainer = Trainer(exp, workdir, held, checkpoints, start, on_metrics, started)
    stop, profile = StopSignal(), Profile(config, workdir)
    trainer.announce(start)
    eval_splits = [split for split in source.splits if split != "test"]
    step = start.step
    try:
        while step < config.steps:
            n = steps_to_event(config, source.steps_per_chunk, trainer.programs.longest, step)
            state = trainer.advance(state, step, n, profile)  # donates the old state
            before, step = step, step + n
            trainer.fetch(state, leave=trainer.in_flight.ahead)
            profile.after(step, state)

            stopping, results = stop.agreed(step), None
            eval_due = is_due(config.eval_every, before, step, config.steps)
            save_due = is_due(config.save_every, before, step, config.steps) or stopping
            if eval_due or save_due:
                trainer.fetch(state)
            if eval_due and eval_splits:
                results = trainer.evaluate(state, step, eval_splits)
                settings.check_best(config.best, results)
            if save_due:
                trainer.save(state, step, results)
            if stopping and step < config.steps:
                checkpoints.wait()
                raise Preempted(f"{workdir} stopped at step {step}; the state is saved, "
                                "start the same command again to go on")
        checkpoints.wait()
        final = trainer.writer.results_at(step, eval_splits)
        if "test" in source.splits:  # at the end, once
            final |= trainer.evaluate(state, step, ["test"])
        final |= trainer.tables(state)
    except BaseException:
        with contextlib.suppress(Exception):  # the error under way is the one to report
            held.check(now=True)
            trainer.writer.flush()
            checkpoints.close()
        raise
    finally:
        stop.restore()
        trainer.watchdog.close()
        trainer.progress.close()
    trainer.writer.close()
    checkpoints.close()
    return finish(trainer, state, step, final, start.resumed)


# --------------------------------------------------------------- what to train, and where it stands

def make_experiment(config, task_file, mesh, saved: dict | None, data: dict | None) -> Experiment:
    """Build the experiment, and refuse all that needs no look at its workdir."""
    if config.debug_nans:
        jax.config.update("jax_debug_nans", True)
    compile_cache.start(config.compile_cache)
    with together():
        exp = assemble(config, task_file, mesh, saved, data)
        if isinstance(exp.source, SpecOnly):
            raise exp.source.error
        check_evaluation(exp)
    source = exp.source
    distributed.check_same({"versions": versions(), "config": exp.config.to_dict(),
                            "data": {"rows": source.num_examples, **source.spec},
                            **distributed.task_and_data(exp.task_file, source)})
    return exp


class Start(NamedTuple):
    """The beginning of a run: step 0, or a checkpoint."""
    step: int
    resumed: bool
    elapsed: dict     # {clock: seconds} of the run before
    rows: dict        # of metrics.jsonl, when the checkpoint was saved: how many, their hash
    notes: list[str]  # lines to show


def start_or_resume(exp: Experiment, workdir, checkpoints) -> tuple[TrainState, Start]:
    """Return the state to go on from, and write config.json and the source's own files.

    Sets config.dispatch: a run keeps its dispatch, because another one rounds differently.
    """
    config = exp.config.to_dict()
    restored = checkpoints.restore(exp.abstract)
    state, start = resume(exp, workdir, *restored) if restored else start_fresh(exp)
    start.notes.extend(whole_batch.check_parts(exp, state))
    with together():
        start.notes.extend([*exp.source.notes(), *input_notes(exp)])
        write_files(workdir, config, exp.source.files)
    return state, start


def start_fresh(exp: Experiment) -> tuple[TrainState, Start]:
    """Initialise the state at step 0, from config.init_from's weights if there are any."""
    config = exp.config
    config.dispatch = config.dispatch or default_dispatch()
    state, notes = exp.fresh_state(), []
    if config.init_from:
        state, notes = init_from.load_weights(config.init_from, state, exp.task, config.init_skip)
    notes += init_from.differences(config)
    return state, Start(0, False, {}, {}, [parameter_table(exp.abstract.params), *notes])


def resume(exp: Experiment, workdir, state, meta: dict) -> tuple[TrainState, Start]:
    """Check that a checkpoint's run can go on as this experiment does."""
    config, step = exp.config, meta["step"]
    check_same_run(meta["config"], config, workdir)
    check_tokens(workdir, meta, exp.source.spec)
    check_data(config, meta, exp.source.spec)
    config.dispatch = meta["dispatch"]
    if step > config.steps:
        raise UserError(f"{workdir} is at step {step} already, beyond config.steps = "
                        f"{config.steps}; use a new --workdir, or config.steps of at least {step}")
    notes = []
    if meta["config"]["steps"] != config.steps:
        notes.append(f"note: config.steps was {meta['config']['steps']}; "
                     "a schedule without a length of its own follows it")
    if evaluated(meta) == ("ema", "model_state") and state.ema_state:
        notes.append(f"note: {LIVE_STATISTICS} at step {step}")
    if meta["task"]["text"] != exp.task_file["text"]:
        notes.append(f"note: the file of the task is not what it was when step {step} was saved; "
                     "going on with today's")
    rows = {"expected": meta.get("rows", 0), "sha256": meta.get("rows_sha256", "")}
    return state, Start(step, True, meta["seconds"], rows, notes)


# ---------------------------------------------------------------------------- the parts of the loop

class Trainer:
    """Programs, files and clocks of one run: what `fit` calls, in the order that it decides."""

    def __init__(self, exp, workdir, held, checkpoints, start: Start, on_metrics, started: float):
        config, source = exp.config, exp.source
        self.exp, self.workdir, self.held, self.checkpoints = exp, workdir, held, checkpoints
        self.on_metrics, self.started, self.elapsed_before = on_metrics, started, start.elapsed
        self.programs = make_programs(exp)
        self.measured = {}  # by split, of its last evaluation
        self.device_data = None if source.streamed else placed_arrays(exp, start.step)
        self.training, self.waiting, self.evaluating = Clock(), Clock(), Clock()
        # Rows after the checkpoint are cut: they are logged again.
        self.writer = metrics.Writer(workdir, upto=start.step if start.resumed else -1,
                                     **start.rows)
        self.progress = Progress(config.steps, start.step, source.examples_per_step,
                                 self.training, self.waiting)
        self.watchdog = Watchdog(workdir, config.hang_timeout,
                                 jax.process_index(), jax.process_count())
        self.in_flight = InFlight(exp.mesh)

    def announce(self, start: Start) -> None:
        """Show what is trained, where, and from which step on."""
        config, mesh = self.exp.config, self.exp.mesh
        self.progress.say("\n".join([
            *start.notes,
            f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}, "
            f"dispatch {config.dispatch}, steps {start.step} to {config.steps}, {self.workdir}"]))

    def elapsed(self) -> dict:
        """Return the seconds by what they were spent on, with those before a resume."""
        now = {"total": time.perf_counter() - self.started, "train": self.training.seconds,
               "compile": self.programs.compiling.seconds, "evaluate": self.evaluating.seconds}
        return {name: round(self.elapsed_before.get(name, 0.0) + value, 3)
                for name, value in now.items()}

    def advance(self, state: TrainState, step: int, n: int, profile: Profile) -> TrainState:
        """Dispatch n steps, donating `state`, and return the state after them."""
        self.held.check()
        with self.training, self.waiting:
            arrays = self.next_arrays(step)
        self.watchdog.beat(f"{COMPILING} {n} steps")
        self.programs.compile(state, arrays, n)
        profile.before(step)
        self.watchdog.beat(f"steps {step} to {step + n}", waited=self.waiting.seconds)
        with self.training:
            state, values, bad = self.programs.run(state, arrays, n)
            self.in_flight.add(step, values, bad)
        return state

    def next_arrays(self, step: int):
        """Return what the next dispatch reads: the data set on the devices, or one batch."""
        return placed_arrays(self.exp, step) if self.exp.source.streamed else self.device_data

    def fetch(self, state: TrainState, leave: int = 0) -> None:
        """Fetch and log metrics until `leave` dispatches are in flight.

        Waits for the device, so its time is the training's. Raises NotFinite on bad numbers.
        """
        with self.training:
            while len(self.in_flight) > leave:
                first, values, bad = self.in_flight.pop()
                self.log_steps(first, values)
                check_finite(self.exp, state, first, values, bad, self.workdir)

    def log_steps(self, first: int, values: dict) -> None:
        """Log the rows that are due among a dispatch's steps, of values {name: (steps,)}."""
        config, steps, rates = self.exp.config, len(values["skipped_in_a_row"]), None
        for i, step in enumerate(range(first + 1, first + 1 + steps)):
            if step % config.log_every and step != config.steps:
                continue
            row = {f"train/{name}": column[i] for name, column in values.items()}
            row["learning_rate"] = self.exp.learning_rate(step - 1 - values["skipped"][i])
            # A dispatch's rows come at once: one rate.
            rates = rates or self.progress.rates(self.in_flight.done(first + steps))
            row |= rates
            self.log(step, row)
            self.progress.show(step, self.writer.latest[-1], self.watchdog.slowest())
            if row["time/data_wait"] > 0.3:
                self.progress.say(f"step {step}: input-bound, {row['time/data_wait']:.0%} of the "
                                  "time waiting for data")

    def log(self, step: int, row: dict) -> None:
        """Write a row to metrics.jsonl, and hand it to on_metrics."""
        self.writer.write({"step": step, **row})
        if self.on_metrics and jax.process_index() == 0:
            self.on_metrics(step, self.writer.latest[-1])

    def evaluate(self, state: TrainState, step: int, splits: list[str]) -> dict:
        """Return and log {"split/metric": value} of these splits."""
        results = {}
        for split in splits:
            measured = self.measure(state, split, at_end=step == self.exp.config.steps)
            results |= {f"{split}/{name}": files.plain(value)
                        for name, value in measured.metrics.items()}
        self.log(step, results)
        shown = [f"{name} {value}" if value is None else f"{name} {value:.4f}"
                 for name, value in results.items()]
        self.progress.say(f"step {step}: {', '.join(shown)}")
        return results

    def measure(self, state: TrainState, split: str, at_end: bool) -> Measured:
        """Evaluate a split, and keep everything that it gives."""
        new = split not in self.measured
        self.watchdog.beat(f"{COMPILING} the " * new + f"evaluation of {split}")
        with self.evaluating:
            self.measured[split] = self.exp.evaluator.measure(
                self.exp.eval_variables(state), split, at_end, self.watchdog.beat)
        return self.measured[split]

    def tables(self, state: TrainState) -> dict:
        """Return the values by class of the split that was evaluated last.

        A run that was at its end already has evaluated none: it evaluates its last split again.
        """
        splits = self.exp.source.splits
        if self.exp.task.summarize and splits and not self.measured:
            self.measure(state, splits[-1], at_end=True)
        return last_tables(self.measured)

    def save(self, state: TrainState, step: int, results: dict | None) -> None:
        """Save a checkpoint and its model card, with the results of an evaluation, if any."""
        self.watchdog.beat(f"save at step {step}")
        self.held.check(now=True)
        self.writer.flush()  # rows first: what a checkpoint claims to have seen must be on disk
        rows = {"rows": self.writer.count, "rows_sha256": self.writer.digest()}
        meta = {**checkpoint_meta(self.exp, self.elapsed()), **rows}
        self.checkpoints.save(step, state, meta, results)
        if jax.process_index() == 0:
            card = model_card(self.exp, step, results, self.workdir.name)
            files.write_whole(self.workdir / "model_card.md", card, durable=False)


# ------------------------------------------------------------------------------------------ the end

def finish(trainer: Trainer, state: TrainState, step: int, final: dict, resumed: bool) -> dict:
    """Write the summary, the curves and what the task shows, and return the summary."""
    exp, workdir, elapsed = trainer.exp, trainer.workdir, trainer.elapsed()
    examples = step * exp.source.examples_per_step
    summary = {
        **final, "steps": step, "skipped": int(state.skipped[0]), "resumed": resumed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(exp.abstract.params)),
        "seconds": elapsed,
        "examples_per_second": round(examples / max(elapsed["train"], 1e-9), 1),
        **trainer.programs.cost(step, elapsed["train"]),
        "versions": versions(), "device": device(exp.mesh)}
    if jax.process_index() == 0:
        files.write_whole(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
        pictures.curves(metrics.read_rows(workdir), workdir / "curves.png")
        pictures.of_evaluation(exp.task, trainer.measured, workdir)
    if exp.task.show and exp.source.splits and jax.process_count() == 1:
        # Last: pictures are the user's code.
        pictures.show(exp.task, exp.eval_variables(state), exp.source.splits[0], workdir)
    return summary
