"""Version 1's names of modules, attributes, keywords and config keys, with a DeprecationWarning.

Checkpoints carry task files that import them, and so do users' own files. An import of an old
module gives a stand-in, which looks every attribute up where it is today. MODULES says where a
module went, MOVED where single names of it went, or what they are called today.
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
# Modules that kept their name: today's folder, yesterday's folder, names.
KEPT = [
    ("core.", "", "errors settings task state sharding step optimizer muon"),
    ("run.", "", "experiment checkpoint metrics loop restore init_from cli"),
    ("models.layers.", "models.", "conv embed gelu transformer"),
    ("weights.", "convert.", "archs bert efficientnet_lite names resnet resnet_cifar vit"),
]
MODULES = {
    **{old + name: new + name for new, old, names in KEPT for name in names.split()},
    "dispatch": "run.programs", "peers": "run.distributed", "watch": "run.watchdog",
    "card": "run.model_card", "tokenizer": "datasets.tokenizer", "importers": "datasets.images",
    "corpora": "datasets.text", "sources.digits": "datasets.digits",
    "sources.datasets": "datasets.tfds", "sources.host": "sources.loader",
    "sources.moments": "rl.running_stats", "advantages": "rl.advantages",
    "distributions": "rl.distributions", "augment": "sources.augment", "agent": "tasks.agent",
    "envs.host": "envs.gymnasium", "envs.games": "envs.pgx", "envs.adapters": "envs.spaces",
    "hlo": "precompile.hlo", "convert.files": "core.files",
}
# {module of version 1: {name in it: "today's module", or "today's module:today's name"}}. Among the
# modules are commands of today, which were libraries as well.
MOVED = {
    "task": {"split_variables": "core.trees", "cast_floating": "core.trees",
             "load_task_module": "core.task_file", "module_from_text": "core.task_file",
             "build_task": "core.task_file", "mean": "core.metric", "Pair": "core.metric"},
    "state": {"path_name": "core.trees"},
    "settings": {"check": "core.settings:check_config"},
    "step": {"checked": "core.step:check_outputs"},
    "optimizer": {"by_name": "core.optimizer:map_names"},
    "restore": {"by_name": "core.trees", "variable_name": "core.trees"},
    "checkpoint": {"check_names": "core.trees", "listed": "core.trees", "first_line": "core.trees",
                   "checked": "run.checkpoint:check_fingerprint"},
    "dispatch": {"where": "core.trees", "PEAK_FLOPS": "run.chips",
                 "Programs": "run.programs:make_programs"},
    "metrics": {"write_whole": "core.files", "plain": "core.files", "Clock": "run.progress",
                "Progress": "run.progress"},
    "init_from": {"start_from": "run.init_from:load_weights",
                  "check": "run.init_from:check_weights"},
    "loop": {"train": "run.loop:fit", "saved_config": "run.workdir",
             "claim": "run.workdir:open_workdir", "about": "run.workdir:checkpoint_meta",
             "versions": "run.workdir", "device": "run.workdir"},
    "watch": {"Watch": "run.watchdog:Watchdog"},
    "card": {"card": "run.model_card:model_card"},
    "models": {"make": "models:make_model"},
    "models.transformer": {"same_segment": "models.layers.transformer:segment_mask",
                           "merged": "models.layers.transformer:merge_lora"},
    "sources": {"Host": "sources.loader:Loader"},
    "sources.host": {"Host": "sources.loader:Loader"},
    "sources.moments": {"start": "rl.running_stats:init", "merged": "rl.running_stats:update"},
    "sources.datasets": {"source_of": "sources.records", "Named": "sources.records:NamedRecords",
                         "in_order": "datasets.tfds:iterate_records",
                         "read_all": "datasets.tfds:read_columns"},
    "importers": {"Found": "datasets.images:ImageSet", "Rows": "datasets.images:ImageRows",
                  "imagefolder": "datasets.imagefolder:import_imagefolder",
                  "idx": "datasets.images:import_idx", "cifar": "datasets.images:import_cifar",
                  "npz": "datasets.images:import_npz"},
    "corpora": {"text": "datasets.text:import_texts", "read": "datasets.documents:read_documents",
                "FoundText": "datasets.text:TextSet", "Tokens": "datasets.text:TokenRows"},
    "tokenizer": {"train": "datasets.tokenizer:train_tokenizer",
                  "load": "datasets.tokenizer:load_tokenizer"},
    "distributions": {"ILLEGAL": "envs.spaces", "allowed": "envs.spaces",
                      "Several": "rl.distributions:MultiCategorical"},
    "games.players": {"at_random": "envs.spaces:sample_legal",
                      "sees": "games.players:policy_and_value"},
    "sources.shuffle": {"mix": "core.trees"},
    "agent": {"environment": "envs"},
    "envs": {"make": "envs:make_env"},
    "envs.adapters": {"Gymnax": "envs.gymnax", "Brax": "envs.brax", "extra": "core.errors",
                      "box": "envs.spaces:box_of"},
    "convert.archs": {"find": "weights.archs:find_arch"},
    "sweep": {"finished": "run.workdir", "over_seeds": "run.seeds",
              "table": "run.seeds:seeds_table"},
    "evaluate": {"make_evaluator": "run.evaluator"},
    "report": {"curves": "run.pictures", "show": "run.pictures", "save_gif": "run.pictures"},
    "prepare": {"prepare": "datasets.formats", "FORMATS": "datasets.formats",
                "write": "datasets.write:write_dataset",
                "builder_class": "datasets.write:make_builder_class",
                "prepared_folder": "datasets.folders", "name_of_folder": "datasets.folders"},
    "knn": {"knn": "explain.features", "features": "explain.features", "vote": "explain.features"},
    "convert": {"read": "weights.files:read_arrays", "write": "core.files:write_arrays",
                "SUFFIXES": "weights", "to_karpjax": "weights", "to_pytorch": "weights",
                "translated": "weights"},
    "convert.files": {"read": "weights.files:read_arrays", "write": "core.files:write_arrays"},
    "export": {"export": "run.export"},
    "precompile": {"precompile": "precompile.compile", "CHIPS": "run.chips", "Chip": "run.chips"},
    "slices": {"draw": "precompile.slices", "line": "precompile.slices"},
}


# ------------------------------------------------------------------------------------------ modules

def find(module: str, name: str):
    """Return what version 1 called `name` in `module`, both without "karpjax.".

    Raises AttributeError if there is nothing.
    """
    home, _, today = MOVED.get(module, {}).get(name, MODULES.get(module, "")).partition(":")
    today = today or name
    if home:
        there = importlib.import_module(PACKAGE + home)
        if hasattr(there, today):
            warnings.warn(f"karpjax.{module}.{name} is karpjax.{home}.{today} now",
                          DeprecationWarning, stacklevel=3)
            return getattr(there, today)
    if f"{module}.{name}" in MODULES:  # a module of what was a package
        return importlib.import_module(f"{PACKAGE}{module}.{name}")
    raise AttributeError(f"module 'karpjax.{module}' has no attribute {name!r}")


def attributes(command: str) -> Callable:
    """Return the `__getattr__` of a module that is only a command today, as `karpjax.evaluate`."""
    def attribute(name: str):
        return find(command, name)
    return attribute


class OldModule(types.ModuleType):
    """A module of version 1: every attribute is looked up where it is today."""

    def __getattr__(self, name: str):
        if name.startswith("__"):  # of the import system's own
            raise AttributeError(name)
        return find(self.__name__.removeprefix(PACKAGE), name)


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The import finder of MODULES. It comes last: a module that is there is never replaced."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(PACKAGE) and name.removeprefix(PACKAGE) in MODULES:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return OldModule(spec.name)

    def exec_module(self, module) -> None:
        new = MODULES[module.__name__.removeprefix(PACKAGE)]
        warnings.warn(f"{module.__name__} is karpjax.{new} now", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Add the finder, once."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())


# -------------------------------------------------------------------------- attributes and keywords

def old_attributes(**names: str) -> Callable:
    """Let a class and its subclasses have attributes by their old names too, {old: new}.

    A subclass that defines an attribute by its old name is taken to define the new one.
    """
    def decorate(cls):
        def adopt(subclass, **kwargs):
            super(cls, subclass).__init_subclass__(**kwargs)
            for old in names.keys() & vars(subclass).keys():
                _warn(f"{subclass.__name__}.{old}", names[old])
                setattr(subclass, names[old], vars(subclass)[old])
                delattr(subclass, old)
            alias(subclass)

        def alias(owner):
            for old, new in names.items():
                if new in vars(owner):
                    setattr(owner, old, Alias(owner, old, new))

        alias(cls)
        cls.__init_subclass__ = classmethod(adopt)
        return cls
    return decorate


class Alias:
    """A class attribute by its old name, in each class that defines it by the new one.

    `super().begin(...)` is the parent's `advance`, so one alias in the first class would not do.
    """

    def __init__(self, owner: type, old: str, new: str):
        self.owner, self.old, self.new = owner, old, new

    def __get__(self, instance, cls=None):
        _warn(f"{self.owner.__name__}.{self.old}", self.new)
        if self.new in getattr(instance, "__dict__", {}):
            return vars(instance)[self.new]
        value = vars(self.owner)[self.new]
        return value.__get__(instance, cls) if hasattr(value, "__get__") else value

    def __set__(self, instance, value):
        _warn(f"{self.owner.__name__}.{self.old}", self.new)
        setattr(instance, self.new, value)


def old_keywords(**names: str) -> Callable:
    """Let a function take keywords by their old names too, {old: new}."""
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


# ----------------------------------------------------------------------------------- config's keys

CORE_KEYS = {"hang_after": "hang_timeout"}
TASK_KEYS = {"trace": "gae_lambda"}                     # of karpjax's own tasks
ROLLOUT_KEYS = {"data.length": "data.num_steps"}        # of texts, data.length is that of a row


def new_keys(values: dict, own: bool | None = None) -> dict[str, str]:
    """Return {old key: today's key}, by path, for the kind of config that `values` is.

    own  whether a task of karpjax's reads it, by default as config.task says: a user's task names
         its keys itself
    """
    if own is None:
        own = bool(values.get("task", "")) and "." not in values["task"]
    rollout = own and "num_envs" in values.get("data", {})
    return CORE_KEYS | (TASK_KEYS if own else {}) | (ROLLOUT_KEYS if rollout else {})


def today(values: dict, own: bool | None = None) -> dict:
    """Return a config of plain dicts, as a checkpoint holds it, by today's keys. `own` as above."""
    names = new_keys(values, own)

    def renamed(part: dict, prefix: str = "") -> dict:
        return {names.get(prefix + key, prefix + key).removeprefix(prefix): value
                for key, value in part.items()}
    values = renamed(values)
    return {key: renamed(value, "data.") if key == "data" and isinstance(value, dict) else value
            for key, value in values.items()}


def for_our_task(config):
    """Return a user's config by today's keys: the user's file builds a task of ours."""
    values = config.to_dict()
    keys = [*values, *(f"data.{key}" for key in values.get("data", {}))]
    names = new_keys(values, own=True)
    for key in (key for key in keys if key in names):
        _warn(f"config.{key}", f"config.{names[key]}")
    return type(config)(today(values, own=True)) if names.keys() & set(keys) else config
