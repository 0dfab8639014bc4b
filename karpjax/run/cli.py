"""Parts that the commands share: flags, config files with overrides, and one line for bad input.

Exit codes:

    0   done
    1   a bug, with its traceback
    2   bad input
    3   stopped because losses were not finite
    4   hung (see watchdog.py)
    75  preempted (SIGTERM or Ctrl-C), or the storage failed for a moment: start the same command
        again to go on
    130 Ctrl-C before there was anything to save
"""
import atexit
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings

from absl import flags
import jax
from ml_collections import ConfigDict, config_flags

from karpjax.core import settings
from karpjax.core.errors import (
    FULL,
    NotFinite,
    Outage,
    Preempted,
    UserError,
    did_you_mean,
    is_own,
    outage,
)
from karpjax.run.chips import check_platform
from karpjax.run.config_file import add_data_key, load_config
from karpjax.run.distributed import OTHERS_END, join, leave
from karpjax.run.streams import lasting

HELP = {"-h", "--help", "--helpfull"}
OTHERS_END_BADLY = 2.0  # seconds that the other processes of a run have at such an end
THREADS_END = 5.0  # seconds that threads have at an end that is not a good one


def run(main) -> None:
    """Call main(argv) and exit with its code, printing bad input as one line.

    A reader of its lines that goes away (`| head`, a lost connection) does not end it.
    """
    before = threading.enumerate()
    with lasting() as failures:
        code = 1
        try:
            code = _exit_code(main)
        finally:  # the others may not know of an error
            leave(OTHERS_END if code in (None, 0, Preempted.code) else OTHERS_END_BADLY)
        sys.stdout.flush()
        if failures:
            print(f"karpjax: error: the output could not be written ({', '.join(failures)})",
                  file=sys.stderr)
            code = code or UserError.code
    if code:
        _leave_threads(set(threading.enumerate()) - set(before), code)
    sys.exit(code)


