"""Running tasks on meshes and in processes, and comparing what comes out."""
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

from guarantees.child import main as run_of_a_task
from guarantees.forks import Fork
from guarantees.registry import TASKS, config_of
import jax
import numpy as np

from karpjax.core import sharding
from karpjax.core.trees import path_name
from karpjax.launch.local import free_port
from karpjax.run.experiment import assemble
from karpjax.run.programs import make_programs

ROOT = pathlib.Path(__file__).parent.parent.parent
RTOL, ATOL = 1e-5, 1e-6


def mesh_of(data: int, fsdp: int = 1):
    return sharding.make_mesh(data, fsdp, devices=jax.devices()[:data * fsdp])


FACTOR = "factor"  # an entry of the arrays


def uneven(experiment):
    """Give the examples weights of 0 to 3: a mean of means is then a wrong mean.

    The weights are data, so that G9 can poison them without another program.
    """
    source = experiment.source
    batch, next_batch = source.batch, source.next_batch
    factor = {FACTOR: (np.arange(source.batch_size) % 7 % 4).astype(np.float32)}

    def uneven_batch(arrays, chunk, i):
        rows = batch({name: x for name, x in arrays.items() if name != FACTOR}, chunk, i)
        weight = rows["weight"]
        return {**rows,
                "weight": weight * arrays[FACTOR].reshape(-1, *[1] * (weight.ndim - 1))}
    source.batch = uneven_batch
    source.arrays = {**source.arrays, **factor}
    source.next_batch = lambda *args: {**next_batch(*args), **factor}
    return experiment


class Trained(NamedTuple):
    metrics: dict     # {name: (steps,)}
    state: dict       # {name: array}, all of the TrainState
    flops: float      # of one device, for one step
    experiment: Any
    programs: Any
    last: Any         # the TrainState itself, on the devices


def run(config, task_file, mesh, steps: int = 12, change=lambda experiment: experiment,
        each=lambda step, state: None) -> Trained:
    """Train `steps` steps without the loop.

    each  is called after each dispatch, with a state that the next one donates
    """
    config.dispatch = config.dispatch or "step"
    experiment = change(assemble(config, task_file, mesh))
    programs = make_programs(experiment)
    state, metrics = go_on(experiment, programs, experiment.fresh_state(), 0, steps, each)
    flops = next((p.cost_analysis()["flops"] for p in programs.compiled.values()
                  if hasattr(p, "cost_analysis")), 0.0)
    return Trained(metrics, named(state), flops, experiment, programs, state)


def go_on(experiment, programs, state, step: int, until: int,
          each=lambda step, state: None, change=lambda arrays: arrays):
    """Return the state after the steps from `step` to `until`, and their metrics {name: (steps,)}.

    change  of the arrays that a dispatch reads
    """
    source, mesh, rows = experiment.source, experiment.mesh, []
    placed = None if source.streamed else sharding.put(change(source.arrays),
                                                       sharding.replicated(mesh))
    while step < until:
        arrays = placed
        if source.streamed:
            batch = source.next_batch(step, experiment.config.seed)
            arrays = sharding.put_batch(mesh, change(batch))
        n = min(programs.longest, until - step)
        programs.compile(state, arrays, n)
        state, values, _ = programs.run(state, arrays, n)
        rows.append(jax.device_get(values))  # waits: see run/in_flight.py on devices of the CPU
        step += n
        each(step, state)
    return state, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def on_eight(name: str) -> Trained:
    """Return 12 steps of a task on 8 devices, 2 x 4 with fsdp, with uneven weights."""
    return run(*config_of(name), mesh_of(2, 4), change=uneven)


@functools.cache
def _reference(name: str, exact: bool) -> Trained:
    return run(*config_of(name, exact=exact), mesh_of(1), change=uneven)


def reference(name: str, exact: bool = False) -> Trained:
    """Return the run on one device that G1, G4 and G5 compare with: 12 steps, uneven weights.

    exact  without what a task cannot keep over micro-batches or devices: see the registry's `exact`
    """
    return _reference(name, exact and TASKS[name].exact != {})


def named(state) -> dict:
    def data(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return {path_name(path): data(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def differences(a: dict, b: dict, rtol=RTOL, atol=ATOL) -> list[str]:
    """Names that differ beyond the tolerance, with by how much."""
    assert set(a) == set(b)
    def distance(name):
        return np.abs(np.asarray(a[name], np.float64) - np.asarray(b[name], np.float64)).max()
    return [f"{name}: {distance(name):.3g}"
            for name in a if not np.allclose(a[name], b[name], rtol=rtol, atol=atol,
                                             equal_nan=True)]


def child(name: str, workdir, *flags: str, env: dict | None = None) -> Fork:
    """Start tests/guarantees/child.py: a run of a registered task in a process of its own."""
    return Fork(run_of_a_task, [f"--task={name}", f"--workdir={workdir}", *flags],
                {**os.environ, "JAX_PLATFORMS": "cpu", **(env or {})})


def children(name: str, workdir, processes: int, *flags: str, devices: int = 1, **options) -> list:
    """Start the processes of one run, each of `devices` simulated devices."""
    flags = (f"--devices={devices}", f"--coordinator=localhost:{free_port()}",
             f"--processes={processes}", *flags)
    return [child(name, workdir, *flags, f"--process={i}", **options) for i in range(processes)]


def finished(process: Fork, code: int = 0, timeout: int = 600) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, \
        f"exit code {process.returncode}, expected {code}:\n{output[-3000:]}"
    return output


def record_of(workdir) -> tuple[list, dict]:
    """Return what must be bitwise equal: the logged rows without times, and the checksums."""
    from karpjax.run import checkpoint, metrics
    lines = (pathlib.Path(workdir) / metrics.NAME).read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
            for line in lines]
    return rows, checkpoint.read_meta(checkpoint.find(workdir))["fingerprint"]


def kept_in(workdir) -> list[int]:
    """Return the steps whose checkpoints are there: a kill must not change them."""
    return sorted(int(path.name) for path in (pathlib.Path(workdir) / "checkpoints").iterdir())
