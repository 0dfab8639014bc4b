"""The place of every array: one mesh ("data", "fsdp"), and one rule for every kind of array.

    batches      axis 0 split over both mesh axes, always
    parameters, optimizer state, EMA
                 replicated, or with fsdp > 1 split along one axis by their shape alone
    the source   replicated, except the entries it names in `source.sharded` (environments), which
                 are split as batches are
"""
import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from karpjax.core.errors import UserError

BATCH_AXES = ("data", "fsdp")
FSDP_MIN_SIZE = 1024  # elements; below it a gather costs more than the memory it saves


def make_mesh(data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
    """Return a (data, fsdp) mesh over `devices`, all by default. data = -1: what fsdp leaves."""
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    data = n // fsdp if data == -1 and fsdp > 0 else data
    if data < 1 or fsdp < 1 or data * fsdp != n:
        raise UserError(f"config.mesh: data x fsdp must be the number of devices, {n}; found "
                        f"data={data}, fsdp={fsdp}; use data=-1 and an fsdp that divides {n}")
    # Auto axes: under Explicit ones (jax's default) Linen's Dropout, Embed and concatenation fail.
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2,
                         devices=devices)


def host_device():
    """Return this process's CPU as a device, None if JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: axis 0 split over the whole mesh."""
    return NamedSharding(mesh, P(BATCH_AXES))


def fsdp_sharding(mesh: Mesh, leaf) -> NamedSharding:
    """Return a sharding that splits the longest axis that fsdp divides.

    Small or indivisible leaves are replicated.
    """
    size = mesh.shape["fsdp"]
    axes = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
    if size == 1 or not axes or np.prod(leaf.shape) < FSDP_MIN_SIZE:
        return replicated(mesh)
    axis = max(axes, key=lambda a: leaf.shape[a])
    return NamedSharding(mesh, P(*["fsdp" if a == axis else None for a in range(len(leaf.shape))]))


def state_shardings(mesh: Mesh, state, sharded_source: tuple[str, ...] = ()):
    """Return the sharding of every leaf of a TrainState (arrays or ShapeDtypeStructs)."""
    def by_shape(tree):
        return jax.tree.map(lambda leaf: fsdp_sharding(mesh, leaf), tree)
    shardings = jax.tree.map(lambda leaf: replicated(mesh), state)
    shardings = shardings.replace(params=by_shape(state.params),
                                  opt_state=by_shape(state.opt_state), ema=by_shape(state.ema))
    if sharded_source:
        source = dict(shardings.source)
        for name in source.keys() & set(sharded_source):
            source[name] = jax.tree.map(lambda _: batch_sharding(mesh), source[name])
        shardings = shardings.replace(source=source)
    return shardings


def constrain_batch(mesh: Mesh | None, batch):
    """Split axis 0 of every leaf, the batch axis, over the whole mesh, inside jit."""
    if mesh is None:
        return batch
    rows = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows), batch)


def constrain(tree, shardings):
    """Pin every leaf to its sharding, or all to one, inside jit. None pins nothing."""
    return tree if shardings is None else jax.lax.with_sharding_constraint(tree, shardings)


def put(tree, sharding):
    """Copy host arrays, the same on every process, to the devices (a whole tree, one sharding)."""
    # device_put would send them to all processes to compare, and fail on NaN, which equals nothing.
    def placed(x):
        return jax.make_array_from_process_local_data(sharding, x, np.shape(x))
    return jax.tree.map(placed, tree)


def put_batch(mesh: Mesh, local_batch):
    """Make global arrays of each process's rows of a batch (numpy).

    A process gives the rows of its own devices, in the mesh's order.
    """
    sharding = batch_sharding(mesh)

    def placed(rows):
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))
    return jax.tree.map(placed, local_batch)


def check_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Check that devices and micro-batches get equal parts of a batch."""
    n = mesh.size * accumulate
    if batch_size < 1 or batch_size % n:
        less, more = max(n, batch_size // n * n), (batch_size // n + 1) * n
        raise UserError("the batch size must be a multiple of devices x accumulate = "
                        f"{mesh.size} x {accumulate}, found {batch_size}; use {less} or {more}")
