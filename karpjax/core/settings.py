"""The configuration: every key the core reads, its default, and what it means.

A config file calls `karpjax.config(...)` in its get_config and gives values to these keys and to
the task's own:

    def get_config():
        return karpjax.config(task="classify", steps=1000, model=dict(name="cnn"), ...)
"""
import copy
import difflib
import json

from ml_collections import ConfigDict

from karpjax.core import old_names
from karpjax.core.errors import UserError, check_choice, check_keys, did_you_mean

DEFAULTS = dict(
    task="",                # "classify": karpjax/tasks/classify.py; "pkg.mod": your module; "": the
                            # build() of this file
    seed=0,
    steps=1000,             # batches seen; a run of fewer steps can be continued with more

    # The model, the data, the optimizer: the task says which keys it reads.
    model=dict(),
    data=dict(),
    optimizer=dict(name="adamw", learning_rate=1e-3),  # see karpjax/core/optimizer.py
    # Weights to start from: a workdir, a checkpoint, a file (karpjax/run/init_from.py). Weights are
    # matched by name. Two mismatches are repaired and reported: a head with another number of
    # classes is reinitialised, and position embeddings of another grid are interpolated. Any other
    # mismatch is an error, unless its name matches init_skip.
    init_from="",
    init_skip=(),           # regular expressions, as in ["head/.*"]

    # The step.
    accumulate=1,           # micro-batches a step
    ema_decay=0.0,          # > 0: evaluate a moving average of parameters and statistics
    precision="fp32",       # "bf16": compute in bfloat16, keep everything in float32
    nonfinite_limit=1,      # steps in a row with a value that is not finite after which the run
                            # stops; each such step is skipped

    # Cadence, in steps.
    log_every=20,
    eval_every=200,
    save_every=200,
    keep=2,                 # newest checkpoints kept, beside the best one
    keep_every=0,           # > 0: checkpoints of steps that it divides are kept for good
    best="min validation/loss",  # the best of the checkpoints saved at an evaluation, or
                                 # "max validation/accuracy", ...

    # The devices.
    mesh=dict(data=-1, fsdp=1),  # data=-1: all devices; fsdp=4 splits parameters and optimizer over
                                 # groups of four
    parallel="jit",         # or "pmap"
    dispatch="",            # "scan": many steps a program; "step": one; "": scan on accelerators,
                            # step on the CPU
    steps_per_dispatch=16,  # with "scan"
    hang_timeout=0,         # seconds without progress after which the run prints which process is
                            # stuck and exits with code 4; 0: never

    # Looking inside.
    overfit=False,          # every step sees the first batch: the loss must go to (nearly) 0
    debug_nans=False,       # stop at the operation that makes a NaN (slow)
    profile_at=0,           # > 0: trace profile_steps steps from this one into WORKDIR/profile
    profile_steps=5,
    compile_cache="auto",   # the place of compiled programs, so that a second start compiles
                            # nothing: a folder; "auto": the user's cache folder; "off": none
                            # (karpjax/run/compile_cache.py)
)
# The keys that may change when a workdir is continued; any other makes another experiment.
MAY_CHANGE = (
    "steps", "log_every", "eval_every", "save_every", "keep", "keep_every", "mesh", "accumulate",
    "debug_nans", "profile_at", "profile_steps", "compile_cache", "nonfinite_limit", "hang_timeout")
# The places of data may change too: a run knows its data by content.
PLACES = ("data.data_dir", "data.dir", "data.path", "data.file", "data.corpus")
POSITIVE = ("steps", "accumulate", "log_every", "eval_every", "save_every", "keep",
            "steps_per_dispatch", "nonfinite_limit", "profile_steps")
CHOICES = {"parallel": ("jit", "pmap"), "dispatch": ("", "scan", "step"),
           "precision": ("fp32", "bf16")}


