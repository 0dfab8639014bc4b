"""Decoding: a loop over one step of a model, as pure functions of arrays.

    tokens = generate(step, cache, logits, start, length, sampler(0.8, top_p=0.95), keys)

`generate` knows no model and no tokenizer. It gets the logits after the prompt and a function:

    step(tokens (B,), positions (B,), cache) -> (logits (B, V), cache)

The step feeds one token a row, at that row's own position. The cache is any pytree whose leaves have the
rows on axis 0. All sizes are static, so a decoder is one program, on any mesh.
"""
from karpjax.generation.decode import generate
from karpjax.generation.sampling import greedy, sampler

__all__ = ["generate", "greedy", "sampler"]
