"""Optimizers and schedules by their optax names, with the per-parameter rules researchers expect.

    config.optimizer = dict(
        name="adamw", weight_decay=0.05, clip=1.0, lr_scale=[["head/.*", 10.0]], freeze=["stem/.*"],
        learning_rate=dict(name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
                           warmup_steps=100))

    name           any function of optax or optax.contrib (adamw, sgd, lion, muon, ...), or our own
                   filter_muon (muon.py); other keys are its arguments
    learning_rate  a number, or a schedule of optax by name; its length (`decay_steps`,
                   `transition_steps`) defaults to config.steps
    weight_decay   skips norms and biases: parameters of fewer than two axes, or named bias or
                   scale. Decoupled if the optimizer has the argument (adamw, lion, muon, ...), else
                   added to the gradient (sgd)
    clip           > 0: by global norm, over the parameters that train
    decay_all      true: weight_decay on every parameter
    lr_scale       pairs of a regular expression on the parameter's name ("conv0/kernel") and a
                   factor on its learning rate; the first full match counts
    layer_decay    0.75: each layer learns at that part of the next one's rate, embeddings slowest,
                   heads in full (Clark et al. 2020, ELECTRA; He et al. 2022, MAE). The model says
                   which layer a parameter belongs to: `layer_of(name)`
    freeze         regular expressions; a parameter that matches gets no gradient (see step.py), no
                   update and no optimizer state
    groups         in place of name: pairs of a regular expression and all of the above except clip
                   and freeze. The first full match counts, and every parameter that trains must
                   have one. The logged schedule is the first group's
"""
from collections.abc import Callable
import functools
import inspect
import types

import jax
import jax.numpy as jnp
import optax

from karpjax.core.errors import UserError, check_keys, did_you_mean
from karpjax.core.muon import filter_muon
from karpjax.core.trees import first_line, first_match, named, path_name

OWN = {"filter_muon": filter_muon}
LENGTHS = ("decay_steps", "transition_steps")


def make_optimizer(config, steps: int, params, layer_of: Callable | None = None
                   ) -> tuple[optax.GradientTransformation, Callable]:
    """Return the transformation and the schedule that config.optimizer describes.

    params    may be ShapeDtypeStructs: only names and ranks are read
    layer_of  name -> number of its layer, for layer_decay; None: the model has no layers
    """
    options = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    clip, freeze = options.pop("clip", 0.0), options.pop("freeze", ())
    groups = options.pop("groups", ())
    trained = [name for name in named(params) if first_match(freeze, name) is None]
    if groups:
        check_keys(options, ("groups", "clip", "freeze"), "config.optimizer")
        parts, schedule = partition_by_name(groups, steps, params, trained, layer_of)
    else:
        parts, schedule = one_optimizer(options, steps, params, layer_of, "config.optimizer")
    optimizer = optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), *parts)
    if freeze:
        for pattern in freeze:
            _check_matches(pattern, params, "config.optimizer.freeze")
        labels = map_names(params, lambda name: "trained" if name in trained else "frozen")
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return optimizer, schedule


def partition_by_name(groups, steps: int, params, trained, layer_of) -> tuple[list, Callable]:
    """Return ([one optimizer for each group of parameters, in one], the first group's schedule)."""
    patterns = [pattern for pattern, _ in groups]
    places = [f"config.optimizer.groups[{i}]" for i in range(len(groups))]
    made = [one_optimizer(dict(options), steps, params, layer_of, place)
            for (_, options), place in zip(groups, places, strict=True)]
    for pattern, place in zip(patterns, places, strict=True):
        _check_matches(pattern, params, place)
    without = [name for name in trained if first_match(patterns, name) is None]
    if without:
        raise UserError(f"config.optimizer.groups: no pattern matches {', '.join(without)}; end "
                        "with a group '.*', or freeze them")
    chains = {i: optax.chain(*chain) for i, (chain, _) in enumerate(made)}

    def labels(tree):
        return map_names(tree, lambda name: first_match(patterns, name))
    return [optax.partition(chains, labels)], made[0][1]


