"""Optimizers and schedules by their optax names, with the per-parameter rules researchers expect.

    config.optimizer = dict(name="adamw", learning_rate=dict(name="warmup_cosine_decay_schedule", init_value=0.0,
                            peak_value=1e-3, warmup_steps=100), weight_decay=0.05, clip=1.0,
                            lr_scale=[["head/.*", 10.0]], freeze=["stem/.*"])

    name           any function of optax or optax.contrib (adamw, sgd, lion, muon, ...), or of our own filter_muon (muon.py);
                   other keys are its arguments
    learning_rate  a number, or a schedule of optax by name; its length (`decay_steps`, `transition_steps`) defaults to
                   config.steps
    weight_decay   skips norms and biases: parameters of fewer than two axes, or named bias or scale. Decoupled where the
                   optimizer has the argument (adamw, lion, muon, ...), else added to the gradient (sgd)
    clip           > 0: by global norm, over the parameters that train
    decay_all      true: weight_decay on every parameter
    lr_scale       pairs of a regular expression on the parameter's name ("conv0/kernel") and a factor on its learning rate;
                   the first full match counts
    layer_decay    0.75: of a transformer's layers each learns at that part of the next one's rate, embeddings last, heads
                   in full (Clark et al. 2020, ELECTRA; He et al. 2022, MAE)
    freeze         regular expressions; what matches gets no gradient (see step.py), no update and no optimizer state
    groups         in place of name: pairs of a regular expression and all of the above but clip and freeze; the first full
                   match counts, and every parameter that trains must have one. The schedule that is logged is the first's
"""
from collections.abc import Callable
import inspect
import re

import jax
import jax.numpy as jnp
import optax

from karpjax.core.errors import UserError, check_keys, did_you_mean
from karpjax.core.muon import filter_muon
from karpjax.core.trees import path_name

OWN = {"filter_muon": filter_muon}
LENGTHS = ("decay_steps", "transition_steps")
BEFORE_THE_BLOCKS = ("embed", "position", "type", "norm_embed", "patch", "cls", "dist")  # of our transformers: see layer_decay


def make_optimizer(config, steps: int, params) -> tuple[optax.GradientTransformation, Callable]:
    """(transformation, schedule); params may be ShapeDtypeStructs, only names and ranks are read."""
    options = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    clip, freeze, groups = options.pop("clip", 0.0), options.pop("freeze", ()), options.pop("groups", ())
    chain = [optax.clip_by_global_norm(clip)] if clip else []
    trained = [name for name in names_of(params) if not any(re.fullmatch(pattern, name) for pattern in freeze)]
    if groups:
        check_keys(options, ("groups", "clip", "freeze"), "config.optimizer")
        parts, schedule = partition_by_name(groups, steps, params, trained)
        chain += [parts]
    else:
        parts, schedule = one_optimizer(options, steps, params, "config.optimizer")
        chain += parts
    optimizer = optax.chain(*chain)
    if freeze:
        for pattern in freeze:
            _check_matches(pattern, params, "config.optimizer.freeze")
        labels = by_name(params, lambda name: "trained" if name in trained else "frozen")
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return optimizer, schedule


def partition_by_name(groups, steps: int, params, trained) -> tuple[optax.GradientTransformation, Callable]:
    """One optimizer a group of parameters, each the first whose pattern matches; and the first one's schedule."""
    made = [one_optimizer(dict(options), steps, params, f"config.optimizer.groups[{i}]")
            for i, (_, options) in enumerate(groups)]
    for i, (pattern, _) in enumerate(groups):
        _check_matches(pattern, params, f"config.optimizer.groups[{i}]")
    group_of = lambda name: next((i for i, (pattern, _) in enumerate(groups) if re.fullmatch(pattern, name)), None)
    without = [name for name in trained if group_of(name) is None]
    if without:
        raise UserError(f"config.optimizer.groups: no pattern matches {', '.join(without)}; end with a group '.*', or freeze "
                        "them")
    return optax.partition({i: optax.chain(*chain) for i, (chain, _) in enumerate(made)},
                           lambda tree: by_name(tree, group_of)), made[0][1]


def one_optimizer(options: dict, steps: int, params, where: str) -> tuple[list, Callable]:
    """([transformations], schedule) of one set of options; `where` names it in errors."""
    schedule = make_schedule(options.pop("learning_rate", None), steps, f"{where}.learning_rate")
    lr_scale, decay_all = options.pop("lr_scale", ()), options.pop("decay_all", False)
    layer_decay = options.pop("layer_decay", 1.0)
    name, weight_decay = options.pop("name", ""), options.pop("weight_decay", 0.0)
    factory = _find(name, f"{where}.name")
    arguments = inspect.signature(factory).parameters
    for key in options:
        if key not in arguments:
            raise UserError(f"{where}.{key}: optax.{name} has no such argument{did_you_mean(key, arguments)}")
    mask = next((a for a in ("mask", "weight_decay_mask") if a in arguments), None)
    if name.startswith("schedule_free"):
        raise UserError(f"{where}.name: {name!r} evaluates other parameters than it trains, which karpjax does not; "
                        "use adamw with config.ema_decay")
    if weight_decay and "weight_decay" in arguments and not mask:
        raise UserError(f"{where}.weight_decay: optax.{name} has no mask, so norms and biases would decay too; "
                        "use 0 with it, or another optimizer")
    decays = (lambda params: jax.tree.map(lambda p: True, params)) if decay_all else decay_mask
    split = "adam_weight_decay" in arguments  # Muon: optax would decay its matrices and its Adam part by different rules
    decoupled = mask and not split
    if decoupled:
        options |= {"weight_decay": weight_decay, mask: decays} if "weight_decay" in arguments else {}
    if split:
        options |= {"weight_decay": 0.0, "adam_weight_decay": 0.0}
    chain = [optax.add_decayed_weights(weight_decay, decays)] if weight_decay and not decoupled and not split else []
    try:
        chain += [factory(schedule, **options)]
    except (TypeError, ValueError) as error:  # an argument missing, or of the wrong kind
        raise UserError(f"{where}: optax.{name} with {options}: {error}") from error
    chain += [decoupled_decay(weight_decay, schedule, decays)] if weight_decay and split else []
    chain += [scale_by_name(lr_scale, params)] if lr_scale else []
    chain += [scale_by_name(by_layer(layer_decay, params, f"{where}.layer_decay"), params)] if layer_decay != 1 else []
    return chain, schedule


