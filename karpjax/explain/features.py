"""What an encoder's features know of labels, without training: the nearest neighbours' vote."""
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


def knn(workdir, name: str, train: str, on: str, k: int = 20) -> dict:
    if k < 1:
        raise UserError(f"--k={k}: expected at least 1 neighbour")
    run = restore(workdir)
    known, labels, classes = features(run, workdir, name, train)
    queries, expected, _ = features(run, workdir, name, on)
    k = min(k, len(known))
    found = [vote(queries[i:i + BATCH], known, labels, classes, k) for i in range(0, len(queries), BATCH)]
    accuracy = float(np.mean(np.concatenate(found) == expected))
    return {"step": run.step, f"{on}/knn_accuracy": accuracy, "k": k, "rows": len(known)}


def features(run: Run, workdir, name: str, split: str) -> tuple:
    """(N, D) features of length 1, (N,) labels, and the number of classes, of a split of data set `name`."""
    kind, inputs = {"image": sources.images, "tokens": sources.text}.get(run.task.inputs), run.task.inputs
    if kind is None or not hasattr(run.model, "encode"):
        raise UserError(f"--workdir={workdir}: a {type(run.model).__name__} has no features to compare; expected a run of a "
                        "masked_lm, a text_classifier, a mae or a vit")
    own = {key: value for key, value in run.config.data.items() if key not in ("path", "length", "described")}
    source = kind(ConfigDict({**own, "name": name, "train": split, "validation": "", "test": split, "batch_size": BATCH}))
    if not source.classes:
        raise UserError(f"--name={name}: a set without labels; expected one that was prepared with them")
    check_tokens(workdir, {"source": run.task.source.spec}, source.spec)

    @jax.jit
    def pooled(batch):
        x = source.preprocess(batch)[inputs]
        there = {} if inputs == "image" else {"segments": source.vocabulary.segments(x)}
        _, found = run.model.apply(run.variables, x, features=True, **there)
        return found["pooled"] / jnp.linalg.norm(found["pooled"], axis=-1, keepdims=True)
    rows = []
    for batch in source.eval_batches("test"):
        real = batch["weight"] > 0
        rows.append((np.asarray(pooled(batch))[real], batch["label"][real]))
    return *(np.concatenate(each) for each in zip(*rows)), source.classes


@jax.jit(static_argnames=("classes", "k"))
def vote(queries: Float[Array, "B D"], known: Float[Array, "N D"], labels: Int[Array, "N"], classes: int, k: int):
    """(B,) labels."""
    similarity, nearest = jax.lax.top_k(queries @ known.T, k)                                 # (B, k)
    votes = jax.nn.one_hot(labels[nearest], classes) * jnp.exp(similarity / TEMPERATURE)[..., None]
    return votes.sum(1).argmax(-1)
