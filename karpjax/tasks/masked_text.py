"""Masked language modelling (Devlin et al. 2019, section 3.1): predict masked tokens.

    config.task = "masked_text"; config.model, config.data (karpjax/sources/text.py),
    config.mask_rate        in training, 0.3 (Wettig et al. 2023 find 0.15 to 0.4 alike);
                            evaluation always masks the same 0.15
    config.replace          true: BERT's 80/10/10, a tenth of the chosen tokens random and a tenth
                            as they were
    config.full_head        true: logits at all positions, for comparison: the same loss, more
                            memory and time

The encoder sees both sides of a masked token. Masks are keyed by the row's draw number, so that
they do not depend on devices. In evaluation they are keyed by the position in the split.
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

SHOWN = 4                   # rows at the end of a run
EVAL_RATE = 0.15            # whatever the training rate, so that runs compare
CHANGED, RANDOM = 0.8, 0.1  # of the chosen tokens: becomes the mask token; becomes any token


def build(config) -> kj.Task:
    """Build the task: tokens (B, T) -> logits (B, K, V) at the masked positions."""
    check_own_keys(config, "mask_rate", "replace", "full_head")
    rate, replace = config.get("mask_rate", 0.3), config.get("replace", False)
    full_head = config.get("full_head", False)
    if not 0 < rate < 1:
        raise kj.UserError(f"config.mask_rate: expected a share between 0 and 1, found {rate}")

    def mask_in_training(example, key):
        return masked(example, key, rate, source.vocabulary, replace)

    source = kj.sources.text(config.data, augment=mask_in_training)
    model = kj.models.make_model(config.model, vocabulary=source.vocabulary.size)

    def mask_in_evaluation(batch):
        def mask(tokens, key):
            return masked({"tokens": tokens}, key, EVAL_RATE, source.vocabulary)
        keys = example_keys(jax.random.key(0), batch["index"])
        return {**batch, **jax.vmap(mask)(batch["tokens"], keys)}

    def loss(params, model_state, batch, key):
        batch = batch if key is not None else mask_in_evaluation(batch)
        at = batch["at"]                                                               # (B, K)
        logits, model_state = kj.apply(                                                # (B, K, V)
            model, params, model_state, batch["inputs"], key,
            segments=segments_of(batch, source.vocabulary), at=None if full_head else at)
        if full_head:                                                         # from (B, T, V)
            logits = jnp.take_along_axis(logits, at[..., None], axis=1)                # (B, K, V)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])  # (B, K)
        correct = (logits.argmax(-1) == batch["target"]).astype(jnp.float32)           # (B, K)
        weight = batch["masked"] * batch["weight"][:, None]                            # (B, K)
        metrics = {"accuracy": kj.mean(correct, weight)}
        return {"mlm": kj.mean(nll, weight)}, metrics, model_state

    def show(variables, batch):
        """Return a text of rows with their masks, and the model's three best guesses at each."""
        rows = mask_in_evaluation(jax.tree.map(lambda column: column[:SHOWN], batch))
        logits, _ = kj.apply(model, *split_variables(variables), rows["inputs"],
                             segments=segments_of(rows, source.vocabulary), at=rows["at"])
        chance, best = jax.lax.top_k(jax.nn.softmax(logits), 3)                        # (B, K, 3)
        lines = guess_lines(rows, np.asarray(chance), np.asarray(best), source.vocabulary)
        return {"predictions.txt": "\n".join(lines) + "\n"}

    def segments(batch):
        return {"segments": segments_of(batch, source.vocabulary)}

    return kj.Task(model, source, loss, inputs="tokens", derived=segments, show=show)


def segments_of(batch: dict, vocabulary: Vocabulary):
    """Return the segments (B, T) of packed rows, else 1 and 0 for padding, or None for bytes."""
    if "segments" in batch or vocabulary.pad < 0:
        return batch.get("segments")
    return vocabulary.segments(batch["tokens"])


def guess_lines(rows: dict, chance: np.ndarray, best: np.ndarray,
                vocabulary: Vocabulary) -> list[str]:
    """Return each row, then a line a mask: the token, and guesses with their probabilities.

    rows           inputs (B, T), at, target and masked (B, K)
    chance, best   (B, K, 3); * marks the guess that is right
    """
    def word(token):
        return repr(vocabulary.decode([token]))

    lines = []
    for i, inputs in enumerate(np.asarray(rows["inputs"])):
        lines.append(vocabulary.decode(inputs))
        for k in np.argsort(rows["at"][i]):
            if rows["masked"][i, k]:
                target = int(rows["target"][i, k])
                pairs = zip(best[i, k].tolist(), chance[i, k].tolist(), strict=True)
                guesses = [f"{'*' * (token == target)}{word(token)} {p:.2f}" for token, p in pairs]
                lines.append(f"    {word(target)}: {', '.join(guesses)}")
    return lines


def masked(example: dict, key, rate: float, vocabulary: Vocabulary, replace: bool = False) -> dict:
    """Choose K = round(rate x T) positions of one row for prediction, and mask them.

    example    tokens (T,) and perhaps segments (T,)

    Adds inputs (T,), the tokens with the chosen ones masked; at (K,), their positions; target (K,),
    their tokens; masked (K,), 1 if it counts. Only ordinary tokens are chosen, never padding or
    special ones. A row that has fewer gives the same share of those: its other positions of the K
    have weight 0 and stay as they are.
    """
    tokens = example["tokens"]                                                             # (T,)
    choosing, drawing, deciding = jax.random.split(key, 3)
    low, high = vocabulary.ordinary
    ordinary = (low <= tokens) & (tokens < high)                                           # (T,)
    noise = jnp.where(ordinary, jax.random.uniform(choosing, tokens.shape), 2.0)           # (T,)
    # argsort rather than top_k: XLA cannot split top_k over devices on the CPU, and would gather
    # the batch.
    at = jnp.argsort(noise)[:max(1, round(rate * len(tokens)))]                            # (K,)
    wanted = jnp.maximum(1, jnp.round(rate * ordinary.sum()))
    counts = ordinary[at] & (jnp.arange(len(at)) < wanted)                                 # (K,)
    target = tokens[at]                                                                    # (K,)
    new = jnp.full_like(target, vocabulary.mask)
    if replace:
        u = jax.random.uniform(deciding, at.shape)
        any_token = jax.random.randint(drawing, at.shape, low, high, tokens.dtype)
        new = jnp.where(u < CHANGED, new, jnp.where(u < CHANGED + RANDOM, any_token, target))
    inputs = tokens.at[at].set(jnp.where(counts, new, target))                             # (T,)
    return {**example, "inputs": inputs, "at": at, "target": target,
            "masked": counts.astype(jnp.float32)}
