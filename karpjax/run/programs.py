"""How steps become compiled programs: many in a scan, one at a time, or split for pmap.

    scan   up to config.steps_per_dispatch steps, with the source that feeds them, are one program:
           for accelerators, where a Python call between steps costs more than the step, and for
           networks without convolutions on the CPU
    step   one step a program. The CPU's default: a convolution inside a loop is 7-20x slower there
           (jax-ml/jax#12868)
    pmap   config.parallel = "pmap": one program makes the batch, the step runs under jax.pmap

They compute the same, but round differently, so a run keeps the dispatch it began with.
"""
import functools

import jax
import jax.numpy as jnp

from karpjax.core import sharding
from karpjax.core.errors import NotFinite, UserError
from karpjax.core.step import PRECISIONS, make_train_step, scan
from karpjax.core.trees import cast_floating, where
from karpjax.run.cadence import steps_to_event
from karpjax.run.chips import PEAK_FLOPS
from karpjax.run.own_code import own_code
from karpjax.run.progress import Clock


def default_dispatch() -> str:
    """Return the dispatch of a config that names none."""
    return "step" if jax.default_backend() == "cpu" else "scan"


def make_programs(exp) -> "Programs":
    """Return the programs of an Experiment, by its config.parallel and config.dispatch."""
    pmapped = exp.config.parallel == "pmap"
    # Convolutions must not stand in a loop over the chunk, and pmap's step is given its batch.
    if pmapped or (exp.config.dispatch == "step" and exp.source.steps_per_chunk > 1):
        return SplitPrograms(exp, pmapped)
    return WholePrograms(exp)


# -------------------------------------------------------------------------- the pure functions

def acting_variables(state, mesh=None, precision: str = "fp32") -> dict:
    """Return the variables that a rollout acts with: gathered, in the precision of the loss.

    In another precision than the loss, its ratios would not start at 1.
    """
    params = state.params
    if mesh is not None and mesh.shape["fsdp"] > 1:
        params = sharding.constrain(params, sharding.replicated(mesh))
    return {**state.variables, "params": cast_floating(params, PRECISIONS[precision])}


