"""Config files: Python files whose get_config() returns `karpjax.config(...)`.

    config, task_file = karpjax.load_config("configs/poly.py", {"model.width": 8})
    karpjax.fit(config, "runs/poly", task_file=task_file)
"""
import ast
from collections.abc import Mapping
import difflib
import pathlib
import re

from ml_collections import ConfigDict

from karpjax.core import files, settings
from karpjax.core.errors import UserError, did_you_mean
from karpjax.core.task_file import module_from_text
from karpjax.run.own_code import own_code
from karpjax.sources.causal import CORPUS
from karpjax.sources.images import KEYS
from karpjax.sources.text import BYTES_OF_A_FILE, PREPARED

PACKAGE = pathlib.Path(__file__).parent.parent
# Keys of config.data that a command may give to a config without them.
DATA_KEYS = sorted({*KEYS, *PREPARED, *BYTES_OF_A_FILE, *CORPUS} - {"described"})
NUMBERS = ("batch_size", "channels", "crop", "length", "mean", "resize", "std")
EXAMPLES = (PACKAGE / "configs", PACKAGE.parent / "configs")  # in a wheel, in a checkout


def load_config(path, overrides: Mapping | None = None) -> tuple[ConfigDict, dict]:
    """Return the config of a file and its task file, {"path", "text"}, for `karpjax.fit`.

    path       of the file, "mine/poly.py", or its name among karpjax's own configs, "poly"; in
               "cifar10_resnet:20" the 20 goes to its get_config
    overrides  values by path: {"steps": 100, "data.batch_size": 32}

    Raises UserError if there is no such file, no get_config in it, or no such key.
    """
    name, _, argument = str(path).partition(":")
    file = find_config(name)
    text = file.read_text()
    with own_code(f"--config={name}"):
        module = module_from_text(str(file), text)
    if not hasattr(module, "get_config"):
        raise UserError(f"{file}: no get_config() in it; "
                        "define get_config() that returns karpjax.config(...)")
    with own_code("get_config"):
        config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config() returned {type(config).__name__}, "
                        "expected what karpjax.config(...) returns")
    for key, value in (overrides or {}).items():
        override(config, key, value)
    settings.check_config(config)
    return config, {"path": str(file), "text": text}


def find_config(name: str) -> pathlib.Path:
    """Return the file of that path or name.

    One in the current folder wins over one of karpjax's own.
    """
    given = files.local(name, "--config")
    file_name = given.name if given.suffix == ".py" else f"{given.name}.py"
    places = [given, given.parent / file_name]
    if given.parent in (pathlib.Path("."), pathlib.Path("configs")):
        places += [folder / file_name for folder in EXAMPLES]
    for file in places:
        if file.is_file():
            return file
    names = sorted({file.stem for folder in EXAMPLES for file in folder.glob("*.py")})
    raise UserError(f"--config={name}: no such file, and no such config of karpjax's own"
                    f"{did_you_mean(given.stem, names)}")


def override(config: ConfigDict, key: str, value) -> None:
    """Set a value by its path. A dict may replace a number, as a schedule does a learning rate."""
    settings.check_renamed(config, key)
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        if not isinstance(node.get(parent), ConfigDict):
            raise UserError(f"{key}: the config has no {parent!r}{did_you_mean(parent, node)}")
        node = node[parent]
    # A task's own keys may be absent; a name that is close to one that is there is a slip.
    slip = difflib.get_close_matches(last, node, n=1, cutoff=0.8)
    if last not in node and (slip or not parents):
        raise UserError(f"{key}: the config has no such key{did_you_mean(last, node)}")
    if not parents and last in settings.DEFAULTS:
        value = settings.config(**{last: value})[last]  # checks its type
    with node.unlocked():
        if last in node and (isinstance(value, Mapping) or type(node[last]) is not type(value)):
            del node[last]  # a ConfigDict refuses a value of another type
        node[last] = value


def add_data_key(config: ConfigDict, argument: str) -> bool:
    """Set a known key of config.data that the config lacks, and return whether there was one.

    argument   of a command: "--config.data.resize=(64,64)"
    """
    match = re.fullmatch(r"--config\.data\.(\w+)=(.*)", argument, re.DOTALL)
    if not match or match[1] not in DATA_KEYS or match[1] in config.get("data", {match[1]: None}):
        return False
    key, value = match.groups()
    if key in NUMBERS:
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"--config.data.{key}={value}: expected numbers, as in "
                            f"--config.data.{key}={'(64,64)' if key == 'resize' else '[1]'}"
                            ) from error
    with config.data.unlocked():
        config.data[key] = value
    return True
