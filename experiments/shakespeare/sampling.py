"""Sampled tokens a second: with a cache of keys and values, without one, and by Hugging Face.

    python experiments/shakespeare/sampling.py --torch_python=PATH       # some minutes, alone
    python experiments/shakespeare/sampling.py --quick --log=FILE

A GPT-2 of 4 layers of 128 with random weights writes 255 characters after one, in 1 and in 16 rows
at once, at temperature 1. Hugging Face's `generate` has the same weights. All are processes of
their own, in turns. sampling.jsonl has a line a turn, in milliseconds a text, then tokens a second.
"""
import functools
import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments.runs import Log, command  # noqa: E402
from experiments.speed.harness import Worker, in_turns, serve  # noqa: E402
import karpjax as kj  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.generation import generate, sampler  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

VOCABULARY, ROWS = 65, (1, 16)
SIZE = dict(layers=4, width=128, heads=4, context=256)
SMALL = dict(layers=1, width=16, heads=2, context=16)


def model_of(quick: bool):
    """Return the network, and its random weights."""
    model = kj.models.make_model(dict(name="causal_lm", **(SMALL if quick else SIZE),
                                      **kj.models.GPT2), vocabulary=VOCABULARY)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def with_cache(model, variables, keys):
    """Return (B, T - 1) tokens after token 0, each from a pass over one token."""
    start = jnp.zeros(len(keys), jnp.int32)                                  # (B,)

    def step(tokens, positions, cache):
        logits, cache = model.apply(variables, tokens[:, None], cache=cache,
                                    positions=positions[:, None])
        return logits[:, 0], cache                                           # (B, V)
    logits, cache = step(start, start, model.empty_cache(len(keys), model.context))
    return generate(step, cache, logits, start + 1, model.context - 1, sampler(), keys)


def without_cache(model, variables, keys):
    """Return the same tokens, each from a pass over the whole context."""
    whole = jnp.zeros((len(keys), model.context), jnp.int32)                 # (B, T)

    def step(tokens, positions, whole):
        whole = jax.vmap(lambda row, at, token: row.at[at].set(token))(whole, positions, tokens)
        logits = model.apply(variables, whole)                               # (B, T, V)
        return jnp.take_along_axis(logits, positions[:, None, None], axis=1)[:, 0], whole
    start = whole[:, 0]
    logits, whole = step(start, start, whole)
    return generate(step, whole, logits, start + 1, model.context - 1, sampler(), keys)


WAYS = {"cache": with_cache, "no cache": without_cache}


def serve_ours(way: str, rows: int, quick: bool) -> None:
    """Write texts on request."""
    model, variables = model_of(quick)
    program = jax.jit(functools.partial(WAYS[way], model))
    keys = jax.random.split(jax.random.key(0), rows)
    serve(lambda n: [program(variables, keys).block_until_ready() for _ in range(n)])


def study(options, workdir: pathlib.Path) -> None:
    log = Log(options.log)
    model, variables = model_of(options.quick)
    np.savez(workdir / "weights.npz", **weights.to_pytorch(model, variables))
    (workdir / "size.json").write_text(json.dumps(
        {**(SMALL if options.quick else SIZE), "vocabulary": VOCABULARY}))
    # The cache changes no text.
    keys = jax.random.split(jax.random.key(0), 2)
    texts = [jax.jit(functools.partial(way, model))(variables, keys) for way in WAYS.values()]
    log({"rows": 2, "same tokens with and without cache":
         float((texts[0] == texts[1]).mean())})
    rounds, n = (2, 1) if options.quick else (9, 2)
    for rows in ROWS[:1] if options.quick else ROWS:
        quick = ["--quick"] if options.quick else []
        workers = {name: Worker([sys.executable, str(HERE / "sampling.py"), "--serve", name,
                                 str(rows), *quick]) for name in WAYS}
        if options.torch_python:
            workers |= {f"Hugging Face, {name}": Worker(
                [options.torch_python, str(HERE / "torch_sampling.py"), str(workdir), name,
                 str(rows)]) for name in WAYS}
        times = list(in_turns(workers, rounds, n))
        for row in times:
            log({"rows": rows, **row})
        log({"rows": rows, "tokens_per_second": {
            name: round(1000 * rows * (model.context - 1) / statistics.median(
                row[name] for row in times)) for name in workers}})
        for worker in workers.values():
            worker.close()
    log({"versions": versions(), "device": device(make_mesh(devices=jax.devices()[:1]))})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:  # internal: a worker
        serve_ours(sys.argv[2], int(sys.argv[3]), "--quick" in sys.argv)
    else:
        command(study, HERE / "sampling.jsonl",
                lambda parser: parser.add_argument("--torch_python", default=""))