def make_program(source, train_step, *, steps: int, mesh=None, precision: str = "fp32"):
    """Return (state, arrays) -> (state, metrics, bad): `steps` steps with their source, pure.

    steps    a multiple of source.steps_per_chunk; 1 leaves no loop in the program
    metrics  the step's, stacked: each (steps,)
    bad      the last batch that was not finite (zeros when all were), for replay
    """
    chunk_steps = source.steps_per_chunk
    if steps % chunk_steps:
        raise UserError(f"a program of {steps} steps: expected a multiple of the source's chunk, "
                        f"{chunk_steps}")

    def advance(arrays, state):
        return source.advance(arrays, state.source, acting_variables(state, mesh, precision))

    def one_chunk(arrays, carry):
        state, bad = carry
        source_state, chunk = advance(arrays, state)

        def batch(i):
            return sharding.constrain_batch(mesh, source.batch(arrays, chunk, i))

        def one_step(state, i):
            return train_step(state, batch(i))

        state = state.replace(source=source_state)
        state, values = scan(one_step, state, chunk_steps, unroll=False)
        # Made again once a chunk, not kept in each step: small steps would feel that.
        wrong = values["skipped_in_a_row"] > 0                                            # (chunk,)
        last = chunk_steps - 1 - jnp.argmax(wrong[::-1]) if chunk_steps > 1 else jnp.int32(0)
        return (state, where(wrong.any(), batch(last), bad)), values

    def program(state, arrays):
        like = jax.eval_shape(lambda: source.batch(arrays, advance(arrays, state)[1], jnp.int32(0)))
        bad = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        (state, bad), values = scan(lambda carry, _: one_chunk(arrays, carry), (state, bad),
                                    steps // chunk_steps, unroll=False)
        values = jax.tree.map(lambda x: x.reshape(steps), values)
        return state, values, sharding.constrain_batch(mesh, bad)

    return program


# ------------------------------------------------------------------------ the compiled programs

class Programs:
    """The compiled programs of a run: subclasses make a dispatch of n steps of them.

        programs.compile(state, arrays, n)                      # if it is not compiled yet
        state, metrics, bad = programs.run(state, arrays, n)    # as make_program's

    n          steps: a multiple of the source's chunk, at most `longest`
    compiled   the programs so far
    compiling  a clock of the seconds spent compiling
    """
    longest: int

    def __init__(self, exp):
        self.exp, self.compiled, self.compiling = exp, {}, Clock()

    def compile(self, state, arrays, n: int) -> None:
        """Compile what a dispatch of n steps needs, if it is not there yet."""
        raise NotImplementedError

    def run(self, state, arrays, n: int):
        """Return (state, metrics, bad) after n steps."""
        raise NotImplementedError

    def cost(self, steps: int, seconds: float) -> dict:
        """Return {"flops_per_step"}, with "mfu" if the device's peak is known, or {}."""
        try:
            flops = self.flops_per_step()
        # At the end of a run that must not lose its summary for a count that backends may refuse.
        except Exception as error:
            print(f"FLOPs were not counted: {type(error).__name__}: {str(error)[:200]}")
            flops = 0
        if not flops:
            return {}
        mesh = self.exp.mesh
        peak = PEAK_FLOPS.get(mesh.devices.flat[0].device_kind)
        if not peak or not seconds:
            return {"flops_per_step": flops}
        mfu = flops * steps / seconds / (peak * mesh.size)
        return {"flops_per_step": flops, "mfu": round(mfu, 4)}

    def flops_per_step(self) -> float:
        """Return the FLOPs of one step on all devices by XLA's count, 0 if not counted.

        XLA counts a loop's body once, so a program of many steps counts as one, with its share of
        the source. A loop of micro-batches would count as one of them, and what a GPU's libraries
        compute as nothing: there the step is counted on its own, before it is compiled.
        """
        exp = self.exp
        if exp.config.accumulate > 1 or exp.mesh.devices.flat[0].platform == "gpu":
            return step_flops(exp)
        compiled = self.compiled or self.first()
        program = next((p for p in compiled.values() if hasattr(p, "cost_analysis")), None)
        return (program.cost_analysis() or {}).get("flops", 0) * exp.mesh.size if program else 0

    def first(self) -> dict:
        """Return the program of a run's first dispatch, {} if its FLOPs are not counted.

        A run that was at its end already, as after a kill behind its last save, has compiled none.
        """
        return {}


class WholePrograms(Programs):
    """A dispatch is one program: the source and all its steps, a scan of them or a single one."""

    def __init__(self, exp):
        super().__init__(exp)
        config, chunk = exp.config, exp.source.steps_per_chunk
        # A streamed source hands over one batch a dispatch: a longer program would repeat it.
        one_chunk = config.dispatch == "step" or exp.source.streamed
        self.longest = chunk if one_chunk else -(-config.steps_per_dispatch // chunk) * chunk

    def compile(self, state, arrays, n: int) -> None:
        """Compile the program of n steps, if it is not there yet."""
        if n in self.compiled:
            return
        with self.compiling, own_code("a training step"):
            if self.exp.config.debug_nans:
                # Without donation: jax runs it again on the same arguments, operation by operation.
                self.compiled[n] = own_code("a step", NotFinite)(jax.jit(self.program(n)))
            else:
                self.compiled[n] = self.lower(state, arrays, n).compile()

    def first(self) -> dict:
        """Return the program of a run's first dispatch, {} if its FLOPs are not counted."""
        if self.exp.config.debug_nans:
            return {}
        n = steps_to_event(self.exp.config, self.exp.source.steps_per_chunk, self.longest, step=0)
        return {n: self.lower(self.exp.abstract, abstract_arrays(self.exp), n).compile()}

    def run(self, state, arrays, n: int):
        """Return (state, metrics, bad) after n steps, donating the state."""
        return self.compiled[n](state, arrays)

    def lower(self, state, arrays, n: int):
        """Return the program of n steps, lowered, for a state that may be abstract."""
        jitted = jax.jit(self.program(n), donate_argnums=0,
                         out_shardings=(self.exp.shardings, None, None))
        return jitted.lower(state, arrays)

    def program(self, n: int):
        """Return the function of n steps."""
        exp = self.exp
        return make_program(exp.source, exp.train_step(), steps=n, mesh=exp.mesh,
                            precision=exp.config.precision)


class SplitPrograms(Programs):
    """A dispatch is one chunk, by three programs that Python calls: advance, batch and step.

    pmapped  whether the step runs under jax.pmap; else it is jitted, as dispatch="step" has it
    """

    def __init__(self, exp, pmapped: bool):
        super().__init__(exp)
        self.pmapped, self.longest = pmapped, exp.source.steps_per_chunk

    def compile(self, state, arrays, n: int) -> None:
        """Make the three jitted functions, which are compiled as they are first called."""
        if not self.compiled:
            with self.compiling:
                step = self.pmapped_step() if self.pmapped else self.jitted_step()
                self.compiled = {"advance": self.advance(), "batch": self.batch(), "step": step}

    def run(self, state, arrays, n: int):
        """Return (state, metrics, bad) after n steps, the whole chunk."""
        state, chunk = self.compiled["advance"](state, arrays)
        rows, bad = [], None
        for i in range(n):
            batch = self.compiled["batch"](arrays, chunk, i)
            state, values = self.compiled["step"](state, batch)
            # Queued collective programs starve each other of threads on the CPU: see in_flight.py.
            if self.exp.mesh.size > 1 and jax.default_backend() == "cpu":
                jax.block_until_ready(state)
            bad = jax.tree.map(jnp.zeros_like, batch) if bad is None else bad
            bad = where(values["skipped_in_a_row"] > 0, batch, bad)
            rows.append(values)
        if self.pmapped:  # (devices, rows, ...) -> (B, ...)
            bad = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), bad)
        return state, jax.tree.map(lambda *x: jnp.stack(x), *rows), bad

    def advance(self):
        """Return (state, arrays) -> (state, chunk)."""
        source, mesh, precision = self.exp.source, self.exp.mesh, self.exp.config.precision

        @functools.partial(jax.jit, out_shardings=(self.exp.shardings, None))
        def advance(state, arrays):
            variables = acting_variables(state, mesh, precision)
            source_state, chunk = source.advance(arrays, state.source, variables)
            return state.replace(source=source_state), chunk

        return advance

    def batch(self):
        """Return (arrays, chunk, i) -> batch, for pmap with an axis of the devices in front."""
        source, mesh = self.exp.source, self.exp.mesh

        def by_device(x):
            return x.reshape(mesh.size, -1, *x.shape[1:]) if self.pmapped else x

        @jax.jit
        def batch(arrays, chunk, i):
            rows = sharding.constrain_batch(mesh, source.batch(arrays, chunk, i))
            return jax.tree.map(by_device, rows)

        return batch

    def jitted_step(self):
        """Return (state, batch) -> (state, metrics), which donates the state."""
        return jax.jit(self.exp.train_step(), donate_argnums=0,
                       out_shardings=(self.exp.shardings, None))

    def pmapped_step(self):
        """Return the same under jax.pmap, for a batch with an axis of the devices in front."""
        mapped = jax.pmap(self.exp.train_step(axis_name="devices"), axis_name="devices",
                          in_axes=(None, 0), out_axes=None,
                          devices=list(self.exp.mesh.devices.flat))

        def step(state, batch):
            # The source's state stays outside: environments may be sharded, pmap's is replicated.
            new, values = mapped(state.replace(source={}), batch)
            return new.replace(source=state.source), values

        return step


