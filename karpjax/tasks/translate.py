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
from karpjax.generation import beam_search
from karpjax.generation.scores import metrics as check_sacrebleu
from karpjax.generation.scores import scores
from karpjax.models.layers.transformer import attention_of
from karpjax.run import pictures
from karpjax.sources.source import SpecOnly

SHOWN, LISTED = 4, 100  # pairs of attention.png and of translations.txt


def build(config) -> kj.Task:
    """Build the task: source (B, S) -> target (B, T), a token at a time."""
    check_own_keys(config, "label_smoothing", "beams", "length_penalty")
    smoothing = config.get("label_smoothing", 0.1)
    if not 0 <= smoothing < 1:
        raise kj.UserError("config.label_smoothing: expected a share of at least 0 and below 1, "
                           f"found {smoothing}")
    source = kj.sources.pairs(config.data)
    if not isinstance(source, SpecOnly):
        check_sacrebleu()  # before the training, not at its first evaluation
    vocabulary, length = source.vocabulary, source.spec["length"]
    model = kj.models.make_model(config.model, vocabulary=vocabulary.size)
    special = tuple(np.flatnonzero(~vocabulary.can_follow).tolist())  # never predicted

    def inputs(batch):
        """Return the model's arguments. It reads the target one token late, from [CLS] on."""
        start = jnp.full_like(batch["target"][:, :1], vocabulary.cls)                  # (B, 1)
        late = jnp.concatenate([start, batch["target"][:, :-1]], axis=1)               # (B, T)
        # No segments of the target: its padding comes last, and nothing looks ahead.
        return {"source": batch["source"], "target": late,
                "source_segments": vocabulary.segments(batch["source"])}

    def network(params, model_state, batch, key, smoothing):
        """Return {name: (total, count)} of the cross-entropies and accuracy, and model_state."""
        logits, model_state = kj.apply(model, params, model_state, key=key,
                                       **inputs(batch))                                # (B, T, V)
        target = batch["target"]                                                       # (B, T)
        weight = (target != vocabulary.pad) * batch["weight"][:, None]                 # (B, T)
        correct = (logits.argmax(-1) == target).astype(jnp.float32)                    # (B, T)
        log_p = jax.nn.log_softmax(logits)                                             # (B, T, V)
        nll = -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]          # (B, T)
        # The mass of smoothing lies on what can be predicted: none on padding.
        mass = vocabulary.can_follow / vocabulary.can_follow.sum()                     # (V,)
        xent = (1 - smoothing) * nll - smoothing * log_p @ mass                        # (B, T)
        return {"xent": kj.mean(xent, weight), "nll": kj.mean(nll, weight),
                "accuracy": kj.mean(correct, weight)}, model_state

    def loss(params, model_state, batch, key):
        metrics, model_state = network(params, model_state, batch, key, smoothing)
        return {"xent": metrics.pop("xent")}, metrics, model_state

    def translate(variables, tokens, beams: int):
        """Return the ids (B, T) of the best translations of source tokens (B, S)."""
        B, segments = len(tokens), vocabulary.segments(tokens)                         # (B, S)
        apply = functools.partial(model.apply, variables)
        memory = apply(apply(tokens, segments, method="encode"), method="keys_and_values")

        def step_with(memory, segments):
            def step(tokens, positions, cache):
                logits, cache = apply(tokens[:, None], memory, segments, cache=cache,
                                      positions=positions[:, None], method="decode")
                return logits[:, 0], cache                                             # (B, V)
            return step
        start, zero = jnp.full(B, vocabulary.cls), jnp.zeros(B, jnp.int32)             # (B,)
        cache = model.empty_cache(B, length)
        logits, cache = step_with(memory, segments)(start, zero, cache)
        # A row's beams lie side by side and read the same source.
        of_beams = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), (memory, segments))
        ids, _ = beam_search(step_with(*of_beams), cache, logits, zero + 1, length, beams,
                             eos=vocabulary.sep, pad=vocabulary.pad, banned=special,
                             length_penalty=config.get("length_penalty", 1.0))         # (B, K, T)
        return ids[:, 0]

    best_of = config.get("beams", 5)

    def evaluate(beams, variables, batch):
        metrics, _ = network(*split_variables(variables), batch, None, smoothing)
        return {"loss": metrics["nll"], **metrics, "target": kj.rows(batch["target"]),
                "translation": kj.rows(translate(variables, batch["source"], beams)),
                "source": kj.rows(batch["source"], at_end=True)}

    def texts(ids) -> list[str]:
        """Return rows of ids (B, T) as texts."""
        return [text_of(vocabulary, row) for row in np.asarray(ids).tolist()]

    def summarize(totals, rows):
        values, interval, _ = scores(texts(rows["translation"]), texts(rows["target"]))
        return {**values, "interval_95": interval}

    def list_translations(totals, rows, split):
        """Return translations.txt: the scores with their signatures, then pairs."""
        columns = [texts(rows[name]) for name in ("source", "target", "translation")]
        _, _, signatures = scores(columns[2], columns[1])
        lines = [f"{split}, {len(columns[0]):,} pairs", *signatures, ""]
        for pair in list(zip(*columns, strict=True))[:LISTED]:
            lines += [f"{name}  {text}" for name, text in
                      zip(("source     ", "reference  ", "translation"), pair, strict=True)] + [""]
        return {"translations.txt": "\n".join(lines)}

    def show(variables, batch):
        """Return a picture of what the last layer of the decoder looks at in the source."""
        tokens = batch["source"][:SHOWN]
        ids = jax.jit(translate, static_argnums=2)(variables, tokens, best_of)         # (B, T)
        looks = attention_of(model, variables, **inputs({"source": tokens, "target": ids}))
        looks = np.asarray(list_of_cross(looks)[-1].mean(1))                           # (B, T, S)
        panels = [(look, words(vocabulary, written), words(vocabulary, read))
                  for look, written, read in zip(looks, ids.tolist(), tokens.tolist(), strict=True)]
        return {"attention.png": pictures.attention(panels)}

    source.detokenize = texts
    return kj.Task(model, source, loss, inputs=inputs, show=show, summarize=summarize,
                   evaluate={"test": functools.partial(evaluate, best_of),
                             "": functools.partial(evaluate, 1)},
                   predict=lambda variables, raw: translate(variables, raw["source"], best_of),
                   pictures=list_translations)


def list_of_cross(looks: dict) -> list:
    """Return the probabilities (B, H, T, S) of the layers that look at the source, in order."""
    numbers = {int(name.split("/")[0].removeprefix("decoder_block")): each
               for name, each in looks.items() if name.endswith("/cross")}
    return [numbers[i] for i in sorted(numbers)]


def text_of(vocabulary, ids: list[int]) -> str:
    """Return the text of a row of ids up to its end, without special tokens."""
    until = ids.index(vocabulary.sep) if vocabulary.sep in ids else len(ids)
    special = (vocabulary.pad, vocabulary.cls)
    return vocabulary.decode([i for i in ids[:until] if i not in special]).strip()


def words(vocabulary, ids: list[int]) -> list[str]:
    """Return the text of each token of a row, up to its end."""
    until = ids.index(vocabulary.sep) + 1 if vocabulary.sep in ids else len(ids)
    return [vocabulary.decode([i]).strip() for i in ids[:until]]
