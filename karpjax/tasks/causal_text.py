"""Causal language modelling: predict each token from those before it (Radford et al. 2019).

    config.task = "causal_text"; config.model (name="causal_lm"),
    config.data (karpjax/sources/causal.py)

Metrics: "nll" (nats a token), "accuracy", and "bits_per_byte". The last has a count of its own, the
bytes of the targets as text in UTF-8, so that runs with other tokenizers compare. An evaluation
reads its split whole, in windows side by side of config.data.length tokens. A token is predicted
from those before it in its window alone: from half a window on average.

    run = karpjax.restore("runs/shakespeare")
    run.generate("To be", length=200, temperature=0.8)     # a text; a list of texts for a list

What to expect: configs/gpt_shakespeare.py.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core.settings import check_own_keys
from karpjax.generation import generate, sampler
from karpjax.generation.continuation import continue_rows
from karpjax.models.layers.transformer import attention_of
from karpjax.run import pictures

SHOWN, PROMPT, CONTINUED = 3, 32, 400  # samples of a run's end; their tokens, given and new


def build(config) -> kj.Task:
    """Build the task: tokens (B, T) -> logits (B, T, V) of the tokens that follow."""
    check_own_keys(config)
    source = kj.sources.causal(config.data)
    vocabulary, context = source.vocabulary, source.spec["length"]
    model = kj.models.make_model(config.model, vocabulary=vocabulary.size)

    def segments(batch):
        return {"segments": batch["segments"]} if "segments" in batch else {}

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["tokens"], key,
                                       **segments(batch))                              # (B, T, V)
        target = batch["target"]                                                       # (B, T)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, target)          # (B, T)
        correct = (logits.argmax(-1) == target).astype(jnp.float32)                    # (B, T)
        weight = batch["weight_of_token"] * batch["weight"][:, None]                   # (B, T)
        nats, tokens = kj.mean(nll, weight)
        text_bytes = jnp.sum(batch["bytes"] * batch["weight"])
        metrics = {"bits_per_byte": (nats / np.log(2), text_bytes),
                   "accuracy": kj.mean(correct, weight)}
        return {"nll": (nats, tokens)}, metrics, model_state

    @functools.partial(jax.jit, static_argnames=("steps", "options"))
    def window(variables, tokens, starts, keys, steps: int, options: tuple):
        """Return (B, steps) tokens that follow the first starts (B,) of the tokens (B, T)."""
        def network(tokens, cache, **places):
            logits, cache = model.apply(variables, tokens, cache=cache, **places)      # (B, 1, V)
            return jnp.where(vocabulary.can_follow, logits[:, 0], -jnp.inf), cache     # (B, V)

        def step(tokens, positions, cache):
            return network(tokens[:, None], cache, positions=positions[:, None])
        logits, cache = network(tokens, model.empty_cache(*tokens.shape), at=starts[:, None] - 1)
        return generate(step, cache, logits, starts, steps, sampler(*options), keys,
                        eos=vocabulary.sep)

    def continued(variables, prompts: list[list[int]], length: int, options, seed: int):
        """Return the texts that follow prompts of ids, without the end token."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed),
                                                       np.arange(len(prompts)))        # (B,)
        rows = continue_rows(functools.partial(window, variables, options=options),
                             prompts, length, context, keys, eos=vocabulary.sep)
        return [vocabulary.decode(ids[:-1] if ids[-1] == vocabulary.sep else ids) for ids in rows]

    def generate_text(variables, prompt, length: int = 200, temperature: float = 1.0,
                      top_k: int = 0, top_p: float = 1.0, seed: int = 0):
        """Return the prompt and what follows it: a text, or a list of texts for a list.

        length   the most new tokens; a text may end before
        temperature, top_k, top_p    see karpjax/generation/sampling.py
        seed     with a text's number in the list, the draws of its tokens
        """
        texts = check_prompt(prompt)
        begin = [vocabulary.cls] if vocabulary.cls >= 0 else []  # of a document
        ids = [begin + each for each in vocabulary.ids(texts, masks=False)]
        new = continued(variables, ids, length, (temperature, top_k, top_p), seed)
        whole = [text + rest for text, rest in zip(texts, new, strict=True)]
        return whole[0] if isinstance(prompt, str) else whole

    def show(variables, batch):
        """Return samples, and a picture of what the last layer looks at.

        Samples go on from the beginnings of rows of a split.
        """
        shown = range(min(SHOWN, len(batch["tokens"])))
        prompts = [first_document(batch, i, vocabulary.sep)[:PROMPT] for i in shown]
        new = continued(variables, prompts, CONTINUED, (1.0, 0, 1.0), seed=0)
        parts = [f"-------- sample {i + 1}, from {vocabulary.decode(ids)!r}\n{rest}\n"
                 for i, (ids, rest) in enumerate(zip(prompts, new, strict=True))]
        files = {"samples.txt": "\n".join(parts)}
        if model.layers:
            tokens = jnp.array(prompts[:1])                                            # (1, T)
            looks = attention_of(model.clone(remat=False), variables, tokens)
            last = np.asarray(looks[f"block{model.layers - 1}/attention"][0].mean(0))  # (T, T)
            letters = [vocabulary.decode([token]) for token in prompts[0]]
            files["attention.png"] = pictures.attention([(last, letters, letters)])
        return files

    return kj.Task(model, source, loss, inputs="tokens", derived=segments, show=show,
                   methods={"generate": generate_text})


def check_prompt(prompt) -> list[str]:
    """Return a text or a list of texts as a list."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, (list, tuple)) or not texts or \
            not all(isinstance(text, str) and text for text in texts):
        raise kj.UserError("prompt: expected a text or a list of texts that are not empty, found "
                           f"{repr(prompt)[:80]}; give at least a character to go on from")
    return list(texts)


def first_document(batch: dict, i: int, sep: int) -> list[int]:
    """Return the tokens of the document that row i begins with, without its end."""
    tokens = np.asarray(batch["tokens"][i])                                            # (T,)
    if "segments" in batch:
        segments = np.asarray(batch["segments"][i])                                    # (T,)
        tokens = tokens[segments == segments[0]]
    return tokens[:-1].tolist() if len(tokens) > 1 and tokens[-1] == sep else tokens.tolist()
