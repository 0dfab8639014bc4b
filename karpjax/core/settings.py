"""The configuration: every key the core reads, its default, and what it means.

A config file calls `karpjax.config(...)` in its get_config and gives values to these keys and to the task's own:

    def get_config():
        return karpjax.config(task="classify", steps=1000, model=dict(name="cnn"), data=dict(name="digits"), ...)
"""
import copy
import difflib
import json

from ml_collections import ConfigDict

from karpjax.core import old_names
from karpjax.core.errors import UserError, check_choice, check_keys, did_you_mean

DEFAULTS = dict(
    task="",                    # "classify": karpjax/tasks/classify.py; "pkg.mod": your module; "": this file's build()
    seed=0,
    steps=1000,                 # batches seen; a run of fewer steps can be continued with more

    # What is learned from what; the task says which keys it reads.
    model=dict(),
    data=dict(),
    optimizer=dict(name="adamw", learning_rate=1e-3),  # see karpjax/core/optimizer.py
    init_from="",               # start from other weights: a workdir, a checkpoint, a file (karpjax/run/init_from.py)
    init_skip=(),               # regular expressions on names that may differ there, as in ["head/.*"]

    # The step.
    accumulate=1,               # micro-batches a step
    ema_decay=0.0,              # > 0: evaluate a moving average of the parameters
    precision="fp32",           # "bf16": compute in bfloat16, keep everything in float32
    nonfinite_limit=1,          # stop after so many steps in a row that were skipped because something was not finite

    # Cadence, in steps.
    log_every=20,
    eval_every=200,
    save_every=200,
    keep=2,                     # newest checkpoints kept, beside the best one
    keep_every=0,               # > 0: those of steps that it divides are kept for good
    best="min validation/loss", # the best checkpoint, of those saved at an evaluation: "max validation/accuracy", ...

    # Where it runs.
    mesh=dict(data=-1, fsdp=1), # data=-1: all devices; fsdp=4 splits parameters and optimizer over groups of four
    parallel="jit",             # or "pmap"
    dispatch="",                # "scan": many steps a program; "step": one; "": scan on accelerators, step on the CPU
    steps_per_dispatch=16,      # with "scan"

    hang_timeout=0,               # > 0: where nothing has moved for so many seconds, say which process stands still, and end

    # Looking inside.
    overfit=False,              # every step sees the first batch: the loss must go to (nearly) 0
    debug_nans=False,           # stop at the operation that makes a NaN (slow)
    profile_at=0,               # > 0: trace profile_steps steps from this one into WORKDIR/profile
    profile_steps=5,
    compile_cache="auto",       # compiled programs are kept, so that a second start compiles nothing: "auto": in the user's
                                # cache folder; "off"; or a folder (karpjax/compile_cache.py)
)
# A workdir may be continued with other values of these; anything else would be another experiment.
MAY_CHANGE = ("steps", "log_every", "eval_every", "save_every", "keep", "keep_every", "mesh", "accumulate", "debug_nans",
              "profile_at", "profile_steps", "compile_cache", "nonfinite_limit", "hang_timeout")


def config(**values) -> ConfigDict:
    """A ConfigDict of DEFAULTS with `values` over them; keys that are not in DEFAULTS belong to the task."""
    merged = ConfigDict(copy.deepcopy(DEFAULTS), type_safe=True)
    for key, value in values.items():
        if key not in DEFAULTS:
            check_renamed(values, key)
            close = difflib.get_close_matches(key, DEFAULTS, n=1, cutoff=0.8)
            if close:  # a slip of the finger, not a key of the task's own
                raise UserError(f"config key {key!r} is not one of karpjax's; did you mean {close[0]!r}?")
            merged[key] = ConfigDict(value) if isinstance(value, dict) else value
        elif isinstance(value, dict):
            merged[key] = ConfigDict({**DEFAULTS["mesh"], **value} if key == "mesh" else value)
        else:
            _check_type(key, DEFAULTS[key], value)
            merged[key] = type(DEFAULTS[key])(value)
    return merged