def _exit_code(main) -> int | None:
    """Call main(argv) and return its exit code."""
    _quiet_libraries()
    try:
        code = _with_devices(main)
    except Preempted as stopped:
        print(f"karpjax: {stopped}", file=sys.stderr)
        code = stopped.code
    except KeyboardInterrupt:  # before the loop, which takes it for SIGTERM
        print("karpjax: interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except (UserError, NotFinite) as error:
        print(f"karpjax: error: {error}", file=sys.stderr)
        code = error.code
    except jax.errors.JaxRuntimeError as error:
        # A callback in a compiled program raised it.
        line = re.search(r"^(?:[\w.]+\.)?UserError: (.*)", str(error), re.MULTILINE)
        if not line:
            raise
        print(f"karpjax: error: {line[1]}", file=sys.stderr)
        code = UserError.code
    except OSError as error:
        line, code = of_the_system(error)
        print(f"karpjax: error: {line}", file=sys.stderr)
    return code


def _with_devices(main) -> int | None:
    """Call main(argv), and name a platform without devices as the cause of its error."""
    try:
        return main(sys.argv[1:])
    except (AssertionError, RuntimeError):
        check_platform()
        raise


def of_the_system(error: OSError) -> tuple[str, int]:
    """Return the line and the exit code of an error of the system that nobody has named."""
    if error.errno in FULL:
        return (f"the disk is full ({error}); make room, then start the same command again: "
                "saved checkpoints are whole"), UserError.code
    # perhaps the machine's fault, perhaps the task file's: show where
    own = list(filter(is_own, traceback.extract_tb(error.__traceback__)))
    where = f", in {own[-1].filename}:{own[-1].lineno}" if own else ""
    if outage(error):
        return (f"the storage or the machine failed ({error}{where}); start the same command "
                "again"), Outage.code
    return f"{error}{where}", UserError.code


def _leave_threads(threads, code: int) -> None:
    """Exit if threads that the command began are still there after some seconds.

    Orbax's wait, after a save that failed, up to ten minutes for a folder that nobody will make.
    """
    until = time.monotonic() + THREADS_END
    for thread in threads:
        if thread.daemon:
            continue
        while thread.ident is None and time.monotonic() < until:
            time.sleep(0.01)  # it is about to begin: until then a join raises
        if thread.is_alive():
            # Orbax's own join raises
            threading.Thread.join(thread, max(0.0, until - time.monotonic()))
        if thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            os._exit(code)


def _quiet_libraries() -> None:
    """Keep background threads and libraries from printing pages about their errors."""
    # An error in a thread of Orbax or TensorStore, or in a callback, is raised again where the loop
    # waits for it. Hundreds of lines by them, asyncio and Python would bury the one that helps.
    def print_one_line(args):
        error = f"{args.exc_type.__name__}: {first_sentence(args.exc_value)}"
        print(f"karpjax: {args.thread.name}: {error}", file=sys.stderr)

    for name in ("absl", "asyncio", "jax._src.callback"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # If HOME cannot be written, matplotlib has two lines for it: the second says all.
    logging.getLogger("matplotlib").addFilter(
        lambda record: "mkdir -p failed" not in record.getMessage())
    threading.excepthook = print_one_line
    sys.unraisablehook = lambda args: None
    warnings.filterwarnings("ignore", ".* was never awaited", RuntimeWarning)  # Orbax's, at the end


def parse(argv, doc: str, config: bool = False, **defaults):
    """Parse flags of the form --name=value, or print `doc` and the flags for --help.

    doc       the command's docstring
    config    whether it takes --config=FILE[:ARG] and --config.x.y=VALUE
    defaults  the value of each flag that is not given; a type: the flag is required

    Returns an object with the flags as attributes; with `config` also config, a ConfigDict, and
    task_file, {"path", "text"}. Raises UserError.
    """
    argv = joined(argv)
    if HELP & set(argv):
        print(f"{doc.strip()}\n\nflags:\n{flags_help(config, defaults)}")
        sys.exit(0)
    values = define_flags(defaults)
    loaded = task_file = None
    if config:
        argv, loaded, task_file = _load_config(argv)
        argv = [argument for argument in argv if not add_data_key(loaded, argument)]
        _check_overrides(argv, loaded)
    try:
        if config:
            config_flags.DEFINE_config_dict("config", loaded, flag_values=values,
                                            sys_argv=["karpjax", *argv])
        rest = values(["karpjax", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"{first_sentence(error)}{as_config_key(error.flagname, loaded)}") \
            from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{first_sentence(error)}; give each key a value of its own type, as in "
                        "--config.steps=1000 (an int), --config.precision=bf16 (text)") from error
    if rest:
        raise UserError(f"expected flags of the form --name=value, found {rest[0]!r}"
                        f"{as_config_key(rest[0].partition('=')[0], loaded)}")
    for name, default in defaults.items():
        if isinstance(default, type) and getattr(values, name) is None:
            raise UserError(f"--{name}=... is missing; {doc.strip().splitlines()[0]}")
    options = {name: getattr(values, name) for name in defaults}
    if config:
        options |= {"config": values.config, "task_file": task_file}
    return Options(options)


def joined(argv) -> list[str]:
    """Return the arguments with --config FILE as --config=FILE, as absl takes other flags."""
    argv = list(argv)
    for i in reversed(range(len(argv) - 1)):
        if argv[i] == "--config" and not argv[i + 1].startswith("-"):
            argv[i:i + 2] = [f"--config={argv[i + 1]}"]
    return argv


def as_config_key(name: str, config: ConfigDict | None) -> str:
    """Return the flag of a config's key that was given without its path, as a hint, or ""."""
    known = names_of(config) if config is not None else []
    keys = [key for key in known if f".{key}".endswith(f".{name}")]
    return "".join(f"; a key of the config is given as --config.{key}=VALUE" for key in keys[:1])


def define_flags(defaults: dict) -> flags.FlagValues:
    """Return absl's flags of these defaults, None for those that are required."""
    values = flags.FlagValues()
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float,
              bool: flags.DEFINE_bool}
    for name, default in defaults.items():
        required = isinstance(default, type)
        kind = default if required else type(default)
        define[kind](name, None if required else default, "", flag_values=values)
    return values


def flags_help(config: bool, defaults: dict) -> str:
    """Return the flags, a line each: how to write it, and its default."""
    rows = []
    if config:
        rows += [("--config=FILE[:ARG]", "required: a config file, or one of karpjax's by name"),
                 ("--config.KEY=VALUE", "another value for one of its keys")]
    for name, default in defaults.items():
        kind = default if isinstance(default, type) else type(default)
        value = {str: "=TEXT", int: "=N", float: "=X", bool: ""}[kind]
        note = f"default: {'off' if default is False else default}"
        if default is kind:
            note = "required"
        elif default == "":
            note = ""
        rows.append((f"--{name}{value}", note))
    width = max((len(flag) for flag, _ in rows), default=0)
    return "\n".join(f"  {flag:<{width}}  {note}".rstrip() for flag, note in rows)


def print_forms(doc: str, forms: dict[str, tuple[bool, dict]]) -> None:
    """Print a command's docstring and the flags of each of its forms, {name: as flags_help}."""
    parts = [f"{name}\n{flags_help(*form)}" for name, form in forms.items()]
    print(f"{doc.strip()}\n\nflags:\n" + "\n".join(parts))


class Options(dict):
    """Parsed flags, as attributes or by name."""
    __getattr__ = dict.__getitem__


def _load_config(argv) -> tuple[list, ConfigDict, dict]:
    """Take --config=FILE[:ARG] out of argv and load it."""
    given = [a for a in argv if a.startswith("--config=")]
    if len(given) != 1:
        raise UserError("expected --config=FILE once, as in --config=configs/digits_cnn.py; "
                        f"found {len(given)} of it")
    return [a for a in argv if a not in given], *load_config(given[0].removeprefix("--config="))


def _check_overrides(argv, config: ConfigDict) -> None:
    """Raise UserError if a --config.a.b=VALUE names no key of the config, or a dict of keys."""
    known, prefix = names_of(config), "--config."
    for argument in (each.removeprefix(prefix) for each in argv if each.startswith(prefix)):
        name, value = re.split(r"[=\[]", argument)[0], argument.partition("=")[2]
        settings.check_renamed(config, name)
        if name not in known:
            raise UserError(f"--config.{name}: {no_such_key(name, known)} (a key of the task's own "
                            "must be in the config file before it can be changed here)")
        if not value.startswith("{") and (children := children_of(name, known)):
            example = "peak_value" if "peak_value" in children else children[0]
            raise UserError(f"--config.{name}: a dict of {', '.join(children)}; change one of "
                            f"them, as in --config.{name}.{example}={value}")


def no_such_key(name: str, known: list[str]) -> str:
    """Say what the config has in place of a key: keys of the same dict, or of any."""
    parent, _, last = name.rpartition(".")
    if parent and (children := children_of(parent, known)):
        return f"config.{parent} has no key {last!r}{did_you_mean(last, children)}"
    return f"the config has no such key{did_you_mean(name, known)}"


def children_of(parent: str, known: list[str]) -> list[str]:
    """Return the keys of a dict of the config, [] if it is none."""
    inside = (name.removeprefix(f"{parent}.") for name in known if name.startswith(f"{parent}."))
    return [name for name in inside if "." not in name]


def names_of(config: ConfigDict, prefix: str = "") -> list[str]:
    """Return every key with its path: "data", "data.batch_size", ..."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, ConfigDict):
            names += names_of(value, f"{prefix}{key}.")
    return names


def first_sentence(error) -> str:
    """Return an error's text as one line of at most 400 characters."""
    quoted = isinstance(error, KeyError) and error.args  # str(KeyError) is its text in quotes
    text = error.args[0] if quoted else error
    return " ".join(str(text).split())[:400]


def print_json(values: dict) -> None:
    print(json.dumps(values))


def start_jax(devices: int = 0, coordinator: str = "", processes: int = 0, process: int = 0,
              distributed: bool = False, join_seconds: int = 300):
    """Simulate CPU devices, or join the processes of a run, before jax is used."""
    if devices < 0:
        raise UserError(f"--devices: expected at least 1, found {devices}")
    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    if coordinator or distributed:
        join(coordinator, processes, process, join_seconds)
