"""Modules of version 1 under the names that they had: checkpoints carry task files that import them, and so do users' own.

An import of one gives a stand-in that hands on what the new module has, with a DeprecationWarning. What moved to another
module, or is called otherwise today, stands in MOVED.
"""
from collections.abc import Callable
import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

PACKAGE = "karpjax."
MODULES = {
    **{name: f"core.{name}" for name in ("errors", "settings", "task", "state", "sharding", "step", "optimizer", "muon")},
    **{name: f"run.{name}" for name in ("experiment", "checkpoint", "metrics", "loop", "restore", "init_from", "cli")},
    **{f"models.{name}": f"models.layers.{name}" for name in ("conv", "embed", "gelu", "transformer")},
    **{f"convert.{name}": f"weights.{name}" for name in ("archs", "bert", "efficientnet_lite", "names", "resnet",
                                                         "resnet_cifar", "vit")},
    "dispatch": "run.programs", "peers": "run.distributed", "watch": "run.watchdog", "card": "run.model_card",
    "tokenizer": "datasets.tokenizer", "importers": "datasets.images", "corpora": "datasets.text",
    "sources.digits": "datasets.digits", "sources.datasets": "datasets.tfds", "sources.host": "sources.loader",
    "sources.moments": "rl.running_stats", "advantages": "rl.advantages", "distributions": "rl.distributions",
    "augment": "sources.augment", "agent": "tasks.agent", "envs.host": "envs.gymnasium", "envs.games": "envs.pgx",
    "envs.adapters": "envs.spaces", "hlo": "precompile.hlo", "convert.files": "core.files",
}
# Of a module of version 1, or of one that is a command today: where each of its names is.
MOVED = {
    "task": {"split_variables": "core.trees", "cast_floating": "core.trees", "load_task_module": "core.task_file",
             "module_from_text": "core.task_file", "build_task": "core.task_file", "mean": "core.metric",
             "Pair": "core.metric"},
    "state": {"path_name": "core.trees"},
    "restore": {"by_name": "core.trees", "variable_name": "core.trees"},
    "sources.shuffle": {"mix": "core.trees"},
    "checkpoint": {"check_names": "core.trees", "listed": "core.trees", "first_line": "core.trees"},
    "dispatch": {"where": "core.trees", "PEAK_FLOPS": "run.chips"},
    "metrics": {"write_whole": "core.files", "plain": "core.files", "Clock": "run.progress", "Progress": "run.progress"},
    "games.players": {"at_random": "envs.spaces:sample_legal"},
    "distributions": {"ILLEGAL": "envs.spaces", "allowed": "envs.spaces", "Several": "rl.distributions:MultiCategorical"},
    "sources.moments": {"start": "rl.running_stats:init", "merged": "rl.running_stats:update"},
    "sources.host": {"Host": "sources.loader:Loader"},
    "sources": {"Host": "sources.loader:Loader"},
    "models": {"make": "models:make_model"},
    "envs": {"make": "envs:make_env"},
    "init_from": {"start_from": "run.init_from:load_weights"},
    "agent": {"environment": "envs"},
    "loop": {"train": "run.loop:fit", "saved_config": "run.workdir", "claim": "run.workdir", "about": "run.workdir",
             "versions": "run.workdir", "device": "run.workdir"},
    "envs.adapters": {"Gymnax": "envs.gymnax", "Brax": "envs.brax", "extra": "core.errors", "box": "envs.spaces:box_of"},
    "sources.datasets": {"source_of": "sources.records", "Named": "sources.records"},
    "sweep": {"finished": "run.workdir"},
    "evaluate": {"make_evaluator": "run.evaluator"},
    "report": {"curves": "run.pictures", "show": "run.pictures", "save_gif": "run.pictures"},
    "prepare": {"prepare": "datasets.formats", "FORMATS": "datasets.formats", "write": "datasets.tfds",
                "builder_class": "datasets.tfds", "prepared_folder": "datasets.images", "name_of_folder": "datasets.images"},
    "knn": {"knn": "explain.features", "features": "explain.features", "vote": "explain.features"},
    "convert": {"read": "core.files", "write": "core.files", "SUFFIXES": "weights", "to_karpjax": "weights",
                "to_pytorch": "weights", "translated": "weights", "files": "core:files"},
    "export": {"export": "run.export"},
    "precompile": {"precompile": "precompile.compile", "CHIPS": "run.chips", "Chip": "run.chips"},
    "slices": {"draw": "precompile.slices", "line": "precompile.slices"},
}


def find(module: str, name: str):
    """Return what version 1 called `name` in `module`, both without "karpjax."; AttributeError if there is nothing."""
    home, _, today = MOVED.get(module, {}).get(name, MODULES.get(module, "")).partition(":")
    if not home:
        raise AttributeError(f"module 'karpjax.{module}' has no attribute {name!r}")
    warnings.warn(f"karpjax.{module}.{name} is karpjax.{home}.{today or name} now", DeprecationWarning, stacklevel=3)
    found = importlib.import_module(PACKAGE + home)
    return getattr(found, today or name) if hasattr(found, today or name) else importlib.import_module(f"{PACKAGE}{home}.{today or name}")


