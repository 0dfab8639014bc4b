"""Decoding: a loop over one step of a model, as pure functions of arrays.

    tokens = generate(step, cache, logits, start, length, sampler(0.8, top_p=0.95), keys)
    tokens, scores = beam_search(step, cache, logits, start, length, beams=5, eos=0, pad=1)

Both know no model and no tokenizer. They get the logits after the prompt and a function:

    step(tokens (B,), positions (B,), cache) -> (logits (B, V), cache)

The step feeds one token a row, at that row's own position. The cache is any pytree whose leaves
have the rows on axis 0. All sizes are static, so a decoder is one program, on any mesh.
"""
from karpjax.generation.beam import beam_search
from karpjax.generation.decode import generate
from karpjax.generation.sampling import greedy, sampler

__all__ = ["beam_search", "generate", "greedy", "sampler"]
