"""Classification of texts: cross-entropy on a set of one document a row (karpjax/datasets/text.py).

    config.task = "classify_text"; config.model (name="text_classifier"),
    config.data (karpjax/sources/text.py),
    config.label_smoothing

From a pretrained encoder: config.init_from = a masked_text run, config.init_skip = its head and
ours. Learning rates that fall with depth: config.optimizer.layer_decay. A linear probe:
config.optimizer.freeze for all but the head. Metrics: "accuracy". What to expect:
configs/imdb_sentiment.py.
"""
import jax.numpy as jnp
import optax

import karpjax as kj
from karpjax.core.settings import check_own_keys


def build(config) -> kj.Task:
    """Build the task: tokens (B, T) -> logits (B, C)."""
    check_own_keys(config, "label_smoothing")
    smoothing = config.get("label_smoothing", 0.0)
    source = kj.sources.text(config.data, masks=False)
    if not source.classes:
        raise kj.UserError(f"data set {config.data.get('name', '')!r} has no labels; prepare its "
                           'texts without --pack, from lines {"text": ..., "label": ...}')
    model = kj.models.make_model(config.model, vocabulary=source.vocabulary.size,
                                 classes=source.classes)

    def segments(batch):
        return {"segments": source.vocabulary.segments(batch["tokens"])}             # (B, T)

    def loss(params, model_state, batch, key):
        logits, model_state = kj.apply(model, params, model_state, batch["tokens"], key,
                                       **segments(batch))                            # (B, C)
        target = jnp.eye(source.classes)[batch["label"]]                             # (B, C)
        target = optax.smooth_labels(target, smoothing if key is not None else 0.0)
        xent = optax.softmax_cross_entropy(logits, target)                           # (B,)
        correct = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)          # (B,)
        metrics = {"accuracy": kj.mean(correct, batch["weight"])}
        return {"xent": kj.mean(xent, batch["weight"])}, metrics, model_state

    return kj.Task(model, source, loss, inputs="tokens", derived=segments)
