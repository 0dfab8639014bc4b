"""How steps become compiled programs: many in a scan, one at a time, or split for pmap.

    scan   up to config.steps_per_dispatch steps, with the source that feeds them, are one program: for accelerators, where
           a Python call between steps costs more than the step, and for convolution-free networks on the CPU
    step   one step a program. The CPU's default: a convolution inside a loop is 7-20x slower there (jax-ml/jax#12868)
    pmap   config.parallel = "pmap": the batch is made by one program, the step runs under jax.pmap

They compute the same, but round differently, so a run keeps the dispatch it began with.
"""
import functools

import jax
import jax.numpy as jnp

from karpjax.core import sharding
from karpjax.core.errors import UserError
from karpjax.core.step import PRECISIONS, make_train_step, scan
from karpjax.core.trees import cast_floating, where
from karpjax.run.chips import PEAK_FLOPS
from karpjax.run.progress import Clock


def default_dispatch() -> str:
    return "step" if jax.default_backend() == "cpu" else "scan"


def acting_variables(state, mesh=None, precision: str = "fp32") -> dict:
    """What a rollout acts with: parameters in the precision of the loss, or its ratios would start off 1, and whole."""
    params = state.params
    if mesh is not None and mesh.shape["fsdp"] > 1:
        params = sharding.constrain(params, sharding.replicated(mesh))
    return {**state.variables, "params": cast_floating(params, PRECISIONS[precision])}