def placed_arrays(exp, step: int):
    """Return what the dispatch after `step` steps reads: the data set, or the batch it streams."""
    if exp.source.streamed:
        return sharding.put_batch(exp.mesh, exp.source.next_batch(step, exp.config.seed))
    return sharding.put(exp.source.arrays, sharding.replicated(exp.mesh))


def abstract_arrays(exp):
    """Return the shapes of what a dispatch reads, placed as `placed_arrays` does."""
    mesh = exp.mesh
    place = sharding.batch_sharding(mesh) if exp.source.streamed else sharding.replicated(mesh)
    shapes = jax.eval_shape(lambda arrays: arrays, exp.source.arrays)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)


# ----------------------------------------------------------------------------- counting FLOPs

def step_flops(exp) -> float:
    """Return the FLOPs of one step on the whole batch, without its source, 0 if not counted.

    They are XLA's count. It counts a loop's body once, so the step that is counted has no loop of
    steps or micro-batches. It is lowered for the CPU and never compiled: plugins (CUDA, TPU) count
    none before compilation.
    """
    def batch(state, arrays):
        _, chunk = exp.source.advance(arrays, state.source, state.variables)
        return exp.source.batch(arrays, chunk, 0)

    # Without the shardings of a slice that is not here.
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), exp.abstract)
    step = make_train_step(exp.task.loss, exp.optimizer, ema_decay=exp.config.ema_decay,
                           precision=exp.config.precision,
                           frozen=exp.config.optimizer.get("freeze", ()))
    cpu = sharding.host_device()
    if cpu is None:
        return 0.0
    with jax.default_device(cpu):
        rows = jax.eval_shape(batch, state, exp.source.arrays)
        costs = jax.jit(step).lower(state, rows).cost_analysis()
    return (costs or {}).get("flops", 0.0)
