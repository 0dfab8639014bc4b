"""The meaning of a config: its task, mesh, optimizer and the shape and place of its state.

Nothing is computed here, and nothing written: errors in a config or its loss are reported before a
workdir is claimed.
"""
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import warnings

from flax.errors import ScopeParamShapeError
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np
import optax

from karpjax.core import settings, sharding
from karpjax.core.errors import UserError
from karpjax.core.optimizer import make_optimizer
from karpjax.core.state import TrainState, init_state
from karpjax.core.step import check_outputs, make_train_step
from karpjax.core.task import Task
from karpjax.core.task_file import build_task, load_task_module
from karpjax.core.trees import split_variables
from karpjax.run.evaluator import Evaluator
from karpjax.run.init_from import inherited
from karpjax.run.own_code import own_code
from karpjax.sources.first_batch import FirstBatch
from karpjax.sources.source import SpecOnly, Source


@dataclasses.dataclass
class Experiment:
    """Everything that a config means.

    shardings  a sharding for every leaf of the state
    abstract   the state as ShapeDtypeStructs with these shardings
    task_file  {"name", "path", "text"} of the task's file, for checkpoints
    """
    config: ConfigDict
    task: Task
    source: Source
    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: Callable
    shardings: TrainState
    abstract: TrainState
    task_file: dict

    def fresh_state(self) -> TrainState:
        """Return the state at step 0, on the devices."""
        config = self.config

        def init():
            return init_state(self.task, self.optimizer, config.seed, config.ema_decay > 0)
        return jax.jit(init, out_shardings=self.shardings)()

    def eval_variables(self, state: TrainState) -> dict:
        """Return the variables of evaluation, with the entries of the source's eval_state."""
        of_source = {name: state.source[name] for name in self.source.eval_state}
        return {**state.eval_variables, **({"source": of_source} if of_source else {})}

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Return the evaluation, which is traced once for the checks at the start and all uses."""
        return Evaluator(self.task, self.mesh, self.config.precision)

    def learning_rate(self, updates: int) -> float:
        """Return the schedule's value after so many updates, for the log."""
        # On the CPU: an accelerator would first finish the dispatches in flight, and then idle.
        with jax.default_device(sharding.host_device()):
            return float(self.schedule(updates))

    def train_step(self, axis_name: str | None = None) -> Callable:
        """Return the train step.

        axis_name  the axis of an enclosing pmap, if there is one
        """
        config = self.config
        return make_train_step(
            self.task.loss, self.optimizer, accumulate=config.accumulate,
            ema_decay=config.ema_decay, precision=config.precision,
            frozen=config.optimizer.get("freeze", ()), mesh=None if axis_name else self.mesh,
            axis_name=axis_name)


def assemble(config: ConfigDict, task_file: dict | None = None, mesh: Mesh | None = None,
             saved: dict | None = None) -> Experiment:
    """Build everything that a config states, and check that it fits together.

    task_file  {"path", "text"} of the config file, where it is the task's too (config.task == "")
    saved      the config of a run that is resumed, for all that this one leaves to config.init_from
    """
    settings.check_config(config)
    config = inherited(settings.canonical(config), saved)
    with own_code(f"the task {config.task!r}"):
        module, task_record = load_task_module(config.task, None if config.task else task_file)
    with own_code("build(config)"):
        task = build_task(config, module)
    source = FirstBatch(task.source) if config.overfit else task.source
    mesh = mesh or sharding.make_mesh(**config.mesh)
    check_source(config, source, mesh)
    check_parallel(config, mesh)
    variables = traced("the model on one example", task.init, jax.random.key(0))
    optimizer, schedule = make_optimizer(config.optimizer, config.steps, variables["params"],
                                         getattr(task.model, "layer_of", None))
    abstract = jax.eval_shape(
        lambda: init_state(task, optimizer, config.seed, config.ema_decay > 0))
    shardings = sharding.state_shardings(mesh, abstract, source.sharded)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                            abstract, shardings)
    check_loss(task, source, abstract, number_of_parts(config, mesh))
    return Experiment(config, task, source, mesh, optimizer, schedule, shardings, abstract,
                      task_record)


def check_source(config: ConfigDict, source: Source, mesh: Mesh) -> None:
    """Check that the source's batches and chunks fit the mesh and config.steps."""
    chunk = source.steps_per_chunk
    if not isinstance(source, SpecOnly):
        sharding.check_batch_size(mesh, source.batch_size, config.accumulate)
    if config.steps % chunk:
        raise UserError(f"config.steps: expected a multiple of the source's chunk, {chunk}, found "
                        f"{config.steps}; use {config.steps // chunk * chunk or chunk}")
    several = jax.process_count() > 1
    if source.on_host and (several or (mesh.size > 1 and jax.default_backend() == "cpu")):
        # Simulated devices that wait for each other leave no thread to the callback: it would hang.
        raise UserError(
            f"environments on the host are played by one process, on CPUs for one device: found "
            f"{jax.process_count()} and {mesh.size}; leave out --distributed and --devices, or use "
            "an environment in JAX")


