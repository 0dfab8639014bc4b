"""What the commands share: flags, config files with overrides, and one line for bad input.

Exit codes: 0 done; 1 a bug (with its traceback); 2 bad input; 3 stopped because losses were not finite; 4 hung (see watch.py);
75 preempted (SIGTERM or Ctrl-C), or the storage failed for a moment: start the same command again to go on.
"""
import glob
import importlib.util
import json
import logging
import os
import re
import sys
import threading
import traceback

from absl import flags
import jax
from ml_collections import ConfigDict, config_flags

from karpjax.core import settings
from karpjax.core.errors import FULL, NotFinite, Preempted, UserError, did_you_mean
from karpjax.run.config_file import load_config
from karpjax.run.distributed import join

ACCELERATORS = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/kfd")


def run(main) -> None:
    """Call main(argv) and exit: bad input as one line."""
    if importlib.util.find_spec("libtpu") and not any(map(glob.glob, ACCELERATORS)) and "JAX_PLATFORMS" not in os.environ:
        # precompile's libtpu would look for a TPU beside it, and print a page about not finding one
        jax.config.update("jax_platforms", "cpu")
    _quiet_threads()
    try:
        code = main(sys.argv[1:])
    except Preempted as stopped:
        print(f"karpjax: {stopped}", file=sys.stderr)
        code = stopped.code
    except (UserError, NotFinite) as error:
        print(f"karpjax: error: {error}", file=sys.stderr)
        code = error.code
    except jax.errors.JaxRuntimeError as error:
        said = re.search(r"^(?:[\w.]+\.)?UserError: (.*)", str(error), re.MULTILINE)  # by a callback in a compiled program
        if not said:
            raise
        print(f"karpjax: error: {said[1]}", file=sys.stderr)
        code = UserError.code
    except OSError as error:
        if error.errno in FULL:
            error = f"the disk is full ({error}); make room, then start the same command again: saved checkpoints are whole"
        else:  # perhaps the machine's fault, perhaps the task file's: show where
            traceback.print_exc()
        print(f"karpjax: error: {error}", file=sys.stderr)
        code = UserError.code
    sys.stdout.flush()
    sys.exit(code)


def _quiet_threads() -> None:
    """An error in a background thread of Orbax or TensorStore, or in a callback, is raised again where the loop waits for it;
    the hundreds of lines that they, asyncio and Python print about it would bury the one line that helps."""
    for name in ("absl", "asyncio", "jax._src.callback"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = lambda args: print(f"karpjax: {args.thread.name}: {args.exc_type.__name__}: "
                                              f"{first_sentence(args.exc_value)}", file=sys.stderr)
    sys.unraisablehook = lambda args: None


def parse(argv, doc: str, config: bool = False, **defaults):
    """Flags --name=value by their defaults (a type: required), and with `config` --config=FILE[:ARG] --config.x.y=VALUE.

    Returns an object with the flags as attributes; config is then (ConfigDict, {"path", "text"}).
    """
    values = flags.FlagValues()
    for name, default in defaults.items():
        define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, bool: flags.DEFINE_bool}
        required = isinstance(default, type)
        define[default if required else type(default)](name, None if required else default, "", flag_values=values)
    if {"-h", "--help", "--helpfull"} & set(argv):
        names = ["--config=FILE --config.KEY=VALUE"] * config + [f"--{name}" for name in defaults]
        print(doc.strip(), "\n\nflags:", ", ".join(names))
        sys.exit(0)
    loaded = task_file = None
    if config:
        argv, loaded, task_file = _load_config(argv)
        _check_overrides(argv, loaded)
    try:
        if config:
            config_flags.DEFINE_config_dict("config", loaded, flag_values=values, sys_argv=["karpjax", *argv])
        rest = values(["karpjax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(first_sentence(error)) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{first_sentence(error)}; give each key a value of its own type, as in --config.steps=1000 (an "
                        "int), --config.precision=bf16 (text)") from error
    if rest:
        raise UserError(f"expected flags of the form --name=value, found {rest[0]!r}")
    for name, default in defaults.items():
        if isinstance(default, type) and getattr(values, name) is None:
            raise UserError(f"--{name}=... is missing; {doc.strip().splitlines()[0]}")
    options = {name: getattr(values, name) for name in defaults}
    return Options({**options, **({"config": values.config, "task_file": task_file} if config else {})})


class Options(dict):
    __getattr__ = dict.__getitem__


def _load_config(argv) -> tuple[list, ConfigDict, dict]:
    """Take --config=FILE[:ARG] out of argv and load it."""
    given = [a for a in argv if a.startswith("--config=")]
    if len(given) != 1:
        raise UserError(f"expected --config=FILE once, as in --config=configs/digits_cnn.py; found {len(given)} of it")
    return [a for a in argv if a not in given], *load_config(given[0].removeprefix("--config="))


def _check_overrides(argv, config: ConfigDict) -> None:
    """Every --config.a.b=VALUE names a key that the config has."""
    known = names_of(config)
    for name in (re.split(r"[=\[]", a.removeprefix("--config."))[0] for a in argv if a.startswith("--config.")):
        settings.check_renamed(config, name)
        if name not in known:
            raise UserError(f"--config.{name}: the config has no such key{did_you_mean(name, known)} (a key of the task's "
                            "own must be in the config file before it can be changed here)")


def names_of(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every key with its path: "data", "data.batch_size", ..."""
    return [name for key, value in config.items() for name in
            [prefix + key, *(names_of(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else ())]]


def first_sentence(error) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) would quote it
    return " ".join(str(text).split())[:400]


def print_json(values: dict) -> None:
    print(json.dumps(values))


def start_jax(devices: int = 0, coordinator: str = "", processes: int = 0, process: int = 0, distributed: bool = False,
              join_seconds: int = 300):
    """Before any other use of jax: simulated CPU devices, or the processes of a multi-host run."""
    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    if coordinator or distributed:
        join(coordinator, processes, process, join_seconds)
