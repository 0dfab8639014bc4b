"""The gradient of a table's rows, three ways, in turns: XLA's scatter in bf16 (nn.Embed's), in
float32, and a one-hot matmul.

    python experiments/gpu/embedding.py --log=experiments/gpu/embedding.jsonl

65,536 tokens of 8,192, a quarter of them one (the mask) and the rest as frequent as words are
(Zipf), rows of 512. Medians of 9 rounds, in milliseconds. --quick: small, for tests.
"""
import argparse
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.models.layers.embed import by_matmul, by_scatter  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

WAYS = {"scatter, bf16": lambda table, at, g: jnp.zeros_like(table).at[at].add(g),
        "scatter, float32": by_scatter,
        "matmul": by_matmul}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", default=str(HERE / "embedding.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tokens, rows, width, rounds = (512, 64, 8, 3) if options.quick else (65_536, 8192, 512, 9)
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, rows + 1)
    words = rng.choice(rows, size=tokens, p=chance / chance.sum())
    at = jnp.array(np.where(rng.random(tokens) < 0.25, rows - 1, words))
    table = jnp.zeros((rows, width), jnp.bfloat16)
    g = jnp.array(rng.normal(size=(tokens, width)), jnp.bfloat16)
    compiled = {name: jax.jit(way) for name, way in WAYS.items()}
    for run in compiled.values():
        jax.block_until_ready(run(table, at, g))
    times = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(table, at, g))
            times[name].append(1e3 * (time.perf_counter() - start))
    log = [{"versions": versions(), "device": device(make_mesh()), "tokens": tokens, "rows": rows,
            "width": width}]
    log += [{"way": name, "milliseconds": statistics.median(each), "all": each}
            for name, each in times.items()]
    pathlib.Path(options.log).write_text("".join(json.dumps(row) + "\n" for row in log))
    for row in log[1:]:
        print(f"{row['way']:<18} {row['milliseconds']:9.3f} ms")


if __name__ == "__main__":
    main()
