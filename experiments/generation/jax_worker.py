"""karpjax's sampling from a GPT-2.

    python experiments/generation/jax_worker.py CASE FILE FORM

CASE is JSON, see case.py, FILE has the weights. FORM is "cache", or "no cache": each token by a
pass over the whole row.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments.generation.case import TOP_K, context, model_of, prompts  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.generation import generate, greedy, sampler  # noqa: E402


def cached(model, variables, tokens, length: int):
    """Return (step, cache, logits after the prompts), with keys and values kept."""
    def step(token, position, cache):
        logits, cache = model.apply(variables, token[:, None], cache=cache,
                                    positions=position[:, None])                    # (B, 1, V)
        return logits[:, 0], cache
    logits, cache = model.apply(variables, tokens, cache=model.empty_cache(len(tokens), length))
    return step, cache, logits[:, -1]


def whole_passes(model, variables, tokens, length: int):
    """Return the same, with the tokens as the cache. Rows have their final length from the start,
    since shapes are static.
    """
    def step(token, position, cache):
        cache = cache.at[jnp.arange(len(cache)), position].set(token)               # (B, L)
        logits = model.apply(variables, cache)                                      # (B, L, V)
        return logits[jnp.arange(len(cache)), position], cache
    cache = jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    return step, cache, model.apply(variables, tokens)[:, -1]


FORMS = {"cache": cached, "no cache": whole_passes}


def main(case: str, file: str, form: str):
    case = json.loads(case)
    model, tokens = model_of(case), jnp.asarray(prompts(case))
    like = jax.eval_shape(model.init, jax.random.key(0), tokens)
    variables = jax.tree.map(jnp.asarray, weights.to_karpjax(
        model, like, weights.read_arrays(file), file))
    start = jnp.full(len(tokens), case["prompt"])

    def decoder(choose):
        @jax.jit
        def decode(variables, tokens, keys):
            step, cache, logits = FORMS[form](model, variables, tokens, context(case))
            return generate(step, cache, logits, start, case["new"], choose, keys)
        return decode
    sample = decoder(sampler(temperature=1.0, top_k=TOP_K))
    keys = jax.random.split(jax.random.key(2), len(tokens))
    expected = decoder(greedy)(variables, tokens, keys).tolist()

    def run_steps(n):
        for _ in range(n):
            jax.block_until_ready(sample(variables, tokens, keys))
    serve(run_steps, json.dumps({"jax": jax.__version__, "greedy": expected}))


if __name__ == "__main__":
    main(*sys.argv[1:])
