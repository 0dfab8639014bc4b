"""Translation by an encoder and a decoder (Vaswani et al. 2017).

    config.task = "translate"; config.model (name="seq2seq"), config.data (karpjax/sources/pairs.py)
    config.label_smoothing   of the training loss (Szegedy et al. 2016, section 7): 0.1
    config.beams             hypotheses of the test and of `predict`: 5
    config.length_penalty    of their scores (karpjax/generation/beam.py): 1.0

The decoder reads the target one token late, and predicts each token and the end. Metrics: "xent"
(smoothed, the training's loss), "nll" (nats a token, unsmoothed) and "accuracy", given the right
tokens before. Of translations made by the model: "BLEU", "BLEU_lc" and "chrF", on detokenised text
(karpjax/generation/scores.py). Validation translates greedily, the test with beams. The run's end
leaves translations.txt, with the scores' signatures, and attention.png.

    karpjax.restore("runs/multi30k").predict(["A dog runs."])      # a list of texts

What to expect: configs/translate_multi30k.py.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.generation.scores import metrics as check_sacrebleu
from karpjax.generation.scores import scores
from karpjax.generation.translation import texts_of, translate, words_of
from karpjax.models.layers.transformer import attention_of
from karpjax.run import pictures
from karpjax.sources.source import SpecOnly

SHOWN, LISTED = 4, 100  # pairs of attention.png and of translations.txt


def build(config) -> kj.Task:
    """Build the task: source (B, S) -> target (B, T), a token at a time."""
    check_own_keys(config, "label_smoothing", "beams", "length_penalty")
    smoothing, best_of = check_smoothing(config), config.get("beams", 5)
    source = kj.sources.pairs(config.data)
    if not isinstance(source, SpecOnly):
        check_sacrebleu()  # before the training, not at its first evaluation
    vocabulary, length = source.vocabulary, source.spec["length"]
    model = kj.models.make_model(config.model, vocabulary=vocabulary.size)
    texts, words = (functools.partial(f, vocabulary) for f in (texts_of, words_of))

    def inputs(batch):
        """Return the model's arguments. It reads each target one token late, from [CLS] on."""
        segments = batch["target_segments"]                                            # (B, T)
        before, late = (jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for x in (segments, batch["target"]))
        return {"source": batch["source"], "source_segments": batch["source_segments"],
                "target": jnp.where(segments != before, vocabulary.cls, late),         # (B, T)
                "target_segments": segments}

    def network(params, model_state, batch, key):
        """Return {name: (total, count)} of the cross-entropies and accuracy, and model_state."""
        logits, model_state = kj.apply(model, params, model_state, key=key,
                                       **inputs(batch))                                # (B, T, V)
        target = batch["target"]                                                       # (B, T)
        weight = (batch["target_segments"] > 0) * batch["weight"][:, None]             # (B, T)
        correct = (logits.argmax(-1) == target).astype(jnp.float32)                    # (B, T)
        log_p = jax.nn.log_softmax(logits)                                             # (B, T, V)
        nll = -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]          # (B, T)
        # The mass of smoothing lies on what can be predicted: none on padding.
        mass = vocabulary.can_follow / vocabulary.can_follow.sum()                     # (V,)
        xent = (1 - smoothing) * nll - smoothing * log_p @ mass                        # (B, T)
        return {"xent": kj.mean(xent, weight), "nll": kj.mean(nll, weight),
                "accuracy": kj.mean(correct, weight)}, model_state

    def loss(params, model_state, batch, key):
        metrics, model_state = network(params, model_state, batch, key)
        return {"xent": metrics.pop("xent")}, metrics, model_state

    def translated(variables, tokens, beams: int):
        """Return the ids (B, T) of the best translations of source tokens (B, S)."""
        return translate(model, variables, tokens, vocabulary, length, beams,
                         config.get("length_penalty", 1.0))

    def evaluate(beams, variables, batch):
        metrics, _ = network(*split_variables(variables), batch, None)
        return {"loss": metrics["nll"], **metrics, "target": kj.rows(batch["target"]),
                "translation": kj.rows(translated(variables, batch["source"], beams)),
                "source": kj.rows(batch["source"], at_end=True)}

    def summarize(totals, rows):
        values, interval, _ = scores(texts(rows["translation"]), texts(rows["target"]))
        return {**values, "interval_95": interval}

    def list_pairs(totals, rows, split):
        columns = [texts(rows[name]) for name in ("source", "target", "translation")]
        return {"translations.txt": listed(*columns, split)}

    def show(variables, batch):
        """Return a picture of what the last layer of the decoder looks at in the source."""
        tokens = batch["source"][:SHOWN]
        ids = jax.jit(translated, static_argnums=2)(variables, tokens, best_of)         # (B, T)
        pairs = source.preprocess({"source": tokens, "target": ids})
        looks = attention_of(model.clone(remat=False), variables, **inputs(pairs))
        last = looks[f"decoder_block{model.depth - 1}/cross"].mean(1)                  # (B, T, S)
        panels = [(look, words(written), words(read))
                  for look, written, read in zip(np.asarray(last), ids, tokens, strict=True)]
        return {"attention.png": pictures.attention(panels)}

    source.detokenize = texts
    return kj.Task(model, source, loss, inputs=inputs, show=show, summarize=summarize,
                   evaluate={"test": functools.partial(evaluate, best_of),
                             "": functools.partial(evaluate, 1)},
                   predict=lambda variables, raw: translated(variables, raw["source"], best_of),
                   pictures=list_pairs)


def listed(sources: list[str], references: list[str], translations: list[str], split: str) -> str:
    """Return a text of the scores with their signatures, then some pairs and their translations."""
    _, _, signatures = scores(translations, references)
    lines = [f"{split}, {len(sources):,} pairs", *signatures]
    for source, reference, translation in zip(sources[:LISTED], references, translations,
                                              strict=False):
        lines += ["", f"source       {source}", f"reference    {reference}",
                  f"translation  {translation}"]
    return "\n".join(lines) + "\n"


def check_smoothing(config) -> float:
    """Return config.label_smoothing."""
    smoothing = config.get("label_smoothing", 0.1)
    if not 0 <= smoothing < 1:
        raise kj.UserError("config.label_smoothing: expected a share of at least 0 and below 1, "
                           f"found {smoothing}")
    return smoothing