def make_schedule(learning_rate, steps: int, where: str) -> Callable:
    """step -> learning rate, from a number or {"name": an optax schedule, ...}."""
    if isinstance(learning_rate, (int, float)):
        return optax.constant_schedule(learning_rate)
    if not isinstance(learning_rate, dict) or "name" not in learning_rate:
        raise UserError(f"{where}: expected a number or a dict with an optax schedule's name, found {learning_rate!r}")
    options = dict(learning_rate)
    name = options.pop("name")
    factory = _find(name, f"{where}.name")
    arguments = inspect.signature(factory).parameters
    options |= {key: steps for key in LENGTHS if key in arguments and key not in options}
    for key in options:
        if key not in arguments:
            raise UserError(f"{where}.{key}: optax.{name} has no such argument{did_you_mean(key, arguments)}")
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:  # an argument missing, or a warm-up longer than the run
        raise UserError(f"{where}: optax.{name} with {options}: {error}") from error


def decay_mask(params):
    """True where weight decay applies: not to norms and biases."""
    return jax.tree.map_with_path(
        lambda path, p: p.ndim > 1 and path_name(path).rsplit("/", 1)[-1] not in ("bias", "scale"), params)


def decoupled_decay(weight_decay: float, schedule: Callable, decays: Callable) -> optax.GradientTransformation:
    """p <- p - learning rate x weight decay x p, beside whatever the optimizer does (Loshchilov and Hutter 2019)."""
    def update(updates, state, params):
        rate = schedule(state.count) * weight_decay
        decayed = jax.tree.map(lambda u, p, m: u - rate * p if m else u, updates, params, decays(params))
        return decayed, optax.ScaleByScheduleState(state.count + 1)
    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.int32(0)), update)


def by_name(params, function):
    """A tree like params of function(name), name as in "conv/kernel"."""
    return jax.tree.map_with_path(lambda path, _: function(path_name(path)), params)


def scale_by_name(rules, params) -> optax.GradientTransformation:
    """Multiply each update by its first matching rule's factor: a learning rate by name, decoupled decay included."""
    for pattern, _ in rules:
        _check_matches(pattern, params, "config.optimizer.lr_scale")
    factors = by_name(params, lambda name: next((f for p, f in rules if re.fullmatch(p, name)), 1.0))
    # tree.map over the updates, not the factors: inside `partition` the frozen leaves are not there.
    factor_of = {path_name(path): f for path, f in jax.tree.leaves_with_path(factors)}
    scaled = lambda updates: jax.tree.map_with_path(lambda path, u: u * factor_of[path_name(path)], updates)
    return optax.stateless(lambda updates, params: scaled(updates))


def by_layer(decay: float, params, where: str) -> list:
    """Rules for `scale_by_name`: blocks 0 to L-1 learn at decay^(L-i), what comes before them at decay^(L+1), heads in full."""
    blocks = sorted({int(match[1]) for name in names_of(params) if (match := re.match(r"block(\d+)/", name))})
    if not blocks or not 0 < decay <= 1:
        raise UserError(f"{where} = {decay}: expected a factor up to 1 and a model of block0, block1, ...; found "
                        f"{len(blocks)} blocks")
    L = len(blocks)
    before = "(" + "|".join(BEFORE_THE_BLOCKS) + ")(/.*)?"
    present = [rule for rule in [[before, decay ** (L + 1)]] if any(re.fullmatch(before, name) for name in names_of(params))]
    return present + [[f"block{i}/.*", decay ** (L - i)] for i in blocks]


def names_of(params) -> list[str]:
    return [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]


def _check_matches(pattern: str, params, where: str) -> None:
    names = names_of(params)
    if not any(re.fullmatch(pattern, name) for name in names):
        raise UserError(f"{where}: {pattern!r} matches no parameter in full{did_you_mean(pattern, names)}")


def _find(name: str, where: str):
    factory = OWN.get(name) or getattr(optax, name, None) or getattr(optax.contrib, name, None) if name else None
    if not callable(factory):
        raise UserError(f"{where}: optax has no {name!r}{did_you_mean(name, [n for n in dir(optax) if n[0] != '_'])[:200]}")
    return factory
