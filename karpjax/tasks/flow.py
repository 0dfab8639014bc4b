"""Image generation by flow matching: noise becomes pictures (Lipman et al. 2023, arXiv:2210.02747).

    config.task = "flow"; config.model (name="dit" or "unet"); config.augment
    config.data         see karpjax/sources/images.py; mean and std lay pictures in -1 to 1
    config.target       "velocity", or "picture" (Li & He 2025, arXiv:2511.13720): what the network
                        returns. The loss is the velocity's, of a picture at times after 0.95 less
    config.no_class     0.1: the share of examples that are seen without their class, for guidance
    config.times        (mean, deviation) of the normal whose sigmoid is an example's time: (0, 1)
                        (Esser et al. 2024, arXiv:2403.03206, section 3.1)
    config.scores       of the test split's samples, see tasks/flow_scores.py

An example x1 is seen as z = (1 - t) x0 + t x1: noise at t = 0, the picture at t = 1. Noise and time
are keyed by the row's draw number, in evaluation by its position in the split, so that the loss of
a split repeats. Metrics: "flow", the mean squared error of the velocity x1 - x0 (of pictures, after
time 0.95, of the velocity times (1 - t) / 0.05); with scores also
"FD" or "FID", "precision", "recall", "class_agreement", "distance_to_training".

    run = karpjax.restore("runs/flow")
    run.generate(n=64, label=3, steps=50, guidance=2.0)       # (64, H, W, C), 0 to 255

The workdir gets samples.png, trajectory.gif (the same, from noise on) and nearest.png (each sample
and, at its right, the training picture that is nearest by pixels).
Evaluation and samples take the moving average, where config.ema_decay makes one.
What to expect: configs/flow_digits.py.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax.core.errors import check_choice
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import split_variables
from karpjax.generation.pictures import Sampler, to_look_at
from karpjax.sources import augment
from karpjax.sources.source import example_keys
from karpjax.tasks.flow_scores import scores

TARGETS = ("picture", "velocity")
LAST = 0.05          # least 1 - t by which a picture's velocity is divided, in the loss


def build(config) -> kj.Task:
    """Build the task: noisy pictures (B, H, W, C), times and classes -> pictures or velocities."""
    target, no_class, times = settings_of(config)
    each, together = augment.make(config.get("augment", ()), seed=config.seed)
    if together:
        raise kj.UserError("config.augment: mixup and cutmix mix pictures, which flow would learn "
                           "to make; leave them out")
    with_noise = functools.partial(add_noise, times)

    def augment_and_noise(example, key):
        augmenting, noising, dropping = jax.random.split(key, 3)
        example = with_noise(each(example, augmenting) if each else example, noising)
        dropped = jax.random.bernoulli(dropping, no_class)
        return {**example, "label": jnp.where(dropped, source.classes, example["label"])}

    def with_eval_noise(batch):
        keys = example_keys(jax.random.key(0), batch["index"])
        return {**batch, **jax.vmap(with_noise)({"image": batch["image"]}, keys)}

    source = kj.sources.images(config.data, augment=augment_and_noise)
    check_range(source, config.data)
    model = kj.models.make_model(config.model, classes=source.classes)

    def velocity(params, model_state, z, t, label, key=None, least=0.0):
        """Return the velocity at z (B, H, W, C), and model_state. least: see `towards`."""
        outputs, model_state = kj.apply(model, params, model_state, z, key, t=t, label=label)
        return (towards(outputs, z, t, least) if target == "picture" else outputs), model_state

    def loss(params, model_state, batch, key):
        batch = batch if key is not None else with_eval_noise(batch)
        x1, x0, t = batch["image"], batch["noise"], batch["t"]
        time = t[:, None, None, None]
        z = (1 - time) * x0 + time * x1                                          # (B, H, W, C)
        v, model_state = velocity(params, model_state, z, t, batch["label"], key, LAST)
        # as clipped as the network's own, or it would learn no picture at late times
        wanted = towards(x1, z, t, LAST) if target == "picture" else x1 - x0
        error = ((v - wanted) ** 2).mean((1, 2, 3))                              # (B,)
        return {"flow": kj.mean(error, batch["weight"])}, {}, model_state

    sampler = Sampler(lambda variables, *at: velocity(*split_variables(variables), *at)[0],
                      source.example["image"].shape[1:], source.classes, no_class > 0)

    scored = scores(config.get("scores", {}), source, sampler, to_stored(config.data))

    def evaluate(variables, batch):
        losses, _, _ = loss(*split_variables(variables), batch, None)
        return {"loss": losses["flow"], **losses}

    def evaluate_test(variables, batch):
        return {**evaluate(variables, batch), **scored.evaluate(variables, batch)}

    return kj.Task(model, source, loss, methods={"generate": sampler.generate},
                   show=lambda variables, batch: to_look_at(sampler, variables, source),
                   evaluate={"": evaluate, "test": evaluate_test} if scored else evaluate,
                   summarize=scored.summarize if scored else None,
                   predict="a flow has no outputs for a picture: make some with run.generate(n=16)")


def to_stored(data):
    """Return pictures of -1 to 1 -> as the data set stores them, clipped and rounded."""
    mean, std = (np.asarray(data[name], np.float32) for name in ("mean", "std"))
    return lambda pictures: jnp.rint(jnp.clip(pictures, -1, 1) * std + mean).astype(jnp.uint8)


def check_range(source, data) -> None:
    """Raise a UserError unless pictures lie in -1 to 1, where noise is as large as they are."""
    if not {"mean", "std"} <= set(data):
        raise kj.UserError("config.data: expected mean and std such that pictures lie in -1 to 1, "
                           "found none; of pixels from 0 to 255: mean = std = [127.5]")
    if not source.num_examples:  # a restored run without its data
        return
    pictures = source.preprocess(source.first(256))["image"]
    low, high = float(pictures.min()), float(pictures.max())
    if low < -1.001 or high > 1.001:
        raise kj.UserError(f"config.data.mean, std: expected pictures in -1 to 1, found {low:.3g} "
                           f"to {high:.3g}; of pixels from 0 to 255: mean = std = [127.5]")


def settings_of(config) -> tuple:
    """Return config's target, no_class and times. Raises UserError for impossible ones."""
    check_own_keys(config, "augment", "target", "no_class", "times", "scores")
    target, no_class = config.get("target", "picture"), config.get("no_class", 0.1)
    times = config.get("times", (0.0, 1.0))
    times = tuple(times) if isinstance(times, (tuple, list)) else (times,)
    check_choice(target, TARGETS, "config.target")
    if not 0 <= no_class < 1:
        raise kj.UserError("config.no_class: expected a share of at least 0 and below 1, found "
                           f"{no_class}")
    if len(times) != 2 or times[1] < 0:
        raise kj.UserError("config.times: expected the mean and deviation of a normal, as (0, 1), "
                           f"found {times}")
    return target, no_class, times


def add_noise(times: tuple, example: dict, key) -> dict:
    """Add noise (H, W, C) and time () to an example."""
    drawing, timing = jax.random.split(key)
    mean, deviation = times
    t = jax.nn.sigmoid(mean + deviation * jax.random.normal(timing))
    return {**example, "noise": jax.random.normal(drawing, example["image"].shape), "t": t}


def towards(x, z, t, least: float = 0.0):
    """Return the velocity at z (B, H, W, C) and times t (B,) that leads to pictures x.

    least  of the time that is left. Above 0 it bounds a loss; a sample would not arrive
    """
    return (x - z) / jnp.maximum(1 - t, least)[:, None, None, None]
