"""Masked language modelling (Devlin et al. 2019, section 3.1): predict the tokens that were masked, from both sides.

    config.task = "masked_text"; config.model, config.data (karpjax/sources/text.py),
    config.mask_rate        in training, 0.3 (Wettig et al. 2023 find 0.15 to 0.4 alike); evaluation always masks the same 0.15
    config.replace          true: BERT's 80/10/10, a tenth of the chosen tokens random and a tenth as they were
    config.full_head        true: logits at all positions, for comparison: the same loss, more memory and time

Masks are keyed by the row's draw number, so that they do not depend on devices; in evaluation by the position in the split.
Metrics: "mlm" (nats a masked token), "accuracy". What to expect: configs/mlm_tiny.py.
"""
import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.datasets.tokenizer import Vocabulary
from karpjax.sources.source import example_keys

SHOWN = 4  # rows at the end of a run
EVAL_RATE = 0.15  # whatever the training rate, so that runs compare
CHANGED, RANDOM = 0.8, 0.1  # of the chosen tokens: becomes the mask token; becomes any token


def build(config) -> kj.Task:
    check_own_keys(config, "mask_rate", "replace", "full_head")
    rate, replace, full_head = config.get("mask_rate", 0.3), config.get("replace", False), config.get("full_head", False)
    if not 0 < rate < 1:
        raise kj.UserError(f"config.mask_rate: expected a share between 0 and 1, found {rate}")
    source = kj.sources.text(config.data, augment=lambda example, key: masked(example, key, rate, source.vocabulary, replace))
    model = kj.models.make_model(config.model, vocabulary=source.vocabulary.size)

    def masked_for_evaluation(batch):
        mask = lambda tokens, key: masked({"tokens": tokens}, key, EVAL_RATE, source.vocabulary)
        return {**batch, **jax.vmap(mask)(batch["tokens"], example_keys(jax.random.key(0), batch["index"]))}

    def segments_of(batch):
        """Packed rows bring theirs; of the others padding is told apart, and bytes have none."""
        return batch.get("segments", source.vocabulary.segments(batch["tokens"]) if source.vocabulary.pad >= 0 else None)

    def loss(params, model_state, batch, key):
        batch = batch if key is not None else masked_for_evaluation(batch)
        at = batch["at"]                                                                                  # (B, K)
        logits, model_state = kj.apply(model, params, model_state, batch["inputs"], key, segments=segments_of(batch),
                                       at=None if full_head else at)                                      # (B, K or T, V)
        if full_head:
            logits = jnp.take_along_axis(logits, at[..., None], axis=1)                                   # (B, K, V)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])                    # (B, K)
        correct = (logits.argmax(-1) == batch["target"]).astype(jnp.float32)                              # (B, K)
        weight = batch["masked"] * batch["weight"][:, None]                                               # (B, K)
        return {"mlm": kj.mean(nll, weight)}, {"accuracy": kj.mean(correct, weight)}, model_state

    def predict(variables, tokens):
        """Logits at every position, (B, T, V)."""
        return kj.apply(model, *split_variables(variables), tokens, segments=segments_of({"tokens": tokens}))[0]

    def show(variables, batch):
        """Each row with its masks, and what the model holds most likely at each; * marks what was there."""
        rows = masked_for_evaluation(jax.tree.map(lambda column: column[:SHOWN], batch))
        logits, _ = kj.apply(model, *split_variables(variables), rows["inputs"], segments=segments_of(rows), at=rows["at"])
        chance, best = jax.lax.top_k(jax.nn.softmax(logits), 3)                                           # (B, K, 3)
        word, lines = lambda token: repr(source.vocabulary.decode([token])), []
        for i, inputs in enumerate(np.asarray(rows["inputs"])):
            lines.append(source.vocabulary.decode(inputs))
            for k in np.argsort(rows["at"][i]):
                if rows["masked"][i, k]:
                    target = int(rows["target"][i, k])
                    guesses = ", ".join(f"{'*' * (token == target)}{word(token)} {p:.2f}"
                                        for token, p in zip(best[i, k].tolist(), chance[i, k].tolist()))
                    lines.append(f"    {word(target)}: {guesses}")
        return {"predictions.txt": "\n".join(lines) + "\n"}

    return kj.Task(model, source, loss, predict=predict, inputs="tokens", show=show)


def masked(example: dict, key, rate: float, vocabulary: Vocabulary, replace: bool = False) -> dict:
    """One row, tokens (T,) and perhaps segments (T,), with K = round(rate x T) positions chosen for prediction:

    inputs (T,), with the chosen ones masked; at (K,), where they are; target (K,), what was there; masked (K,), 1 if it counts

    Only ordinary tokens are chosen, never padding or special ones. A row that has fewer gives the same share of those: its
    other positions of the K have weight 0 and stay as they are.
    """
    tokens = example["tokens"]                                                                            # (T,)
    choosing, drawing, deciding = jax.random.split(key, 3)
    low, high = vocabulary.ordinary
    ordinary = (low <= tokens) & (tokens < high)                                                          # (T,)
    noise = jnp.where(ordinary, jax.random.uniform(choosing, tokens.shape), 2.0)                          # (T,)
    # argsort rather than top_k, which XLA cannot split over devices on the CPU: it would gather the batch.
    at = jnp.argsort(noise)[:max(1, round(rate * len(tokens)))]                                           # (K,)
    wanted = jnp.maximum(1, jnp.round(rate * ordinary.sum()))
    counts = ordinary[at] & (jnp.arange(len(at)) < wanted)                                                # (K,)
    target = tokens[at]                                                                                   # (K,)
    new = jnp.full_like(target, vocabulary.mask)
    if replace:
        u, any_token = jax.random.uniform(deciding, at.shape), jax.random.randint(drawing, at.shape, low, high, tokens.dtype)
        new = jnp.where(u < CHANGED, new, jnp.where(u < CHANGED + RANDOM, any_token, target))
    inputs = tokens.at[at].set(jnp.where(counts, new, target))                                            # (T,)
    return {**example, "inputs": inputs, "at": at, "target": target, "masked": counts.astype(jnp.float32)}