def check_renamed(values, key: str) -> None:
    """Refuse a key by the name that version 1 had for it."""
    today = old_names.new_keys(values).get(key)
    if today:
        raise UserError(f"config.{key} is called config.{today} now; rename it")


def canonical(values: ConfigDict) -> ConfigDict:
    """The config as it looks after a trip through JSON (tuples become lists, references values).

    Training and restore both build the task from this, so that both see the same values.
    """
    try:
        return ConfigDict(json.loads(values.to_json()))
    except TypeError as error:
        raise UserError(f"the config must be plain values that JSON can hold (numbers, strings, lists, dicts): {error}") \
            from error


def check_config(values: ConfigDict) -> None:
    """Value checks of the core's keys that need nothing but the config."""
    for key in [*values, *(f"data.{key}" for key in values.get("data", {}))]:
        check_renamed(values, key)
    missing = [key for key in DEFAULTS if key not in values]
    if missing:
        raise UserError(f"the config lacks {missing}; build it with karpjax.config(...) in get_config")
    for key in ("steps", "accumulate", "log_every", "eval_every", "save_every", "keep", "steps_per_dispatch",
                "nonfinite_limit", "profile_steps"):
        if values[key] < 1:
            raise UserError(f"config.{key}: expected at least 1, found {values[key]}")
    for key, choices in (("parallel", ("jit", "pmap")), ("dispatch", ("", "scan", "step")), ("precision", ("fp32", "bf16"))):
        check_choice(values[key], choices, f"config.{key}")
    check_keys(values.mesh, ("data", "fsdp"), "config.mesh")
    for key, unit in (("hang_timeout", "seconds"), ("keep_every", "steps")):
        if values[key] < 0:
            raise UserError(f"config.{key}: expected {unit}, 0 for none, found {values[key]}")
    if not 0 <= values.ema_decay < 1:
        raise UserError(f"config.ema_decay: expected at least 0 (off) and below 1, found {values.ema_decay}")
    if values.best and (len(values.best.split()) != 2 or values.best.split()[0] not in ("min", "max")):
        raise UserError(f"config.best: expected 'min NAME' or 'max NAME', as in 'max validation/accuracy', "
                        f"found {values.best!r}")


def check_same(saved: dict, current: dict, workdir) -> None:
    """The config a workdir was made with and today's are the same experiment."""
    changed = differences(saved, current)
    if changed:
        raise UserError(f"{workdir} holds another experiment: {'; '.join(changed)}; use a new --workdir, or the old values "
                        f"(only {', '.join(MAY_CHANGE)} may change)")


def check_own_keys(values: ConfigDict, *own: str) -> None:
    """For a task: the config holds the core's keys and the task's own, and nothing misspelt."""
    check_keys([key for key in values if key not in DEFAULTS], own, "config")


def check_best(best: str, found: dict) -> None:
    """config.best names a metric of the evaluation; the default may be absent (a rollout has no validation loss)."""
    if best and best != DEFAULTS["best"] and best.split()[1] not in found:
        raise UserError(f"config.best = {best!r}: the evaluation has no such metric{did_you_mean(best.split()[1], found)}")


def differences(saved: dict, current: dict, prefix: str = "", may_change=MAY_CHANGE) -> list[str]:
    """Lines "key: saved -> current" for what differs, but for keys that may."""
    lines = []
    for key in sorted(set(saved) | set(current)):
        name = f"{prefix}{key}"
        old, new = saved.get(key, "(absent)"), current.get(key, "(absent)")
        if not prefix and key in may_change or old == new:
            continue
        lines += differences(old, new, f"{name}.") if isinstance(old, dict) and isinstance(new, dict) else \
            [f"{name}: {old!r} -> {new!r}"]
    return lines


def _check_type(key, default, value):
    fits = isinstance(value, (int, float) if isinstance(default, float) else
                      (list, tuple) if isinstance(default, tuple) else type(default))
    if not fits or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UserError(f"config.{key}: expected {type(default).__name__}, found {value!r} ({type(value).__name__})")
