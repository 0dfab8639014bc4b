"""The TPU compiler's cycle estimate and what it counts: programs of known cost, compiled for slices
that are not here.

    python experiments/pods/calibrate.py --log=FILE  # a minute; needs libtpu
    python experiments/pods/calibrate.py --quick --log=FILE

A row is a matrix product of n x n bf16 a chip. It has the share of the data sheet's peak that the
estimate amounts to at the clock that the peak implies. Then follow products in loops of 10 and of
100 turns, and ten written out, and an all-reduce. The conclusions are in README.md, and in
karpjax/precompile/hlo.py.
"""
import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

jax.config.update("jax_platforms", "cpu")

from karpjax.core import sharding  # noqa: E402
from karpjax.precompile.compile import slice_devices
from karpjax.precompile.hlo import cycles  # noqa: E402
from karpjax.run.chips import CHIPS  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

TOPOLOGIES = ("v5e:2x2", "v6e:2x2", "v4:2x2x1", "v5p:2x2x1")
SIZES, LOOPS, BYTES = (1024, 2048, 4096, 8192), (10, 100), (1 << 20, 1 << 26)


def array(shape, place, dtype=jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def cycles_of(function, rows, *arrays):
    """Return the estimated cycles of a function whose results have the sharding `rows`."""
    return cycles(jax.jit(function, out_shardings=rows).lower(*arrays).compile().as_text())


def products(turns: int, unroll: int):
    """Return a function of `turns` matrix products in a loop."""
    def product(x, w):
        def turn(y, _):  # hands on little: a large carry would be copied
            return jnp.tanh((x + y) @ w).max(1, keepdims=True), None
        return jax.lax.scan(turn, jnp.zeros_like(x[:, :1]), length=turns, unroll=unroll)[0]
    return product


def total(mesh):
    """Return a function that sums over all chips of a mesh."""
    def summed(x):
        whole = sharding.constrain(x.sum(0, keepdims=True), sharding.replicated(mesh))
        return whole * jnp.ones((mesh.size, 1))
    return summed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    topologies, sizes = (TOPOLOGIES[:1], (1024,)) if options.quick else (TOPOLOGIES, SIZES)
    with open(options.log, "w") as log:
        def write(row):
            log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        write({"versions": versions()})
        for topology in topologies:
            mesh = sharding.make_mesh(devices=slice_devices(topology))
            rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
            chip = CHIPS[topology.split(":")[0]]
            for n in sizes:
                estimate = cycles_of(jnp.matmul, rows, array((n * mesh.size, n), rows),
                                  array((n, n), whole))
                write({"topology": topology, "matmul": n, "cycles": estimate,
                       "seconds": estimate / chip.clock,
                       "share_of_peak": round(2 * n**3 / (estimate / chip.clock) / chip.peak, 3)})
            n = sizes[-1] // 2
            for turns, unroll in (*((turns, 1) for turns in LOOPS), (LOOPS[0], LOOPS[0])):
                estimate = cycles_of(products(turns, unroll), rows, array((n * mesh.size, n), rows),
                                  array((n, n), whole))
                write({"topology": topology, "products": n, "times": turns, "loop": unroll == 1,
                       "cycles": estimate})
            for size in BYTES:
                estimate = cycles_of(total(mesh), rows,
                                  array((mesh.size, size // 4), rows, jnp.float32))
                write({"topology": topology, "all_reduce_bytes": size, "cycles": estimate})


if __name__ == "__main__":
    main()