def config(**values) -> ConfigDict:
    """Return a ConfigDict of DEFAULTS with `values` over them. Other keys belong to the task."""
    merged = ConfigDict(copy.deepcopy(DEFAULTS), type_safe=True)
    for key, value in values.items():
        if key not in DEFAULTS:
            check_renamed(values, key)
            close = difflib.get_close_matches(key, DEFAULTS, n=1, cutoff=0.8)
            if close:  # a slip of the finger, not a key of the task's own
                raise UserError(f"config key {key!r} is not one of karpjax's; "
                                f"did you mean {close[0]!r}?")
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
    """Return the config as JSON would give it back: tuples become lists, references values.

    Training and restore both build the task from this, so that both see the same values.
    """
    try:
        return ConfigDict(json.loads(values.to_json()))
    except TypeError as error:
        raise UserError("the config must be plain values that JSON can hold (numbers, strings, "
                        f"lists, dicts): {error}") from error


def check_config(values: ConfigDict) -> None:
    """Check the values of the core's keys, as far as the config alone can tell."""
    for key in [*values, *(f"data.{key}" for key in values.get("data", {}))]:
        check_renamed(values, key)
    missing = [key for key in DEFAULTS if key not in values]
    if missing:
        raise UserError(f"the config lacks {missing}; build it with karpjax.config(...) in "
                        "get_config")
    for key in POSITIVE:
        if values[key] < 1:
            raise UserError(f"config.{key}: expected at least 1, found {values[key]}")
    for key, choices in CHOICES.items():
        check_choice(values[key], choices, f"config.{key}")
    check_keys(values.mesh, ("data", "fsdp"), "config.mesh")
    for key, unit in (("hang_timeout", "seconds"), ("keep_every", "steps")):
        if values[key] < 0:
            raise UserError(f"config.{key}: expected {unit}, 0 for none, found {values[key]}")
    if not 0 <= values.ema_decay < 1:
        raise UserError("config.ema_decay: expected at least 0 (off) and below 1, "
                        f"found {values.ema_decay}")
    rule = values.best.split()
    if values.best and (len(rule) != 2 or rule[0] not in ("min", "max")):
        raise UserError("config.best: expected 'min NAME' or 'max NAME', as in "
                        f"'max validation/accuracy', found {values.best!r}")


def check_same(saved: dict, current: dict, workdir) -> None:
    """Check that the config of a workdir and today's are the same experiment."""
    changed = differences(saved, current, may_change=(*MAY_CHANGE, *PLACES))
    if changed:
        raise UserError(f"{workdir} holds another experiment: {'; '.join(changed)}; use a new "
                        f"--workdir, or the old values (only {', '.join(MAY_CHANGE)} may change)")


def check_own_keys(values: ConfigDict, *own: str) -> None:
    """Check, for a task, that the config holds the core's keys, the task's own and no other."""
    check_keys([key for key in values if key not in DEFAULTS], own, "config")


def check_best(best: str, metrics: dict) -> None:
    """Check that config.best names a metric of the evaluation.

    The default may be absent: a rollout has no validation loss.
    """
    if best and best != DEFAULTS["best"] and best.split()[1] not in metrics:
        raise UserError(f"config.best = {best!r}: the evaluation has no such metric"
                        f"{did_you_mean(best.split()[1], metrics)}")


def differences(saved: dict, current: dict, prefix: str = "", may_change=MAY_CHANGE) -> list[str]:
    """Return a line "key: saved -> current" for each key that differs and must not."""
    lines = []
    for key in sorted(set(saved) | set(current)):
        name = f"{prefix}{key}"
        old, new = saved.get(key, "(absent)"), current.get(key, "(absent)")
        if name in may_change or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{name}.", may_change)
        else:
            lines.append(f"{name}: {old!r} -> {new!r}")
    return lines


def _check_type(key, default, value):
    kinds = {float: (int, float), tuple: (list, tuple)}.get(type(default), type(default))
    is_flag = isinstance(value, bool) and not isinstance(default, bool)  # True is an int
    if not isinstance(value, kinds) or is_flag:
        raise UserError(f"config.{key}: expected {type(default).__name__}, found {value!r} "
                        f"({type(value).__name__})")
