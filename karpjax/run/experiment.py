"""The meaning of a config: its task, mesh, optimizer and the shape and place of its state.

Nothing is computed here, and nothing written: errors in a config or its loss are reported before a
workdir is claimed.
"""
from collections.abc import Callable
import dataclasses

from flax.errors import ScopeParamShapeError
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from karpjax.core import settings, sharding
from karpjax.core.errors import UserError
from karpjax.core.optimizer import make_optimizer
from karpjax.core.state import TrainState, init_state
from karpjax.core.step import check_outputs, make_train_step
from karpjax.core.task import Task
from karpjax.core.task_file import build_task, load_task_module
from karpjax.run.init_from import inherited
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
    module, task_record = load_task_module(config.task, None if config.task else task_file)
    task = build_task(config, module)
    source = FirstBatch(task.source) if config.overfit else task.source
    mesh = mesh or sharding.make_mesh(**config.mesh)
    check_source(config, source, mesh)
    check_parallel(config, mesh)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    optimizer, schedule = make_optimizer(config.optimizer, config.steps, variables["params"],
                                         getattr(task.model, "layer_of", None))
    abstract = jax.eval_shape(
        lambda: init_state(task, optimizer, config.seed, config.ema_decay > 0))
    shardings = sharding.state_shardings(mesh, abstract, source.sharded)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                            abstract, shardings)
    check_loss(task, source, abstract)
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


def check_loss(task: Task, source: Source, state: TrainState) -> None:
    """Trace the source and the loss once, on shapes alone."""
    if isinstance(source, SpecOnly):
        return

    def loss(state, arrays):
        _, chunk = source.advance(arrays, state.source, state.variables)
        batch = source.batch(arrays, chunk, 0)
        outputs = task.loss(state.params, state.model_state, batch, state.key)
        return check_outputs(outputs, state.model_state)

    try:
        jax.eval_shape(loss, state, source.arrays)
    except ScopeParamShapeError as error:
        raise UserError(
            "expected training batches of the shape that evaluation has, which the model was made "
            "for; of pictures give config.data.crop (or resize) and the last size in "
            f"config.augment one value; found: {' '.join(str(error).split())}") from error
