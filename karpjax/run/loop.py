"""The loop: dispatch, log, evaluate, save. The same for every task, mesh and dispatch.

`fit(config, workdir)` goes on from the newest checkpoint in workdir, or starts there. A run that is killed at any moment and
started again ends bitwise equal to one that was never stopped; the order of things below is what makes it so.
"""
import collections
from collections.abc import Callable
import contextlib
import json
import signal
import time

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from karpjax.core import files, old_names, settings, sharding
from karpjax.core.errors import NotFinite, Preempted, UserError
from karpjax.core.state import parameter_table
from karpjax.core.trees import path_name
from karpjax.run import compile_cache, distributed, init_from, metrics, pictures
from karpjax.run.checkpoint import FOLDER, Checkpoints, absolute, steps_of
from karpjax.run.evaluator import last_tables, make_evaluator
from karpjax.run.experiment import assemble
from karpjax.run.model_card import model_card
from karpjax.run.programs import Programs, default_dispatch
from karpjax.run.progress import Clock, Progress
from karpjax.run.restore import check_pictures, check_tokens
from karpjax.run.watchdog import Watchdog
from karpjax.run.workdir import checkpoint_meta, open_workdir, device, saved_config, versions
from karpjax.sources.source import SpecOnly


@old_names.old_keywords(record="task_file")
def fit(config: ConfigDict, workdir, *, on_metrics: Callable[[int, dict], None] | None = None,
          task_file: dict | None = None, mesh=None) -> dict:
    """Train to config.steps and return the summary (also WORKDIR/summary.json).

    on_metrics  called with (step, row) for every row of metrics.jsonl: for Weights & Biases and the like
    record      {"path", "text"} of the config file, when it also holds the task
    mesh        default: all devices, by config.mesh
    """
    started = time.perf_counter()
    if config.debug_nans:
        jax.config.update("jax_debug_nans", True)
    compile_cache.start(config.compile_cache)

    # ------------------------------------------------------------------- what to train, and where it stands
    saved = saved_config(workdir)
    exp = assemble(config, task_file, mesh, saved)
    config, source, mesh = exp.config, exp.source, exp.mesh
    distributed.check_same({"versions": versions(), "config": config.to_dict(), "data": {"rows": source.num_examples, **source.spec}})
    if isinstance(source, SpecOnly):
        raise source.error
    if not steps_of(absolute(workdir) / FOLDER):
        metrics.check_not_lost(absolute(workdir), (saved or {}).get("save_every", config.save_every), source.steps_per_chunk)
    workdir = open_workdir(workdir, exp, saved)
    saves = Checkpoints(workdir, config.keep, config.best, config.keep_every)
    restored = saves.restore(exp.abstract)
    if restored:
        state, meta = restored
        check_tokens(workdir, meta, source.spec)
        check_pictures(config, meta, source.spec)
        step, spent, config.dispatch = meta["step"], meta["seconds"], meta["dispatch"]  # a run keeps its dispatch
        if step > config.steps:
            raise UserError(f"{workdir} is at step {step} already, beyond config.steps = {config.steps}; use a new --workdir, "
                            f"or config.steps of at least {step}")
    else:
        config.dispatch = config.dispatch or default_dispatch()
        step, spent, state, said = 0, {}, exp.fresh_state(), []
        if config.init_from:
            state, said = init_from.load_weights(config.init_from, state, exp.task, config.init_skip)
            said += init_from.differences(config)
    for name, text in source.files.items() if jax.process_index() == 0 else ():
        files.write_whole(workdir / name, text)

    # ------------------------------------------------------------------- programs, metrics, clocks
    programs = Programs(exp)
    evaluate = make_evaluator(exp.task, mesh, config.precision)
    placed = None if source.streamed else sharding.put(source.arrays, sharding.replicated(mesh))
    feed = lambda step: sharding.put_batch(mesh, source.next_batch(step, config.seed)) if source.streamed else placed
    training, waiting, evaluating = Clock(), Clock(), Clock()
    measured = {}  # by split, of its last evaluation
    writer = metrics.Writer(workdir, upto=step if restored else -1, expected=meta.get("rows", 0) if restored else 0)
    progress = Progress(config.steps, step, source.examples_per_step, training, waiting)
    stop, watch = StopSignal(), Watchdog(workdir, config.hang_timeout, jax.process_index(), jax.process_count())
    if restored and meta["config"]["steps"] != config.steps:
        progress.say(f"note: config.steps was {meta['config']['steps']}; a schedule without a length of its own follows it")
    if not restored:
        progress.say("\n".join([parameter_table(exp.abstract.params), *said]))
    elif meta["task"]["text"] != exp.task_file["text"]:
        progress.say(f"note: the file of the task is not what it was when step {step} was saved; going on with today's")
    progress.say(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}, dispatch {config.dispatch}, "
                 f"steps {step} to {config.steps}, {workdir}")

    def log(step: int, row: dict) -> None:
        writer.write({"step": step, **row})
        if on_metrics and jax.process_index() == 0:
            on_metrics(step, writer.rows[-1])

    def seconds() -> dict:
        now = {"total": time.perf_counter() - started, "train": training.seconds, "compile": programs.compiling.seconds,
               "evaluate": evaluating.seconds}
        return {name: round(spent.get(name, 0.0) + value, 3) for name, value in now.items()}

    # ------------------------------------------------------------------- the parts of the loop
    # Dispatches run ahead of the host by two. Not with several devices on the CPU: collective programs that are
    # dispatched without waiting starve each other of threads there, and the process aborts.
    ahead = 0 if jax.default_backend() == "cpu" and mesh.size > 1 else 2
    in_flight = collections.deque()  # (first step, metrics, bad batch)

    def done(fetched: int) -> int:
        """Steps that are done, those not fetched among them: on the CPU a fetch may end only when all in flight are."""
        flags = [(first, values["skipped_in_a_row"]) for first, values, _ in in_flight]
        return max([fetched, *(first + len(each) for first, each in flags if each.is_ready())])

    def read(leave: int = 0) -> None:
        """Fetch metrics until `leave` dispatches are in flight: waits for the device; bad numbers are noticed here."""
        while len(in_flight) > leave:
            first, values, bad = in_flight.popleft()
            values = jax.device_get(values)
            in_a_row, rates = values["skipped_in_a_row"], None
            for i, now in enumerate(range(first + 1, first + 1 + len(in_a_row))):
                if now % config.log_every == 0 or now == config.steps:
                    row = {f"train/{name}": column[i] for name, column in values.items()}
                    row["learning_rate"] = float(exp.schedule(now - 1 - values["skipped"][i]))
                    rates = rates or progress.rates(done(first + len(in_a_row)))  # a dispatch's rows come at once: one rate
                    row |= rates
                    log(now, row)
                    progress.show(now, writer.rows[-1], watch.slowest())
                    if row["time/data_wait"] > 0.3:
                        progress.say(f"step {now}: input-bound, {row['time/data_wait']:.0%} of the time waiting for data")
            if in_a_row.any():
                save_bad_batch(workdir, first + 1 + int(np.flatnonzero(in_a_row)[-1]), bad)
            if in_a_row.max() >= config.nonfinite_limit:
                now = first + 1 + int(np.argmax(in_a_row >= config.nonfinite_limit))
                raise NotFinite(
                    f"step {now}: the loss, its gradient or the model state was not finite, {config.nonfinite_limit} time(s) "
                    f"in a row; these steps were skipped, their last batch is in {workdir / 'nonfinite'}; try a lower "
                    "learning rate or config.optimizer.clip, or find the operation with config.debug_nans")

    def evaluated(splits) -> dict:
        watch.beat(f"{'' if evaluating.seconds else 'compiling the '}evaluation at step {step}")
        with evaluating:
            for split in splits:
                measured[split] = evaluate.measure(exp.eval_variables(state), split, at_end=step == config.steps)
            found = {f"{split}/{name}": files.plain(value) for split in splits
                     for name, value in measured[split].metrics.items()}
        log(step, found)
        progress.say(f"step {step}: " + ", ".join(f"{name} {value}" if value is None else f"{name} {value:.4f}"
                                                  for name, value in found.items()))
        return found

    def save(found: dict | None) -> None:
        watch.beat(f"save at step {step}")
        writer.flush()  # rows first: what a checkpoint claims to have seen must be on disk
        saves.save(step, state, {**checkpoint_meta(exp, seconds()), "rows": len(writer.rows)}, found)
        if jax.process_index() == 0:
            files.write_whole(workdir / "model_card.md", model_card(exp, step, found, workdir.name))

    # ------------------------------------------------------------------- the loop
    while_training = [split for split in source.splits if split != "test"]
    profile = Profile(config, workdir)
    try:
        while step < config.steps:
            before, n = step, steps_to_event(config, source.steps_per_chunk, programs.longest, step)
            with training, waiting:
                arrays = feed(step)
            watch.beat(f"compiling {n} steps")
            programs.compile(state, arrays, n)
            profile.before(step)
            watch.beat(f"steps {before} to {before + n}", waited=waiting.seconds)
            with training:
                state, values, bad = programs.run(state, arrays, n)  # donates the old state
                in_flight.append((before, values, bad))
                step += n
                read(leave=ahead)
            profile.after(step, state)

            due = lambda every: step // every > before // every or step == config.steps
            stopping, found = stop.agreed(step), None
            if due(config.eval_every) or due(config.save_every) or stopping:
                with training:
                    read()
            if due(config.eval_every) and while_training:
                found = evaluated(while_training)
                settings.check_best(config.best, found)
            if due(config.save_every) or stopping:
                save(found)
            if stopping and step < config.steps:
                saves.wait()
                raise Preempted(f"{workdir} stopped at step {step}; the state is saved, start the same command again to go on")
        saves.wait()
        final = {name: value for row in writer.rows if row["step"] == step for name, value in row.items()
                 if name.split("/")[0] in while_training}
        if "test" in source.splits:  # at the end, once
            final |= evaluated(["test"])
        elif exp.task.summarize and source.splits and not measured:  # at its end already: once more, for tables and pictures
            measured[source.splits[-1]] = evaluate.measure(exp.eval_variables(state), source.splits[-1], at_end=True)
        final |= last_tables(measured)
    except BaseException:
        with contextlib.suppress(Exception):  # the error under way is the one to pictures
            writer.flush()
            saves.close()
        raise
    finally:
        stop.restore()
        watch.close()
        progress.close()

    # ------------------------------------------------------------------- the end: the summary
    writer.close()
    saves.close()
    summary = {**final, "steps": step, "skipped": int(state.skipped[0]), "resumed": bool(restored),
               "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(exp.abstract.params)),
               "seconds": seconds(),
               "examples_per_second": round(step * source.examples_per_step / max(seconds()["train"], 1e-9), 1),
               **programs.cost(step, seconds()["train"]), "versions": versions(), "device": device(mesh)}
    if jax.process_index() == 0:
        files.write_whole(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
        pictures.curves(writer.rows, workdir / "curves.png")
        pictures.of_evaluation(exp.task, measured, workdir)
    if exp.task.show and source.splits and jax.process_count() == 1:  # last: pictures are the user's code
        pictures.show(exp.task, exp.eval_variables(state), source.splits[0], workdir)
    return summary


# ------------------------------------------------------------------------------------------------------- small parts

def steps_to_event(config, chunk: int, longest: int, step: int) -> int:
    """The length of the next dispatch: up to the next evaluation, save or end, in whole chunks, at most `longest`.

    It depends on nothing but the step, so a resumed run cuts the steps as the run that was never stopped would have.
    """
    events = [(step // every + 1) * every for every in (config.eval_every, config.save_every)]
    if config.profile_at > step:
        events.append(config.profile_at)
    distance = min(min(events), config.steps) - step
    return min(-(-distance // chunk) * chunk, longest)


def save_bad_batch(workdir, step: int, bad) -> None:
    """WORKDIR/nonfinite/step_S.npz: the rows of the batch on this process, by name, as the loss saw them."""
    folder = workdir / "nonfinite"
    folder.mkdir(parents=True, exist_ok=True)
    local = lambda x: np.concatenate([np.asarray(s.data) for s in sorted(x.addressable_shards, key=lambda s: s.index[0].start
                                                                         or 0) if s.replica_id == 0])
    suffix = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    with (folder / f"step_{step}{suffix}.npz").open("wb") as file:
        np.savez(file, **{path_name(path): local(leaf) for path, leaf in jax.tree.leaves_with_path(bad)})


class StopSignal:
    """SIGTERM, agreed on by all processes at one step; in a single process also Ctrl-C. A second signal ends it at once."""

    def __init__(self):
        self.received = False
        self.alone = jax.process_count() == 1  # with several processes jax's own service listens and agrees
        self.before = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)} if self.alone else {}

    def _receive(self, number, frame):
        self.received = True
        self.restore()

    def agreed(self, step: int) -> bool:
        return self.received if self.alone else multihost_utils.reached_preemption_sync_point(step)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class Profile:
    """A profiler trace of config.profile_steps steps from config.profile_at on, in WORKDIR/profile (TensorBoard, Perfetto)."""

    def __init__(self, config, workdir):
        self.start, self.stop = config.profile_at, min(config.profile_at + config.profile_steps, config.steps)
        self.folder, self.running = workdir / "profile", False

    def before(self, step: int) -> None:
        if self.start and self.start <= step < self.stop and not self.running:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, state) -> None:
        if self.running and step >= self.stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.running = False
