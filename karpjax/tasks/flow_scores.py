"""Scores of a flow's samples: how far from the data, how varied, of the asked class, and no copies.

    config.scores = dict(features="runs/fashion", judge="runs/fashion_1", samples=1, steps=20,
                         guidance=1.0, method="heun")

    features   workdir of a run whose network's pooled features are compared
    inception  in place of `features`: file of the weights of FID's Inception-v3, for pictures of 0
               to 255, as pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    judge      workdir of another run, which has not seen the first: whose class do samples get?
    samples    for each row of the split, of its class, keyed by the row's position
    steps, guidance, method    see generation/pictures.py

Without a network there are no scores.

Samples are clipped and rounded to what the data set stores, and then are the extractor's input as
its own pictures are. The reference are all training pictures. Precision and recall compare with as
many of them as there are samples. The distance is "FD" of a run's features, and "FID" of
Inception's, grey pictures in three channels: FID by name needs the published file. Both depend on
the extractor, the number of samples and the reference, and compare with no others. summary.json has
these under "scored", the networks by their checksums, config.json the rest.

Inception takes 11 GFLOP a picture, and each process computes the reference's features once. That is
no progress for config.hang_timeout.
"""
from collections.abc import Callable, Iterator
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
from karpjax.run.restore import AbsentRun
from karpjax.sources import Source
from karpjax.tasks.flow_networks import Network, logits, of_inception, of_run, pooled

READ = 4096  # training pictures in memory at once
DEFAULTS = dict(features="", inception="", judge="", samples=1, steps=20, guidance=1.0,
                method="heun")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a sampler.

    settings   config.scores with its defaults
    source     of the flow's pictures
    to_stored  pictures of -1 to 1 -> as the data set stores them
    extractor, judge   of pictures; None: no judge
    """
    settings: dict
    source: Source
    sampler: Sampler
    to_stored: Callable
    extractor: Network | AbsentRun
    judge: Network | AbsentRun | None

    def evaluate(self, variables, batch) -> dict:
        """Return samples of each row's class, the row's own picture, and its class."""
        k, label = self.settings["samples"], batch["label"]
        numbers = (batch["index"][:, None] * k + jnp.arange(k, dtype=jnp.uint32)).reshape(-1)
        made = self.to_stored(self.sampler.draw(
            variables, jax.random.key(0), numbers, jnp.repeat(label, k),
            steps=self.settings["steps"], guidance=self.settings["guidance"],
            method=self.settings["method"]))                                # (B k, H, W, C)
        return {"made": kj.rows({"pictures": made.reshape(-1, k, *made.shape[1:]),
                                 "data": self.to_stored(batch["image"]), "label": label})}

    def summarize(self, totals, rows) -> dict:
        """Return the scores of a split's samples, {} of a split without."""
        if "made" not in rows:
            return {}
        pictures, data, label = (rows["made"][name] for name in ("pictures", "data", "label"))
        k, pictures = pictures.shape[1], pictures.reshape(-1, *data.shape[1:])     # (N k, H, W, C)
        made, (features, of_reference) = self.extractor.outputs(pictures), self.reference
        # any of them: a set may be stored class by class
        some = np.random.default_rng(0).permutation(len(features))[:len(made)]
        precision, recall = precision_recall(made, features[some])
        distance = self.to_training(np.concatenate([pictures, data]))
        of_made, of_data = np.median(distance[:len(made)]), np.median(distance[len(made):])
        scored = {"samples": len(made), "reference": len(features), "compared": len(some),
                  "features": made.shape[1], "extractor": self.extractor.checksum}
        found = {"FID" if self.settings["inception"] else "FD":
                 frechet_distance(moments(made), of_reference),
                 "precision": precision, "recall": recall,
                 # below 1: nearer to training pictures than pictures of the split are
                 "distance_to_training": float(of_made / of_data) if of_data else float("nan")}
        if self.judge:
            right = self.judge.outputs(pictures).argmax(-1) == label.repeat(k)
            found["class_agreement"], scored["judge"] = float(right.mean()), self.judge.checksum
        return {**found, "scored": scored}

    @functools.cached_property
    def reference(self) -> tuple[np.ndarray, tuple]:
        """The features (N, F) of the training pictures, and their moments."""
        features = np.concatenate([self.extractor.outputs(some) for some in self.training()])
        return features, moments(features)

    def to_training(self, pictures) -> np.ndarray:
        """Return the distance of pictures (N, H, W, C) to the nearest training picture (N,)."""
        parts = (nearest(pictures, some)[0] for some in self.training())
        return functools.reduce(np.minimum, parts)

    def training(self) -> Iterator[np.ndarray]:
        """Yield the training pictures in order, READ at a time."""
        n = self.source.num_examples
        for start in range(0, n, READ):
            yield self.source.rows("train", range(start, min(start + READ, n)))["image"]


def scores(settings, source, sampler: Sampler, to_stored) -> Scores | None:
    """Return the scores of config.scores, None if it names no network.

    Raises UserError for runs of other pictures.
    """
    settings = dict(settings)
    check_keys(settings, DEFAULTS, "config.scores", required=())
    settings = {**DEFAULTS, **settings}
    if not any(settings[name] for name in ("features", "inception", "judge")):
        return None
    check(settings, source, sampler)
    if settings["inception"]:
        check_bytes(sampler.shape, to_stored)
    extractor = of_inception(settings["inception"]) if settings["inception"] else \
        of_run("features", settings["features"], source, pooled)
    judge = of_run("judge", settings["judge"], source, logits) if settings["judge"] else None
    return Scores(settings, source, sampler, to_stored, extractor, judge)


def check(settings: dict, source: Source, sampler: Sampler) -> None:
    """Raise a UserError for impossible settings, and for pictures that are no bytes or cropped."""
    for name in ("samples", "steps"):
        if not isinstance(settings[name], Integral) or settings[name] < 1:
            raise kj.UserError(f"config.scores.{name} = {settings[name]!r}: expected a whole "
                               "number of at least 1")
    given = [name for name in ("features", "inception") if settings[name]]
    if len(given) != 1:
        raise kj.UserError("config.scores: expected one of features (the workdir of a classifier) "
                           "and inception (a file of the weights of FID's network), found "
                           f"{' and '.join(given) or 'neither'}")
    check_choice(settings["method"], METHODS, "config.scores.method")
    sampler.check_none(settings["guidance"], unlabelled=False)
    shape, dtype = tuple(source.spec["shape"]), source.spec.get("dtype", "uint8")
    if sampler.shape != shape or dtype != "uint8":
        raise kj.UserError(f"config.scores: expected whole pictures of uint8, found {dtype} "
                           f"{shape}, of which the flow makes {sampler.shape}; leave out "
                           "config.data.crop, and repeated channels in mean and std")


def check_bytes(shape: tuple, to_stored: Callable) -> None:
    """Raise a UserError unless pictures are of 0 to 255, grey or in colour, as Inception's are."""
    low, high = (np.asarray(to_stored(jnp.full(shape, x, jnp.float32))) for x in (-1, 1))
    if low.max() != 0 or high.min() != 255 or shape[-1] not in (1, 3):
        raise kj.UserError("config.scores.inception: expected pictures of 0 to 255 with 1 or 3 "
                           f"channels (config.data.mean = std = [127.5]), found {low.max()} to "
                           f"{high.min()} with {shape[-1]}; compare the features of a run")
