"""The train step: one function, shared by every task, data-parallel by construction.

    step = make_train_step(loss_fn, optimizer)    # (state, batch) -> (state, metrics), pure; jit it
    state, metrics = jax.jit(step, donate_argnums=0)(state, batch)

`loss_fn(params, model_state, batch, key) -> (losses, metrics, model_state)`, where losses and
metrics are dicts of (total, count) pairs. The step adds totals and counts over the *global* batch
and over accumulated micro-batches, and divides once. So a mean over unequal parts (devices, hosts,
micro-batches) is right by construction. A count of 0 gives a loss of 0.

It is plain `jax.jit` over global arrays: XLA adds the all-reduce, and no loss ever names a
collective. The same function under `jax.pmap(step, axis_name=...)` sums with psum instead.
"""
from collections.abc import Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from karpjax.core import sharding
from karpjax.core.errors import UserError, check_choice
from karpjax.core.metric import Count
from karpjax.core.state import TrainState
from karpjax.core.trees import cast_floating, first_match, path_name, where

# The parameters' precision inside the loss; they are kept in fp32.
PRECISIONS = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
RESERVED = ("loss", "grad_norm", "skipped", "skipped_in_a_row")


def make_train_step(loss_fn: Callable, optimizer: optax.GradientTransformation, *,
                    accumulate: int = 1, ema_decay: float = 0.0, precision: str = "fp32",
                    frozen: Sequence[str] = (), mesh: Mesh | None = None,
                    axis_name: str | None = None):
    """Build the step.

    accumulate  micro-batches a step; gradients equal those of the whole batch (except under
                BatchNorm and dropout, which see micro-batches). Micro-batch j is the strided rows
                j::k, so every device keeps its own rows
    ema_decay   > 0 keeps a moving average of the parameters and of the model's state, as `average`
    precision   "fp32", or "bf16": the loss sees bf16 parameters. Parameters, optimizer and the sum
                over micro-batches stay fp32. The gradient of one micro-batch, and its sum over
                devices under jit, are of bf16 precision
    frozen      regular expressions: parameters whose names match in full get no gradient; it costs
                nothing
    mesh        pins the batch to the mesh and, with fsdp > 1, gathers parameters and scatters
                gradients around the loss
    axis_name   the axis of an enclosing pmap. Dropout keys and statistics across examples
                (BatchNorm) are per device there

    The metrics are scalars: the "loss", each loss and metric by its name, "grad_norm" (before
    clipping), "skipped" and "skipped_in_a_row". A metric whose count is 0 is nan: nothing was
    observed. If loss, gradients or model state are not finite, the step changes nothing except the
    counters (and `source`).
    """
    check_choice(precision, PRECISIONS, "config.precision")
    # The mesh's platform, if there is a mesh: a program for a TPU may be compiled on a CPU.
    platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
    on_cpu = platform == "cpu"

    def over_devices(tree):
        return lax.psum(tree, axis_name) if axis_name else tree

    def objective(params, model_state, batch, key, counts):
        """Return one micro-batch's part: the sum over the losses of total / *global* count."""
        if mesh is not None and mesh.shape["fsdp"] > 1:
            params = sharding.constrain(params, sharding.replicated(mesh))
        params = cast_floating(without_gradient(params, frozen), PRECISIONS[precision])
        outputs = loss_fn(params, model_state, batch, key)
        losses, metrics, model_state = check_outputs(outputs, model_state)
        totals, own_counts = unzip(losses)
        if counts is None:  # a single micro-batch: its counts over all devices are the global ones
            counts = over_devices(own_counts)
        value = sum(ratio(totals[name], counts[name], empty=0.0) for name in totals)
        return value, (totals, counts, unzip(metrics), model_state)

    gradients = make_gradients(objective, accumulate, mesh, on_cpu)

    def train_step(state: TrainState, batch) -> tuple[TrainState, dict]:
        batch = sharding.constrain_batch(mesh, batch)
        key = jax.random.fold_in(state.key, state.step)
        if axis_name:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        grads, (totals, counts, metrics, model_state) = gradients(
            state.params, state.model_state, batch, key)
        grads, totals, metrics = over_devices((grads, totals, metrics))
        if axis_name:
            model_state = lax.pmean(model_state, axis_name)
        if mesh is not None and mesh.shape["fsdp"] > 1:
            shardings = jax.tree.map(lambda g: sharding.fsdp_sharding(mesh, g), grads)
            grads = sharding.constrain(grads, shardings)

        losses = {name: ratio(totals[name], counts[name], empty=0.0) for name in totals}
        loss, grad_norm = sum(losses.values()), optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = state.ema, state.ema_state
        if ema_decay:
            averages = average(averages, (params, model_state), ema_decay, state.step)

        # A bad batch must leave no trace: BatchNorm can swallow an infinity that the loss hides.
        finite = all_finite((loss, grad_norm, model_state))
        bad = 1 - finite.astype(jnp.int32)
        skipped = jnp.stack([state.skipped[0] + bad, (state.skipped[1] + bad) * bad])
        state = state.replace(
            step=state.step + 1, params=where(finite, params, state.params),
            ema=where(finite, averages[0], state.ema),
            ema_state=where(finite, averages[1], state.ema_state),
            model_state=where(finite, model_state, state.model_state),
            opt_state=where(finite, opt_state, state.opt_state), skipped=skipped)
        metric_totals, metric_counts = metrics
        nothing = 0.0 if jax.config.jax_debug_nans else jnp.nan  # a nan would stop that search
        observed = {name: ratio(metric_totals[name], metric_counts[name], empty=nothing)
                    for name in metric_totals}
        return state, {"loss": loss, **losses, **observed, "grad_norm": grad_norm,
                       "skipped": skipped[0], "skipped_in_a_row": skipped[1]}

    return train_step


