"""Depthwise convolution on the CPU, one layer at a time, in turns: XLA's own and the sum over taps
(models/layers/conv.py).

    python experiments/speed/depthwise.py --log=FILE  # 2 minutes, alone on the machine

The layers are EfficientNet-Lite0's, on a batch of 32. A row for each layer: milliseconds forward,
and with both gradients, by medians.
"""
import argparse
import functools
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
from jax import lax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.models.layers.conv import depthwise  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

BATCH, ROUNDS = 32, 5
LAYERS = [(112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (28, 240, 5, 1), (14, 480, 5, 1),
          (7, 1152, 5, 1)]


def by_xla(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, feature_group_count=x.shape[-1],
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


def programs(convolve, stride: int) -> dict:
    forward = functools.partial(convolve, strides=(stride, stride), padding="SAME")

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(forward(x, kernel)))

    return {"forward": jax.jit(forward), "with gradients": jax.jit(jax.grad(loss, (0, 1)))}


def milliseconds(program, *arguments) -> float:
    started = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return 1000 * (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    options = parser.parse_args()
    with open(options.log, "w") as log:
        log.write(json.dumps({"versions": versions(),
                              "device": device(make_mesh(1, 1, jax.devices()[:1]))}) + "\n")
        for side, channels, kernel, stride in LAYERS:
            x = jax.random.normal(jax.random.key(0), (BATCH, side, side, channels))
            taps = jax.random.normal(jax.random.key(1), (kernel, kernel, 1, channels))
            both = {f"{who}, {what}": program
                    for who, convolve in (("xla", by_xla), ("taps", depthwise))
                    for what, program in programs(convolve, stride).items()}
            rounds = [{name: milliseconds(program, x, taps) for name, program in both.items()}
                      for _ in range(ROUNDS + 1)]
            # the first compiles
            median = {name: round(statistics.median(row[name] for row in rounds[1:]), 1)
                      for name in both}
            row = {"side": side, "channels": channels, "kernel": kernel, "stride": stride, **median}
            log.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
