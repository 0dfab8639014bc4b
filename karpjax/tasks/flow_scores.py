"""Scores of a flow's samples: how far from the data, how varied, of the asked class, and no copies.

    config.scores = dict(features="runs/fashion", judge="runs/fashion_1", samples=1, steps=20,
                         guidance=1.0, method="heun")

    features   workdir of a run whose network's pooled features are compared
    judge      workdir of another, which has not seen the first: whose class do samples get?
    samples    for each row of the split, of its class, keyed by the row's position
    steps, guidance, method    see generation/pictures.py

Samples are clipped and rounded to what the data set stores, and then are the extractor's input as
its own pictures are. FD's reference are all training pictures; precision and recall compare with as
many of them as there are samples. Scores of other extractors, numbers of samples or references do
not compare: summary.json has the numbers under "scored", config.json the rest.
"""
from collections.abc import Callable
import dataclasses
import functools
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax.core.errors import check_choice, check_keys
from karpjax.generation.fidelity import frechet_distance, moments, nearest, precision_recall
from karpjax.generation.ode import METHODS
from karpjax.generation.pictures import Sampler
from karpjax.run.restore import AbsentRun, Run, restore
from karpjax.sources import Source

BATCH = 256
DEFAULTS = dict(judge="", samples=1, steps=20, guidance=1.0, method="heun")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a sampler.

    settings   config.scores with its defaults
    source     of the flow's pictures
    to_stored  pictures of -1 to 1 -> as the data set stores them
    extractor, judge   restored runs; None: no judge
    """
    settings: dict
    source: Source
    sampler: Sampler
    to_stored: Callable
    extractor: Run
    judge: Run | None

    def evaluate(self, variables, batch) -> dict:
        """Return the features of samples, and whether they are of the class that was asked for."""
        k, label = self.settings["samples"], batch["label"]
        numbers = (batch["index"][:, None] * k + jnp.arange(k, dtype=jnp.uint32)).reshape(-1)
        labels = jnp.repeat(label, k)                                                # (B k,)
        made = self.to_stored(self.sampler.draw(
            variables, jax.random.key(0), numbers, labels, steps=self.settings["steps"],
            guidance=self.settings["guidance"], method=self.settings["method"]))

        def of_row(values):
            return values.reshape(-1, k, *values.shape[1:])
        metrics = {"made": kj.rows({"pictures": of_row(made),
                                    "features": of_row(pooled(self.extractor, made)),
                                    "data": self.to_stored(batch["image"])})}
        if self.judge:
            right = self.judge.task.outputs(self.judge.variables, made).argmax(-1) == labels
            metrics["class_agreement"] = kj.mean(of_row(right).mean(1), batch["weight"])
        return metrics

    def summarize(self, totals, rows) -> dict:
        """Return the scores of a split's samples, {} of a split without."""
        if "made" not in rows:
            return {}
        pictures, made, data = (rows["made"][name] for name in ("pictures", "features", "data"))
        made = made.reshape(-1, made.shape[-1])                                      # (N k, F)
        pictures = pictures.reshape(len(made), -1)                                   # (N k, H W C)
        reference, seen = self.reference
        # any of them: a set may be stored class by class
        some = np.random.default_rng(0).permutation(len(reference))[:len(made)]
        precision, recall = precision_recall(made, reference[some])
        distances, _ = nearest(np.concatenate([pictures, data.reshape(len(data), -1)]), seen)
        of_made, of_data = np.median(distances[:len(made)]), np.median(distances[len(made):])
        return {"FD": frechet_distance(moments(made), moments(reference)),
                "precision": precision, "recall": recall,
                # below 1: nearer to training pictures than pictures of the split are
                "distance_to_training": float(of_made / of_data) if of_data else float("nan"),
                "scored": {"samples": float(len(made)), "reference": float(len(reference)),
                           "compared": float(len(some)),
                           "features": float(made.shape[1])}}

    @functools.cached_property
    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """The features (N, F) and pixels (N, H W C) of the training pictures."""
        of = jax.jit(functools.partial(pooled, self.extractor))
        numbers = range(self.source.num_examples)
        pictures = np.asarray(self.source.rows("train", numbers)["image"])
        parts = [jax.device_get(of(pictures[i:i + BATCH])) for i in range(0, len(pictures), BATCH)]
        return np.concatenate(parts), pictures.reshape(len(pictures), -1)


def scores(settings, source, sampler: Sampler, to_stored) -> Scores:
    """Return the scores of config.scores. Raises UserError for runs of other pictures."""
    settings = dict(settings)
    check_keys(settings, ("features", *DEFAULTS), "config.scores", required=("features",))
    settings = {**DEFAULTS, **settings}
    check(settings, source, sampler)
    runs = {name: restore(settings[name]) for name in ("features", "judge") if settings[name]}
    for name, run in runs.items():
        if isinstance(run, AbsentRun):  # of a restored flow, which makes pictures without it
            continue
        theirs, ours = (run.task.source.spec.get("shape"), source.spec["shape"])
        if theirs != ours:
            raise kj.UserError(f"config.scores.{name}: {settings[name]} is of pictures {theirs}; "
                               f"expected a run of pictures like these, {ours}")
        if run.config.task != "classify" or run.task.source.classes != source.classes:
            raise kj.UserError(f"config.scores.{name}: {settings[name]} is of the task "
                               f"{run.config.task!r} with {run.task.source.classes} classes; "
                               f"expected a classifier of {source.classes}")
    return Scores(settings, source, sampler, to_stored, runs["features"], runs.get("judge"))


def check(settings: dict, source: Source, sampler: Sampler) -> None:
    """Raise a UserError for impossible settings, and for pictures that are no bytes or cropped."""
    for name in ("samples", "steps"):
        if not isinstance(settings[name], Integral) or settings[name] < 1:
            raise kj.UserError(f"config.scores.{name} = {settings[name]!r}: expected a whole "
                               "number of at least 1")
    if not settings["features"]:
        raise kj.UserError("config.scores.features: expected the workdir of a classifier")
    check_choice(settings["method"], METHODS, "config.scores.method")
    sampler.check_none(settings["guidance"], unlabelled=False)
    shape, dtype = tuple(source.spec["shape"]), source.spec.get("dtype", "uint8")
    if sampler.shape != shape or dtype != "uint8":
        raise kj.UserError(f"config.scores: expected whole pictures of uint8, found {dtype} "
                           f"{shape}, of which the flow makes {sampler.shape}; leave out "
                           "config.data.crop, and repeated channels in mean and std")


def pooled(run, stored) -> jax.Array:
    """Return a run's pooled features (N, F) of pictures as the data set stores them."""
    _, features = run.task.run_model(run.variables, run.task.prepared(stored), features=True)
    return features["pooled"]