def make_gradients(objective: Callable, accumulate: int, mesh: Mesh | None, on_cpu: bool):
    """Build the gradients of the objective over all micro-batches on this device.

    (params, model_state, batch, key) -> (gradients, (totals, counts, metrics, model_state))
    """
    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def gradients(params, model_state, batch, key):
        if accumulate == 1:
            (_, aux), grads = value_and_grad(params, model_state, batch, key, None)
            return grads, aux

        def micro(j):
            rows = jax.tree.map(lambda x: strided(x, j, accumulate), batch)
            return sharding.constrain_batch(mesh, rows)

        def count_of(j):
            return objective(params, model_state, micro(j), jax.random.fold_in(key, j), None)[1][1]

        # Counts first: they depend on the batch alone, so the network in this pass is dead code.
        counts = sum_over(count_of, accumulate, unroll=on_cpu)

        def body(carry, j):
            (model_state, sums) = carry
            (_, (totals, _, metrics, model_state)), grads = value_and_grad(
                params, model_state, micro(j), jax.random.fold_in(key, j), counts)
            sums = jax.tree.map(jnp.add, sums, (grads, totals, metrics))
            return (model_state, sums), None

        like = jax.eval_shape(
            lambda: body_outputs(value_and_grad, params, model_state, micro(0), key, counts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        (model_state, (grads, totals, metrics)), _ = scan(
            body, (model_state, zeros), accumulate, unroll=on_cpu)
        return grads, (totals, counts, metrics, model_state)

    return gradients


# -------------------------------------------------------------------------------------- small parts

def ratio(total, count, empty):
    """Return total / count, or `empty` if the count is 0, with a gradient of 0 and not nan."""
    if isinstance(count, Count):
        return total / jnp.maximum(count.value, count.floor)
    # Not `count > 0`: a nan count must show.
    return jnp.where(count == 0, empty, total / jnp.where(count == 0, 1, count))


def average(averages, values, decay: float, step):
    """Move averages of floating leaves to their new values: a <- d a + (1 - d) x. Others are x.

    d is the decay, at first less: min(decay, (1 + step) / (10 + step)), as in TensorFlow's
    ExponentialMovingAverage. Else the random weights of the start would stay in the average.
    """
    d = jnp.minimum(decay, (1 + step) / (10 + step))

    def moved(a, x):
        return d * a + (1 - d) * x if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(moved, averages, values)


def without_gradient(params, patterns: Sequence[str]):
    """Hold the parameters whose names match constant: nothing is computed for their gradient."""
    def held(path, p):
        return p if first_match(patterns, path_name(path)) is None else lax.stop_gradient(p)
    return jax.tree.map_with_path(held, params)


def unzip(pairs: dict) -> tuple[dict, dict]:
    """Return ({name: total}, {name: count}) of {name: (total, count)}. Counts carry no gradient."""
    return ({name: total for name, (total, _) in pairs.items()},
            {name: lax.stop_gradient(count) for name, (_, count) in pairs.items()})


def strided(x, j, k: int):
    """Return rows j::k of x, by a reshape that leaves a sharded batch axis where it is."""
    rows = x.reshape(x.shape[0] // k, k, *x.shape[1:])                               # (B/k, k, ...)
    return lax.dynamic_index_in_dim(rows, j, axis=1, keepdims=False)                 # (B/k, ...)


def scan(body, carry, length: int, unroll: bool):
    """Scan over range(length) as lax.scan does, without a loop if the length is 1 or with `unroll`.

    unroll  for the CPU, where a convolution in a loop is 7-20x slower
    """
    if length == 1:  # XLA does not remove a loop of one turn by itself
        carry, out = body(carry, jnp.int32(0))
        return carry, jax.tree.map(lambda x: x[None], out)
    return lax.scan(body, carry, jnp.arange(length), unroll=length if unroll else 1)


def sum_over(function, n: int, unroll: bool):
    """Return the sum of function(j), a tree, over j in range(n)."""
    values = scan(lambda _, j: (None, function(j)), None, n, unroll)[1]
    return jax.tree.map(lambda x: x.sum(0), values)


def body_outputs(value_and_grad, *args):
    """Return (gradients, totals, metrics) of one micro-batch: what the scan adds up."""
    (_, (totals, _, metrics, _)), grads = value_and_grad(*args)
    return grads, totals, metrics


def all_finite(tree):
    """Return whether every element of every leaf is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def check_outputs(outputs, model_state):
    """Return the loss function's outputs, or raise one line about what is wrong with them.

    It runs while tracing, so it is free.
    """
    expected = ("expected (losses, metrics, model_state), losses and metrics dicts of name -> "
                "(total, count), two scalars; wrap per-example values in "
                "karpjax.mean(values, weight)")
    several = isinstance(outputs, tuple)
    if not several or len(outputs) != 3 or not all(isinstance(d, dict) for d in outputs):
        kinds = [type(o).__name__ for o in outputs] if several else type(outputs).__name__
        raise UserError(f"the loss function returned {kinds}; {expected}")
    losses, metrics, new_model_state = outputs
    if not losses:
        raise UserError(f"the loss function returned no loss: losses is {{}}; {expected}")
    for name, pair in {**losses, **metrics}.items():
        # A pair's count may be a Count, of a value and a floor.
        parts = jax.tree.leaves(pair) if isinstance(pair, tuple) else pair
        shapes = [*map(jnp.shape, parts)] if isinstance(pair, tuple) else jnp.shape(pair)
        if shapes != [(), ()]:
            raise UserError(f"the loss function's {name!r} has shape {shapes}; {expected}")
    clash = (set(losses) & set(metrics)) | ((set(losses) | set(metrics)) & set(RESERVED))
    only_loss = list(losses) == ["loss"] and "loss" not in metrics  # one loss may have that name
    if clash - ({"loss"} if only_loss else set()):
        raise UserError(f"the loss function uses {sorted(clash)} twice or takes a reserved name "
                        f"{RESERVED}; rename it")
    given, returned = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
                       for tree in (model_state, new_model_state))
    if returned != given:
        raise UserError("the loss function returned another model_state than it was given: "
                        f"expected {given}, found {returned}; return karpjax.apply's second value")
    return outputs
