"""The reason for convolutions in parts on the CPU: GFLOP/s of one convolution and its two
gradients, by the size of the part.

    python experiments/speed/conv_gradient.py --log=experiments/speed/conv_gradient.jsonl  # alone

Two minutes pass. The shapes are those of the airbench network. Each time is the best of five.
"""
import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
from jax import lax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

SHAPES = [(31, 24, 64), (15, 64, 64), (15, 64, 256), (7, 256, 256)]  # side, channels in and out


def convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


def in_parts(function, rows: int, join):
    """Return a function that applies `function` to every `rows` rows and joins the results."""
    return lambda x, kernel, dy: join([function(x[i:i + rows], kernel, dy[i:i + rows])
                                       for i in range(0, len(x), rows)])


FUNCTIONS = {
    "forward": (lambda x, kernel, dy: convolve(x, kernel), jnp.concatenate),
    "input gradient": (lambda x, kernel, dy: jax.vjp(lambda x: convolve(x, kernel), x)[1](dy)[0],
                       jnp.concatenate),
    "weight gradient": (lambda x, kernel, dy: jax.vjp(lambda k: convolve(x, k), kernel)[1](dy)[0],
                        sum)}


def seconds(function, *arguments) -> float:
    function, best = jax.jit(function), float("inf")
    jax.block_until_ready(function(*arguments))
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - started)
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    B, machine = options.batch, {"versions": versions(),
                                 "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    with open(options.log, "a") as log:
        for side, inputs, outputs in SHAPES:
            keys = jax.random.split(jax.random.key(0), 3)
            x, dy = (jax.random.normal(key, (B, side, side, n))
                     for key, n in zip(keys[:2], (inputs, outputs), strict=True))
            kernel = jax.random.normal(keys[2], (3, 3, inputs, outputs))
            flops = 18 * B * side**2 * inputs * outputs
            for name, (function, join) in FUNCTIONS.items():
                rate = {rows: round(flops / 1e9 / seconds(in_parts(function, rows, join), x,
                                                          kernel, dy), 1)
                        for rows in (16, 32, 64, 128, B) if rows <= B}
                row = {"shape": [side, inputs, outputs], "batch": B, "what": name,
                       "gflops_by_rows": rate}
                print(json.dumps(row), flush=True)
                log.write(json.dumps({**row, **machine}) + "\n")


if __name__ == "__main__":
    main()
