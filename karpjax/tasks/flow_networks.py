"""Networks that judge a flow's pictures: those of other runs, or FID's from a file of its weights.

They are called on the host, on pictures that an evaluation has gathered. Their weights are
arguments of a program of their own, as constants of the evaluation they would be compiled into it.
The program has one size and runs on one device of each process. So equal pictures have equal
features, bit by bit, on any mesh. The price is that other devices wait.
"""
from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax import weights
from karpjax.core.trees import named
from karpjax.datasets.content import RowHash
from karpjax.models.inception import SIDE, InceptionV3, prepared
from karpjax.run.restore import BUILDING, AbsentRun, restore
from karpjax.sources import Source

BATCH = 64   # pictures at once, which Inception enlarges: of 256 its activations are gigabytes


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of pictures (N, H, W, C), as the data set stores them.

    apply   pure: (variables, pictures (BATCH, H, W, C)) -> (BATCH, F)
    """
    apply: Callable
    variables: dict

    def outputs(self, pictures: np.ndarray) -> np.ndarray:
        """Return (N, F) for pictures."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            some = pictures[start:start + BATCH]
            whole = np.resize(some, (BATCH, *some.shape[1:]))     # one program; the rest is cut
            parts.append(jax.device_get(self.program(self.variables, whole))[:len(some)])
        return np.concatenate(parts)

    @functools.cached_property
    def program(self) -> Callable:
        """The network, compiled."""
        return jax.jit(self.apply)

    @functools.cached_property
    def checksum(self) -> str:
        """The beginning of the sha256 of all weights and their names."""
        content = RowHash()
        content.add(jax.device_get(named(self.variables)))
        return content.hexdigest()[:12]


def of_run(name: str, path: str, source: Source, outputs: Callable) -> Network | AbsentRun:
    """Return the network of a run that classifies pictures like these.

    name     in config.scores, for errors
    outputs  (task, variables, pictures) -> (N, F)
    """
    run = restore(path)
    if isinstance(run, AbsentRun):  # of a restored flow, which makes pictures without it
        return run
    theirs, ours = run.task.source.spec.get("shape"), source.spec["shape"]
    if theirs != ours:
        raise kj.UserError(f"config.scores.{name}: {path} is of pictures {theirs}; "
                           f"expected a run of pictures like these, {ours}")
    if run.config.task != "classify" or run.task.source.classes != source.classes:
        raise kj.UserError(f"config.scores.{name}: {path} is of the task "
                           f"{run.config.task!r} with {run.task.source.classes} classes; "
                           f"expected a classifier of {source.classes}")
    return Network(functools.partial(outputs, run.task), run.variables)


def pooled(task, variables, pictures) -> jax.Array:
    """Return the pooled features (N, F) of a task's model."""
    return task.run_model(variables, task.prepared(pictures), features=True)[1]["pooled"]


def logits(task, variables, pictures) -> jax.Array:
    """Return a classifier's logits (N, classes)."""
    return task.outputs(variables, pictures)


def of_inception(path: str) -> Network | AbsentRun:
    """Return FID's network with the weights in a file."""
    model = InceptionV3()
    try:
        arrays = weights.read_arrays(path)
    except kj.UserError as error:
        if not BUILDING.get():
            raise
        return AbsentRun(kj.UserError(f"{BUILDING.get()}: this needs config.scores.inception, "
                                      f"{path!r}, which is not here ({error}); put it there"))
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    variables = weights.to_karpjax(model, like, arrays, f"config.scores.inception: {path}")

    def features(variables, pictures):
        return model.apply(variables, prepared(pictures))[1]["pooled"]
    return Network(features, jax.device_put(variables, jax.local_devices()[0]))