def one_optimizer(options: dict, steps: int, params, layer_of, where: str) -> tuple[list, Callable]:
    """Return ([transformations], schedule) of one set of options, which `where` names."""
    schedule = make_schedule(options.pop("learning_rate", None), steps, f"{where}.learning_rate")
    name, weight_decay = options.pop("name", ""), options.pop("weight_decay", 0.0)
    lr_scale, layer_decay = options.pop("lr_scale", ()), options.pop("layer_decay", 1.0)
    decays = functools.partial(decay_mask, everywhere=options.pop("decay_all", False))
    factory = _find(name, f"{where}.name")
    arguments = inspect.signature(factory).parameters
    if next(iter(arguments), "") != "learning_rate" or name.startswith("scale_by"):
        raise UserError(f"{where}.name: optax.{name} is no optimizer; use adamw, sgd, lion, ...")
    _check_arguments(options, name, arguments, where)
    mask = mask_argument(name, arguments, weight_decay, where)

    before, after = [], []
    if "adam_weight_decay" in arguments:
        # Muon: optax would decay its matrices and its Adam part by different rules.
        options |= {"weight_decay": 0.0, "adam_weight_decay": 0.0}
        after = [decoupled_decay(weight_decay, schedule, decays)] if weight_decay else []
    elif mask:
        # The optimizer decouples the decay by itself, as adamw does.
        options |= {"weight_decay": weight_decay, mask: decays}
    elif weight_decay:
        # The optimizer knows no decay, as sgd: it becomes a part of the gradient.
        before = [optax.add_decayed_weights(weight_decay, decays)]

    made = _call(factory, name, where, schedule, **options)

    def update(p):
        return made.update(p, made.init(p), p)[0].reshape(p.shape)  # not as dpsgd, a mean of rows
    _call(jax.eval_shape, name, where, update, jnp.ones((2, 2)))
    chain = [*before, made, *after]
    if lr_scale:
        chain.append(scale_by_name(by_rule(lr_scale, params, f"{where}.lr_scale")))
    if layer_decay != 1:
        rates = by_layer(layer_decay, layer_of, params, f"{where}.layer_decay")
        chain.append(scale_by_name(rates))
    return chain, schedule


def mask_argument(name: str, arguments, weight_decay: float, where: str) -> str:
    """Return the argument of optax.NAME that says which parameters its weight_decay is for, or "".

    Raises UserError for an optimizer whose decay cannot be what config.optimizer promises.
    """
    if name.startswith("schedule_free"):
        raise UserError(f"{where}.name: {name!r} evaluates other parameters than it trains, which "
                        "karpjax does not; use adamw with config.ema_decay")
    mask = next((key for key in ("mask", "weight_decay_mask") if key in arguments), "")
    if weight_decay and "weight_decay" in arguments and not mask:
        raise UserError(f"{where}.weight_decay: optax.{name} has no mask, so norms and biases "
                        "would decay too; use 0 with it, or another optimizer")
    if weight_decay and mask and "weight_decay" not in arguments:  # adafactor
        raise UserError(f"{where}.weight_decay: optax.{name} has no such argument"
                        f"{did_you_mean('weight_decay', arguments)}")
    return mask if "weight_decay" in arguments else ""


def make_schedule(learning_rate, steps: int, where: str) -> Callable:
    """Return step -> learning rate, from a number or {"name": an optax schedule, ...}."""
    if isinstance(learning_rate, (int, float)):
        return optax.constant_schedule(learning_rate)
    if not isinstance(learning_rate, dict) or "name" not in learning_rate:
        raise UserError(f"{where}: expected a number or a dict with an optax schedule's name, "
                        f"found {learning_rate!r}")
    options = dict(learning_rate)
    name = options.pop("name")
    factory = _find(name, f"{where}.name")
    arguments = inspect.signature(factory).parameters
    options |= {key: steps for key in LENGTHS if key in arguments and key not in options}
    _check_arguments(options, name, arguments, where)
    if "boundaries_and_scales" in options:  # {step: factor}; JSON's keys are texts
        pairs = dict(options["boundaries_and_scales"]).items()
        options["boundaries_and_scales"] = {
            int(step) if str(step).isdigit() else step: scale for step, scale in pairs}
    schedule = _call(factory, name, where, **options)
    _call(jax.eval_shape, name, where, schedule, jnp.int32(0))
    return schedule


# ---------------------------------------------------------------- which parameters, and by how much

