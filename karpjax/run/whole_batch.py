"""The check that micro-batches and devices make no other loss of a batch than the whole has.

The step adds the (total, count) pairs of micro-batches (config.accumulate) and of devices
(config.parallel = "pmap"). Of a mean over examples the sum is the whole batch's. A loss over pairs
(contrastive, triplet) or over a batch's statistics is another one: a part lacks the examples of the
others. So a run with parts compares, before its first step, some of them with these together.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core import sharding
from karpjax.core.errors import UserError
from karpjax.core.metric import added, quotient
from karpjax.core.step import check_outputs
from karpjax.core.trees import first_line
from karpjax.run.experiment import number_of_parts
from karpjax.run.programs import acting_variables, placed_arrays

RTOL, ATOL = 1e-4, 1e-6  # the second for losses that cancel, as a policy's


def check_parts(exp, state) -> list[str]:
    """Return notes on the parts of a batch. Raises UserError if a loss is another one on them.

    Nothing is computed for a run whose batches have no parts, nor if the task says
    `whole_batch=False`.
    """
    config, pmapped = exp.config, exp.config.parallel == "pmap"
    if number_of_parts(config, exp.mesh) == 1 or not exp.task.whole_batch:
        return []
    where = f"config.accumulate = {config.accumulate}, config.parallel = {config.parallel!r}"
    if exp.source.on_host:  # a rollout of its simulators may take minutes
        return [f"note: {where}: the loss is taken for a sum over examples, unchecked"]
    arguments = state, placed_arrays(exp, int(state.step))
    with jax.default_matmul_precision("highest"):  # rounding must not look like a difference
        try:
            lowered = jax.jit(some_parts(exp, pmapped)).lower(*arguments)
        except Exception as error:  # a loss that draws: evaluation has another function
            return [f"note: {where}: the loss is taken for a sum over examples, unchecked: with "
                    f"key=None it raises {type(error).__name__}: {first_line(error)}"]
        whole, *each = jax.device_get(lowered.compile()(*arguments))
    losses, metrics = (different(kind, whole, each) for kind in ("losses", "metrics"))
    if losses:
        raise UserError(
            f"{where}: expected losses that are sums over examples, found of some parts of a batch "
            f"together {shown(losses, 0)}, of each by itself {shown(losses, 1)}: a loss over pairs "
            "of examples; use accumulate = 1 and parallel = 'jit', where it sees the whole batch "
            "on any number of devices, or, if each part shall be a batch of its own, "
            "karpjax.Task(..., whole_batch=False)")
    return [f"note: {where}: metrics over pairs of examples are of each part by itself: "
            f"{', '.join(metrics)}"] * bool(metrics)


def some_parts(exp, pmapped: bool):
    """Return (state, arrays) -> the outputs of some parts of a batch together, and of each.

    They are {"losses", "metrics"} with key=None: nothing is dropped, and BatchNorm has its running
    statistics. The parts are rows as the step cuts them: the first and the last micro-batch.
    """
    task, source, k = exp.task, exp.source, exp.config.accumulate
    devices, mesh = (exp.mesh.size, None) if pmapped else (1, exp.mesh)

    def program(state, arrays):
        variables = acting_variables(state, exp.mesh, exp.config.precision)
        _, chunk = source.advance(arrays, state.source, variables)
        batch = source.batch(arrays, chunk, 0)
        params = sharding.constrain(state.params, sharding.replicated(exp.mesh))
        params, model_state = away_from_zero(params), state.model_state

        def outputs(rows):
            part = sharding.constrain_batch(mesh, jax.tree.map(lambda x: x[rows], batch))
            losses, metrics, _ = check_outputs(task.loss(params, model_state, part, None),
                                               model_state)
            return {"losses": losses, "metrics": metrics}

        size = jax.tree.leaves(batch)[0].shape[0]
        rows = np.arange(size).reshape(devices, -1, k)            # (devices, rows, micro-batches)
        # On several devices a third: pairs may be lost between devices or between micro-batches.
        cuts = {(d, j): rows[d, :, j] for d, j in ((0, 0), (0, k - 1), (devices - 1, k - 1))}
        parts = list(cuts.values())
        return [outputs(part) for part in (np.sort(np.concatenate(parts)), *parts)]

    return program


def away_from_zero(params):
    """Return parameters moved by a tenth of what a layer's weights are at its start.

    At the start itself a head of zeros makes all examples equal, and with them all pairs.
    """
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def moved(x, key):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + 0.1 * np.prod(x.shape[:-1]) ** -0.5 * jax.random.normal(key, x.shape, x.dtype)
    return jax.tree.unflatten(tree, map(moved, leaves, keys))


def different(kind: str, whole: dict, each: list[dict]) -> dict:
    """Return {name: (value of all together, value by parts)} of the losses or metrics that differ.

    What is not finite of all together is not compared.
    """
    sums = functools.reduce(added, (part[kind] for part in each), None)
    values = {name: [quotient(*pairs[name]) for pairs in (whole[kind], sums,
                                                          *(part[kind] for part in each))]
              for name in sums}
    return {name: (together, by_parts) for name, (together, by_parts, *own) in values.items()
            if np.isfinite(together)
            and not abs(together - by_parts) <= ATOL + RTOL * np.nanmax(np.abs([together, *own]))}


def shown(values: dict, i: int) -> str:
    return ", ".join(f"{name} {pair[i]:.6g}" for name, pair in values.items())
