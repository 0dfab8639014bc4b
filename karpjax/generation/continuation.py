"""Continuations of any length by a model of a bounded context, window by window.

A row that has filled the context goes on from its last half, as a prompt of its own. So every token
is predicted from at least half a context, at positions that training has seen. The cache of keys
and values is made again once a window, and serves the window's other tokens.
"""
from collections.abc import Callable

import jax
import numpy as np

from karpjax.core.errors import UserError
from karpjax.generation.decode import check_length


def continue_rows(window: Callable, prompts: list[list[int]], length: int, context: int, keys,
                  eos: int = -1) -> list[list[int]]:
    """Return `length` new tokens for each prompt, or fewer that end with `eos`.

    window   (tokens (B, T), starts (B,), keys (B,), steps) -> new tokens (B, steps). Row b's prompt
             is tokens[b, :starts[b]]
    prompts  of 1 to `context` tokens each
    context  T, the most tokens that the model sees
    keys     (B,), one a row: a row's tokens depend on its prompt and its key alone
    """
    check_length(length)
    check_prompts(prompts, context)
    half = max(1, context // 2)
    steps = min(length, half)            # the size of the program: one for all windows
    rows = [list(prompt) for prompt in prompts]
    goals = [len(row) + length for row in rows]

    def is_open(b):
        return len(rows[b]) < goals[b] and (len(rows[b]) == len(prompts[b]) or rows[b][-1] != eos)

    while any(map(is_open, range(len(rows)))):
        seen = [row if len(row) <= context else row[-half:] for row in rows]
        tokens = np.stack([np.pad(part, (0, context - len(part))) for part in seen])      # (B, T)
        starts = np.array([len(part) for part in seen])                                   # (B,)
        made = np.array([len(row) - len(prompt)
                         for row, prompt in zip(rows, prompts, strict=True)])             # (B,)
        # Positions begin again in each window, and so would the draws of its tokens.
        window_keys = jax.vmap(jax.random.fold_in)(keys, made)
        drawn = np.asarray(window(tokens, starts, window_keys, steps))                    # (B, S)
        for b in filter(is_open, range(len(rows))):
            # The last token may lie one place beyond the context: nothing is predicted from it.
            room = min(context + 1 - len(seen[b]), goals[b] - len(rows[b]))
            rows[b] += until(drawn[b, :room].tolist(), eos)
    return [row[len(prompt):] for row, prompt in zip(rows, prompts, strict=True)]


def until(tokens: list[int], eos: int) -> list[int]:
    """Return the tokens up to the first `eos`, with it."""
    return tokens[:tokens.index(eos) + 1] if eos in tokens else tokens


def check_prompts(prompts: list[list[int]], context: int) -> None:
    """Check that every prompt has tokens, and no more than the context."""
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty; expected at least one token to go on from")
        if len(prompt) > context:
            raise UserError(f"prompt {i} has {len(prompt)} tokens, expected at most the context, "
                            f"{context}; give its last part")