def decay_mask(params, everywhere: bool = False):
    """Return a tree of True for the parameters that weight decay is for: not norms and biases."""
    def decays(path, p):
        name = path_name(path).rsplit("/", 1)[-1]
        return everywhere or p.ndim > 1 and name not in ("bias", "scale")
    return jax.tree.map_with_path(decays, params)


def decoupled_decay(weight_decay: float, schedule: Callable, decays: Callable
                    ) -> optax.GradientTransformation:
    """Return p <- p - learning rate x weight decay x p, beside whatever the optimizer does.

    Source: Loshchilov and Hutter 2019. `decays` makes a tree of booleans from the parameters.
    """
    def init(params):
        return optax.ScaleByScheduleState(jnp.int32(0))

    def update(updates, state, params):
        rate = schedule(state.count) * weight_decay
        decayed = jax.tree.map(lambda u, p, m: u - rate * p if m else u, updates, params,
                               decays(params))
        return decayed, optax.ScaleByScheduleState(state.count + 1)
    return optax.GradientTransformation(init, update)


def scale_by_name(factors: dict[str, float]) -> optax.GradientTransformation:
    """Return a transformation that multiplies each parameter's update by its factor.

    It comes last, so it scales the learning rate with decoupled decay included.
    """
    def scale(updates, params):
        # Over the updates, not the factors: inside `partition` the frozen leaves are not there.
        return jax.tree.map_with_path(lambda path, u: u * factors[path_name(path)], updates)
    return optax.stateless(scale)


def by_rule(rules, params, where: str) -> dict[str, float]:
    """Return {name: factor of the first pattern that matches it, else 1} for pairs of these."""
    patterns, factors = [pattern for pattern, _ in rules], [factor for _, factor in rules]
    for pattern in patterns:
        _check_matches(pattern, params, where)
    matches = {name: first_match(patterns, name) for name in named(params)}
    return {name: 1.0 if i is None else factors[i] for name, i in matches.items()}


def by_layer(decay: float, layer_of: Callable | None, params, where: str) -> dict[str, float]:
    """Return {name: decay^(L + 1 - i)} for the parameters of layer i of L, and 1 for heads.

    Layer 0 is the embeddings, layers 1 to L are the blocks. `layer_of` is None for heads.
    """
    if layer_of is None:
        raise UserError(f"{where} = {decay}: this model has no layers, as it has no method "
                        "layer_of(name); use 1, or a transformer")
    if not 0 < decay <= 1:
        raise UserError(f"{where} = {decay}: expected a factor above 0 and up to 1")
    layers = {name: layer_of(name) for name in named(params)}
    L = max((i for i in layers.values() if i is not None), default=0)
    return {name: 1.0 if i is None else decay ** (L + 1 - i) for name, i in layers.items()}


def map_names(params, function: Callable):
    """Return a tree like params of function(name), with a name as in "conv/kernel"."""
    return jax.tree.map_with_path(lambda path, _: function(path_name(path)), params)


# ---------------------------------------------------------------------------- optax, and its errors

def _find(name: str, where: str) -> Callable:
    """Return the function of that name, ours or optax's."""
    places = (OWN, vars(optax), vars(optax.contrib))
    factory = next((place[name] for place in places if name in place), None)
    if not isinstance(factory, (types.FunctionType, functools.partial)):  # nadam is the latter
        raise UserError(f"{where}: optax has no {name!r}{did_you_mean(name, dir(optax))[:200]}")
    return factory


def _call(factory: Callable, name: str, where: str, *args, **options):
    try:
        return factory(*args, **options)
    except Exception as error:  # an argument is missing, a warm-up is longer than the run
        raise UserError(f"{where}: optax.{name} with {', '.join(options) or 'no keys'}: "
                        f"{first_line(error)}; it gets these keys, learning rates of each step, "
                        "gradients and parameters: add a key, or use another name") from error


def _check_arguments(options: dict, name: str, arguments, where: str) -> None:
    for key in sorted(set(options) - set(arguments)):
        raise UserError(f"{where}.{key}: optax.{name} has no such argument"
                        f"{did_you_mean(key, arguments)}")


def _check_matches(pattern: str, params, where: str) -> None:
    if all(first_match([pattern], name) is None for name in named(params)):
        raise UserError(f"{where}: {pattern!r} matches no parameter in full"
                        f"{did_you_mean(pattern, named(params))}")
