"""Task files: find the module that defines `build(config)`, or execute a checkpoint's text.

The one place that finds tasks by name: `karpjax.tasks.NAME` stands above everything else.
"""
import hashlib
import importlib
import inspect
import linecache
import sys
import types

from karpjax.core.errors import UserError
from karpjax.core.task import Task


def load_task_module(name: str, source: dict | None = None):
    """Return the module that defines `build(config)`, and its task file for checkpoints.

    name    "" with `source` = {"path", "text"}: that text (a config file that also holds its task);
            "my_package.my_task": that module; "classify": karpjax.tasks.classify
    source  may be a checkpoint's: the task is built from its text, even if the file is gone
    Returns (module, {"name", "path", "text"}); text is None for the tasks that ship with karpjax.
    """
    if source is not None and source.get("text"):
        return module_from_text(source["path"], source["text"]), {"name": name, **source}
    full_name = name if "." in name else f"karpjax.tasks.{name}"
    if not name:
        raise UserError("config.task is empty and the config file has no build(config); name a "
                        "task, as in config.task = 'classify' or 'my_package.my_task', or define "
                        "build(config) beside get_config")
    try:
        module = importlib.import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name and f"{full_name}.".startswith(f"{error.name}."):
            raise UserError(f"config.task = {name!r}: no module {full_name}; a name with a dot is "
                            "a module on PYTHONPATH, one without is in karpjax/tasks") from error
        raise
    except SyntaxError as error:
        raise UserError(f"config.task = {name!r}: {error.filename}:{error.lineno}: {error.msg}") \
            from error
    if full_name.startswith("karpjax."):
        return module, {"name": name, "path": None, "text": None}
    path, text = inspect.getsourcefile(module), inspect.getsource(module)
    return module, {"name": name, "path": path, "text": text}


def module_from_text(path: str, text: str):
    """Execute a task file's text as a module.

    It runs with your rights: restore only checkpoints you trust.
    """
    name = "karpjax_task_" + hashlib.sha256(text.encode()).hexdigest()[:12]
    # So that tracebacks show the lines, and not those of another text that came from this path.
    linecache.cache[path] = (len(text), None, text.splitlines(True), path)
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    try:
        code = compile(text, path, "exec")
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise UserError(f"{path}:{error.lineno}: {error.msg}: {line}") from error
    sys.modules[name] = module  # dataclasses and Linen look their module up
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def build_task(config, module) -> Task:
    """Call module.build(config) and check what it returns."""
    if not hasattr(module, "build"):
        raise UserError(f"{module.__file__}: no build(config) in it; define build(config) -> "
                        "karpjax.Task, or name another task in config.task")
    task = module.build(config)
    if not isinstance(task, Task):
        raise UserError(f"{module.__file__}: build(config) returned {type(task).__name__}, "
                        "expected a karpjax.Task")
    return task
