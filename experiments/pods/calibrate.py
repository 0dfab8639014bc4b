"""What the TPU compiler's cycle estimate counts: programs of known cost, compiled for slices that are not here.

    python experiments/pods/calibrate.py --log=experiments/pods/calibration.jsonl            # a minute; needs libtpu
    python experiments/pods/calibrate.py --quick --log=FILE

Rows: matrix products of n x n bf16 a chip, with the share of the data sheet's peak that the estimate amounts to at the clock
that the peak implies; products in loops of 10 and of 100 turns, and ten written out; an all-reduce. What follows from them
is in README.md, and in karpjax/precompile/hlo.py.
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
            array = lambda shape, place, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            compiled = lambda f, *arrays: jax.jit(f, out_shardings=rows).lower(*arrays).compile()
            chip = CHIPS[topology.split(":")[0]]
            for n in sizes:
                found = cycles(compiled(jnp.matmul, array((n * mesh.size, n), rows), array((n, n), whole)).as_text())
                write({"topology": topology, "matmul": n, "cycles": found, "seconds": found / chip.clock,
                       "share_of_peak": round(2 * n**3 / (found / chip.clock) / chip.peak, 3)})
            n = sizes[-1] // 2
            for turns, unroll in (*((turns, 1) for turns in LOOPS), (LOOPS[0], LOOPS[0])):
                def products(x, w):                             # what a turn hands on is small: a large one would be copied
                    turn = lambda y, _: (jnp.tanh((x + y) @ w).max(1, keepdims=True), None)
                    return jax.lax.scan(turn, jnp.zeros_like(x[:, :1]), length=turns, unroll=unroll)[0]
                found = cycles(compiled(products, array((n * mesh.size, n), rows), array((n, n), whole)).as_text())
                write({"topology": topology, "products": n, "times": turns, "loop": unroll == 1, "cycles": found})
            for size in BYTES:
                total = lambda x: sharding.constrain(x.sum(0, keepdims=True), whole) * jnp.ones((mesh.size, 1))
                found = cycles(compiled(total, array((mesh.size, size // 4), rows, jnp.float32)).as_text())
                write({"topology": topology, "all_reduce_bytes": size, "cycles": found})


if __name__ == "__main__":
    main()
