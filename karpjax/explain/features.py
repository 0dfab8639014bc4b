"""The knowledge of labels in an encoder's features, measured without training.

The nearest neighbours vote (Wu et al. 2018, section 3.4): python -m karpjax.knn --help.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
import numpy as np

from karpjax import sources
from karpjax.core.errors import UserError
from karpjax.run.restore import Run, check_tokens, restore

TEMPERATURE = 0.07
BATCH = 256


def knn(workdir, name: str, train: str, on: str, k: int = 20, trust: bool | None = None) -> dict:
    """Return the accuracy of the nearest neighbours' vote.

    name    a set with labels
    train   the split whose rows vote
    on      the split whose labels are predicted
    """
    if k < 1:
        raise UserError(f"--k={k}: expected at least 1 neighbour")
    run = restore(workdir, trust=trust)
    known, labels, classes = features(run, workdir, name, train)
    queries, expected, _ = features(run, workdir, name, on)
    k = min(k, len(known))
    predicted = [vote(queries[i:i + BATCH], known, labels, classes, k)
                 for i in range(0, len(queries), BATCH)]
    accuracy = float(np.mean(np.concatenate(predicted) == expected))
    return {"step": run.step, f"{on}/knn_accuracy": accuracy, "k": k, "rows": len(known)}


def features(run: Run, workdir, name: str, split: str) -> tuple:
    """Return a split's features (N, D) of length 1, its labels (N,) and the number of classes.

    name    a data set with labels, whose images or texts are like the run's
    """
    inputs = run.task.inputs
    make_source = {"image": sources.images, "tokens": sources.text}.get(inputs)
    if make_source is None or not hasattr(run.model, "encode"):
        raise UserError(f"--workdir={workdir}: a {type(run.model).__name__} has no features to "
                        "compare; expected a run of a masked_lm, a text_classifier, a mae or a vit")
    of_the_run = ("dir", "path", "corpus", "length", "described")  # these name its own set
    own = {key: value for key, value in run.config.data.items() if key not in of_the_run}
    source = make_source(ConfigDict({**own, "name": name, "train": split, "validation": "",
                                     "test": "", "batch_size": BATCH}))
    if not source.classes:
        raise UserError(f"--name={name}: a set without labels; expected one that was prepared "
                        "with them")
    check_tokens(workdir, {"source": run.task.source.spec}, source.spec)

    vectors, labels = [], []
    for batch in source.eval_batches("train"):
        real = batch["weight"] > 0
        pooled = run.features(batch[inputs])["pooled"]                                   # (B, D)
        unit = pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)
        vectors.append(np.asarray(unit)[real])
        labels.append(batch["label"][real])
    return np.concatenate(vectors), np.concatenate(labels), source.classes


@jax.jit(static_argnames=("classes", "k"))
def vote(queries: Float[Array, "B D"], known: Float[Array, "N D"], labels: Int[Array, "N"],
         classes: int, k: int):
    """Return the labels (B,) that the k most similar known features vote for.

    A vote weighs exp(similarity / TEMPERATURE).
    """
    similarity, nearest = jax.lax.top_k(queries @ known.T, k)                             # (B, k)
    weight = jnp.exp(similarity / TEMPERATURE)[..., None]                            # (B, k, 1)
    votes = jax.nn.one_hot(labels[nearest], classes) * weight                        # (B, k, C)
    return votes.sum(1).argmax(-1)