class OldModule(types.ModuleType):
    """A module of version 1: every attribute is looked up where it is today."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return find(self.__name__.removeprefix(PACKAGE), name)

    def __call__(self, *args, **kwargs):
        """Call the function of the module's own name: `karpjax.restore` is a function, and was a module as well."""
        return find(*[self.__name__.rpartition(".")[2]] * 2)(*args, **kwargs)


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The import finder of MODULES. It comes last: a module that is there is never replaced."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(PACKAGE) and name.removeprefix(PACKAGE) in MODULES:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return OldModule(spec.name, f"{spec.name} of version 1: see karpjax.{MODULES[spec.name.removeprefix(PACKAGE)]}")

    def exec_module(self, module) -> None:
        new = MODULES[module.__name__.removeprefix(PACKAGE)]
        warnings.warn(f"{module.__name__} is karpjax.{new} now", DeprecationWarning, stacklevel=2)


def attributes(command: str):
    """Return the `__getattr__` of a module that is only a command today, as `karpjax.evaluate`."""
    return lambda name: find(command, name)


def install() -> None:
    """Add the finder, once."""
    if not any(isinstance(each, OldNames) for each in sys.meta_path):
        sys.meta_path.append(OldNames())


# ------------------------------------------------------------------------- attributes, keywords, keys of a config

def old_attributes(**names: str) -> Callable:
    """Let a class and its subclasses have attributes by their old names too, {old: new}, with a DeprecationWarning."""
    def decorate(cls):
        for old, new in names.items():
            setattr(cls, old, _alias(cls.__name__, old, new))

        def adopt(subclass, **kwargs):
            super(cls, subclass).__init_subclass__(**kwargs)
            for old in names.keys() & vars(subclass).keys():
                _warn(f"{subclass.__name__}.{old}", names[old])
                setattr(subclass, names[old], vars(subclass)[old])
                delattr(subclass, old)
        cls.__init_subclass__ = classmethod(adopt)
        return cls
    return decorate


def _alias(owner: str, old: str, new: str) -> property:
    def get(self):
        _warn(f"{owner}.{old}", new)
        return getattr(self, new)

    def put(self, value):
        _warn(f"{owner}.{old}", new)
        setattr(self, new, value)
    return property(get, put)


def old_keywords(**names: str) -> Callable:
    """Let a function take keywords by their old names too, {old: new}, with a DeprecationWarning."""
    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            for old in names.keys() & kwargs.keys():
                _warn(f"{function.__qualname__}({old}=)", names[old])
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)
        return call
    return decorate


def methods(task) -> dict:
    """Return the methods of a policy of version 1, whose Task names none: it acts by `predict`."""
    if task.methods or not task.source.depends_on_policy:
        return {}

    def act(variables, obs):
        _warn("run.act without Task.methods", 'Task(methods={"act": ...})')
        return task.outputs(variables, obs)
    return {"act": act}


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=3)


CORE_KEYS = {"hang_after": "hang_timeout"}
TASK_KEYS = {"trace": "gae_lambda"}        # of karpjax's own tasks; a user's task names its keys itself
ROLLOUT_KEYS = {"length": "num_steps"}     # of config.data, where it has num_envs; of texts `length` is that of a row


def new_key(values: dict, key: str, own: bool | None = None) -> str:
    """Return what a key of a config, by its path, is called today; "" if it is not an old one.

    own  whether a task of karpjax's reads it; by default as config.task says
    """
    own = bool(values.get("task", "")) and "." not in values["task"] if own is None else own
    rollout = own and "num_envs" in values.get("data", {})
    table = CORE_KEYS | (TASK_KEYS if own else {})
    table |= {f"data.{old}": f"data.{new}" for old, new in ROLLOUT_KEYS.items()} if rollout else {}
    return table.get(key, "")


def today(values: dict, own: bool | None = None) -> dict:
    """Return the config that a checkpoint or a workdir holds, plain dicts, by today's keys; `own` as in `new_key`."""
    renamed = {new_key(values, key, own) or key: value for key, value in values.items()}
    if isinstance(renamed.get("data"), dict):
        of_data = lambda key: new_key(values, f"data.{key}", own).removeprefix("data.") or key
        renamed["data"] = {of_data(key): value for key, value in renamed["data"].items()}
    return renamed


def for_our_task(config):
    """Return a user's config by today's keys, with a warning: the user's file builds a task of ours."""
    renamed = today(config.to_dict(), own=True)
    if renamed.keys() == config.keys() and renamed.get("data", {}).keys() == config.get("data", {}).keys():
        return config
    _warn("a config with trace or data.length", "gae_lambda, data.num_steps")
    return type(config)(renamed)