def check_parallel(config: ConfigDict, mesh: Mesh) -> None:
    """Check that config.parallel can run on the mesh."""
    if config.parallel == "pmap" and jax.process_count() > 1:
        raise UserError("config.parallel = 'pmap' runs in one process, found several; use "
                        "parallel = 'jit'")
    if config.parallel == "pmap" and mesh.shape["fsdp"] > 1:
        raise UserError("config.parallel = 'pmap' replicates the parameters: use config.mesh.fsdp "
                        "= 1, or parallel = 'jit'")


def number_of_parts(config: ConfigDict, mesh: Mesh) -> int:
    """Return the parts of a batch that the loss sees one by one."""
    return config.accumulate * (mesh.size if config.parallel == "pmap" else 1)


def check_loss(task: Task, source: Source, state: TrainState, parts: int) -> None:
    """Trace the source and the loss of one of a batch's parts, on shapes alone."""
    if isinstance(source, SpecOnly):
        return
    entries = []  # of the batch, once it is made

    def loss(state, arrays):
        _, chunk = source.advance(arrays, state.source, state.variables)
        batch = source.batch(arrays, chunk, 0)
        entries.extend(batch)
        batch = jax.tree.map(lambda x: x[:len(x) // parts], batch)
        outputs = task.loss(state.params, state.model_state, batch, state.key)
        return check_outputs(outputs, state.model_state)

    try:
        traced("the loss of a training batch", loss, state, source.arrays, batch=entries)
    except ScopeParamShapeError as error:
        raise UserError(
            "expected training batches of the shape that evaluation has, which the model was made "
            "for; of pictures give config.data.crop (or resize) and the last size in "
            f"config.augment one value; found: {' '.join(str(error).split())}") from error


def check_evaluation(exp: Experiment) -> None:
    """Trace the evaluation of a batch, on shapes alone: it would fail after hours of training."""
    task, source, variables = exp.task, exp.source, exp.eval_variables(exp.abstract)
    batch = next(map(source.eval_shapes, source.splits), None)
    if batch is None:
        return
    # Placed as the evaluation's are: it finds this trace again.
    rows = sharding.batch_sharding(exp.mesh)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)

    def hint(error):
        return missing_entry(error, batch) or key_is_none(exp, variables, batch)

    with own_code("the evaluation of a batch", hint=hint):
        # Splits may have their own evaluation. The first one's metrics are those of `best`.
        for split in reversed(source.splits):
            (losses, means), totals, rows = exp.evaluator.program.eval_shape(
                variables, batch, exp.evaluator.evaluate_of(split))
    eval_splits = [split for split in source.splits if split != "test"]
    metrics = {f"{split}/{name}" for split in eval_splits
               for name in (*losses, *means, *(["loss"] if losses else []))}
    best = exp.config.best.partition(" ")[2]
    if metrics and best not in metrics:
        names = summary_names(task, totals, rows)
        if names is not None:
            more = {f"{split}/{name}" for split in eval_splits for name in names}
            settings.check_best(exp.config.best, metrics | more)


def summary_names(task: Task, totals: dict, rows: dict) -> set[str] | None:
    """Return the names of `Task.summarize`'s floats, found on zeros. None: zeros do not do."""
    if task.summarize is None:
        return set()
    shapes = ({name: each.array for name, each in totals.items()},
              {name: each.array for name, each in rows.items() if not each.at_end})
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    with contextlib.suppress(Exception), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {name for name, value in task.summarize(*zeros).items()
                if not isinstance(value, Mapping)}
    return None


def key_is_none(exp: Experiment, variables: dict, batch) -> str:
    """Return why the evaluation fails if the loss can do with a key what it cannot without."""
    def with_a_key(variables, batch, key):
        return exp.task.loss(*split_variables(variables), exp.source.preprocess(batch), key)

    if exp.task.evaluate is None:
        with contextlib.suppress(Exception):
            jax.eval_shape(with_a_key, variables, batch, exp.abstract.key)
            return ("; evaluation calls the loss with key=None, without dropout or noise: draw "
                    "only `if key is not None`, or give the Task an `evaluate` of its own")
    return ""


def missing_entry(error: Exception, batch) -> str:
    """Return the entries of a batch if the error is that one is not there, else ""."""
    if not isinstance(error, KeyError) or not batch or error.args[0] in batch:
        return ""
    return f"; the batch has {', '.join(sorted(batch))}"


def traced(what: str, function: Callable, *args, batch=()):
    """Return the shapes of a function's outputs, for shapes of its arguments.

    what   names the function in the error about a user's line
    batch  the entries that it reads
    """
    with own_code(what, hint=lambda error: missing_entry(error, batch)):
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    check_sizes(program.jaxpr, what)
    return shapes


def check_sizes(program, what: str, outer: str = "") -> None:
    """Check that no convolution or pooling leaves nothing of pictures: the mean of it is NaN.

    outer  the names of the modules around a part of a program
    """
    for equation in program.eqns:
        where = "/".join(filter(None, (outer, str(equation.source_info.name_stack))))
        shapes = [x.aval.shape for x in (*equation.invars[:1], *equation.outvars[:1])]
        if equation.primitive.name.startswith(("conv_general", "reduce_window")) \
                and 0 in shapes[1] and 0 not in shapes[0]:
            raise UserError(
                f"{what}: expected pictures of which the network's strides leave something, found "
                f"{shapes[0]} of which {where} makes {shapes[1]}; use larger pictures "
                "(config.data.resize), or a network of fewer strides")
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                check_sizes(getattr(inner, "jaxpr", inner), what, where)