def make_program(source, train_step, *, steps: int, mesh=None, precision: str = "fp32"):
    """(state, arrays) -> (state, metrics, bad): `steps` steps, and the source that feeds them, as one pure function.

    steps    a multiple of source.steps_per_chunk; 1 leaves no loop in the program
    metrics  the step's, stacked: each (steps,)
    bad      the last batch that was not finite (zeros when all were), for replay
    """
    if steps % source.steps_per_chunk:
        raise UserError(f"a program of {steps} steps: expected a multiple of the source's chunk, {source.steps_per_chunk}")

    def program(state, arrays):
        begin = lambda state: source.advance(arrays, state.source, acting_variables(state, mesh, precision))
        like = jax.eval_shape(lambda: source.batch(arrays, begin(state)[1], jnp.int32(0)))
        bad = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

        def one_chunk(carry, _):
            state, bad = carry
            source_state, chunk = begin(state)
            batch = lambda i: sharding.constrain_batch(mesh, source.batch(arrays, chunk, i))
            state, values = scan(lambda state, i: train_step(state, batch(i)), state.replace(source=source_state),
                                 source.steps_per_chunk, unroll=False)
            # Made again once a chunk, not kept in each step: small steps would feel that.
            wrong = values["skipped_in_a_row"] > 0                                              # (chunk,)
            last = source.steps_per_chunk - 1 - jnp.argmax(wrong[::-1]) if source.steps_per_chunk > 1 else jnp.int32(0)
            return (state, where(wrong.any(), batch(last), bad)), values

        (state, bad), values = scan(one_chunk, (state, bad), steps // source.steps_per_chunk, unroll=False)
        return state, jax.tree.map(lambda x: x.reshape(steps), values), sharding.constrain_batch(mesh, bad)

    return program


class Programs:
    """The compiled programs of a run: run(state, arrays, n) -> (state, metrics, bad), as make_program's.

    n          steps: a multiple of the source's chunk, at most `longest`
    compiling  a clock of the seconds spent compiling
    """

    def __init__(self, experiment):
        self.exp, self.compiling = experiment, Clock()
        config, source = experiment.config, experiment.source
        # Convolutions must not stand in a loop over the chunk, and pmap's step takes its batch from outside.
        self.split = config.parallel == "pmap" or (config.dispatch == "step" and source.steps_per_chunk > 1)
        # A host-fed source hands over one batch a dispatch: a longer program would train on it again and again.
        self.longest = source.steps_per_chunk if config.dispatch == "step" or self.split or source.streamed else \
            -(-config.steps_per_dispatch // source.steps_per_chunk) * source.steps_per_chunk
        self.compiled = {}

    def compile(self, state, arrays, n: int) -> None:
        """Compile what a dispatch of n steps needs, if it is not there yet."""
        key = "split" if self.split else n
        if key not in self.compiled:
            with self.compiling:
                self.compiled[key] = self._split(state) if self.split else self._whole(state, arrays, n)

    def run(self, state, arrays, n: int):
        return self._run_split(state, arrays, n) if self.split else self.compiled[n](state, arrays)

    def _whole(self, state, arrays, n: int):
        if self.exp.config.debug_nans:  # a jitted function with its arguments intact: jax runs it again, operation by operation
            return jax.jit(make_program(self.exp.source, self.exp.train_step(), steps=n, mesh=self.exp.mesh,
                                        precision=self.exp.config.precision))
        return self.lower(state, arrays, n).compile()

    def lower(self, state, arrays, n: int):
        """The program of n steps, lowered; the state may be abstract."""
        program = make_program(self.exp.source, self.exp.train_step(), steps=n, mesh=self.exp.mesh,
                               precision=self.exp.config.precision)
        return jax.jit(program, donate_argnums=0, out_shardings=(self.exp.shardings, None, None)).lower(state, arrays)

    def _split(self, state):
        source, mesh = self.exp.source, self.exp.mesh

        @functools.partial(jax.jit, out_shardings=(self.exp.shardings, None))
        def begin(state, arrays):
            variables = acting_variables(state, mesh, self.exp.config.precision)
            source_state, chunk = source.advance(arrays, state.source, variables)
            return state.replace(source=source_state), chunk

        pmapped = self.exp.config.parallel == "pmap"
        rows = lambda x: x.reshape(mesh.size, -1, *x.shape[1:]) if pmapped else x
        batch = jax.jit(lambda arrays, chunk, i: jax.tree.map(
            rows, sharding.constrain_batch(mesh, source.batch(arrays, chunk, i))))
        if pmapped:
            # The source's state stays outside: environments may be sharded, pmap's state is replicated.
            inner = self.exp.train_step(axis_name="devices")
            mapped = jax.pmap(inner, axis_name="devices", in_axes=(None, 0), out_axes=None, devices=list(mesh.devices.flat))

            def step(state, batch):
                new, values = mapped(state.replace(source={}), batch)
                return new.replace(source=state.source), values
        else:
            step = jax.jit(self.exp.train_step(), donate_argnums=0, out_shardings=(self.exp.shardings, None))
        return begin, batch, step

    def _run_split(self, state, arrays, n):
        begin, make_batch, step = self.compiled["split"]
        state, chunk = begin(state, arrays)
        rows, bad = [], None
        for i in range(n):
            batch = make_batch(arrays, chunk, i)
            state, values = step(state, batch)
            if self.exp.mesh.size > 1 and jax.default_backend() == "cpu":  # queued programs starve each other: see loop.py
                jax.block_until_ready(state)
            bad = where(values["skipped_in_a_row"] > 0, batch, jax.tree.map(jnp.zeros_like, batch) if bad is None else bad)
            rows.append(values)
        if self.exp.config.parallel == "pmap":  # (devices, rows, ...) -> (B, ...)
            bad = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), bad)
        return state, jax.tree.map(lambda *x: jnp.stack(x), *rows), bad

    def cost(self, steps: int, seconds: float) -> dict:
        """FLOPs of one step on all devices by XLA's count, and MFU where the device's peak is known.

        XLA counts a loop's body once, so a program of many steps counts as one, with its share of the source; a loop of
        micro-batches would count as one of them, and what a GPU's libraries compute as nothing: there the step is counted
        apart, before it is compiled.
        """
        program = next((p for p in self.compiled.values() if hasattr(p, "cost_analysis")), None)
        try:
            if self.exp.config.accumulate > 1 or self.exp.mesh.devices.flat[0].platform == "gpu":
                flops = step_flops(self.exp)
            else:
                flops = (program.cost_analysis() or {}).get("flops", 0) * self.exp.mesh.size if program else 0
        except Exception as error:  # at the end of a run that must not lose its summary for a count that backends may refuse
            print(f"FLOPs were not counted: {type(error).__name__}: {str(error)[:200]}")
            flops = 0
        peak = PEAK_FLOPS.get(self.exp.mesh.devices.flat[0].device_kind)
        mfu = {"mfu": round(flops * steps / seconds / (peak * self.exp.mesh.size), 4)} if peak and seconds else {}
        return {"flops_per_step": flops, **mfu} if flops else {}


def step_flops(exp) -> float:
    """Floating-point operations of one step on the whole batch, without its source, as XLA counts them; 0: not counted.

    XLA counts a loop's body once, so what is counted has no loop of steps or of micro-batches. It is never compiled. It is
    counted as the CPU's program: plugins (CUDA, TPU) count none before compilation.
    """
    def batch(state, arrays):
        return exp.source.batch(arrays, exp.source.advance(arrays, state.source, state.variables)[1], 0)

    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), exp.abstract)  # without the slice's shardings
    step = make_train_step(exp.task.loss, exp.optimizer, ema_decay=exp.config.ema_decay, precision=exp.config.precision)
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return 0.0
    with jax.default_device(cpu):
        found = jax.jit(step).lower(state, jax.eval_shape(batch, state, exp.source.arrays)).cost_analysis()
    return (found or {}).get("flops", 0.0)
