"""The workdir of a run: its config, and which experiment may go on in it."""
import contextlib
import functools
import importlib.metadata
import json
import os
import platform

from etils import epath
import jax

from karpjax.core import files, old_names, settings
from karpjax.core.errors import Damaged, Outage, storage
from karpjax.run import init_from, metrics
from karpjax.run.checkpoint import absolute, steps_of
from karpjax.run.durable import check_layout, check_path, writable
from karpjax.run.experiment import Experiment
from karpjax.run.init_from import inherited
from karpjax.run.meta import FOLDER, read_meta

CONFIG = "config.json"


def saved_meta(workdir) -> dict:
    """Return the meta of the newest checkpoint in a workdir whose JSON is whole, {} if none is."""
    for step in reversed(steps_of(absolute(workdir) / FOLDER)):
        with contextlib.suppress(Damaged):
            return read_meta(absolute(workdir) / FOLDER / str(step))
    return {}


def saved_config(workdir) -> dict | None:
    """Return the config of the run in a workdir, by today's keys, None if there is none.

    It is its newest checkpoint's, which a hash seals, or, before the first save, config.json's.
    """
    written = written_config(absolute(workdir) / CONFIG)
    return saved_meta(workdir).get("config") or written


def written_config(file) -> dict | None:
    """Return the config that a config.json holds, None if it is missing or damaged."""
    # It may be: it is written again, and without a checkpoint there is no run to spoil.
    with storage(file), contextlib.suppress(ValueError, RecursionError):
        values = json.loads(file.read_text()) if file.is_file() else None
        return old_names.today(values) if values and isinstance(values, dict) else None


def check_place(workdir, files=()) -> None:
    """Check that a workdir can hold a run's files, also the source's, before anything is made."""
    with writable(f"--workdir={workdir}"):
        check_path(workdir)
        check_layout(workdir, files)


def check_unchanged(workdir, saved: dict | None) -> None:
    """Check, once the workdir is held, that it holds the config that was read before."""
    if saved_config(workdir) != saved:
        raise Outage(f"{workdir}: another run wrote there while this one started; "
                     "start the same command again")


def open_workdir(workdir, exp: Experiment, saved: dict | None) -> epath.Path:
    """Make the workdir, unless it holds another experiment or a lost one, or cannot hold any.

    saved  the config of the run that is there; None: none
    """
    config, workdir = exp.config, absolute(workdir)
    with writable(f"--workdir={workdir}"):
        if saved:
            check_same_run(saved, config, workdir)
        elif config.init_from:
            init_from.check_weights(config.init_from, exp.abstract.variables, exp.task.model,
                                    exp.source.spec, config.init_skip)
        if not steps_of(workdir / FOLDER):
            save_every = (saved or {}).get("save_every", config.save_every)
            metrics.check_not_lost(workdir, save_every, exp.source.steps_per_chunk)
        workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def check_same_run(saved: dict, config, workdir) -> None:
    """Check that a config goes on with the run of a saved one.

    A dispatch that is not given is the run's.
    """
    values = config.to_dict()
    values["dispatch"] = values["dispatch"] or saved.get("dispatch", "")
    settings.check_same(saved, values, workdir)


def write_files(workdir, config: dict, others: dict) -> None:
    """Write config.json and the source's own files {name: text}, once nothing can be refused."""
    if jax.process_index() == 0:
        with writable(f"--workdir={workdir}"):
            files.write_whole(workdir / CONFIG, json.dumps(config, indent=2) + "\n")
            for name, text in others.items():
                files.write_whole(workdir / name, text)


def checkpoint_meta(exp: Experiment, seconds: dict) -> dict:
    """Return what a checkpoint holds beside the state: all that a restore elsewhere needs.

    seconds  that the run has taken so far, by what they were spent on
    """
    return {"config": exp.config.to_dict(), "task": exp.task_file, "dispatch": exp.config.dispatch,
            "source": exp.source.spec, "seconds": seconds, "versions": versions()}


@functools.cache  # every save asks, and reads a file a package
def versions() -> dict:
    """Return the versions of Python and of the packages that a result may depend on."""
    packages = ("karpjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
                "tensorflow-datasets", "grain", "numpy")
    installed = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def device(mesh) -> dict:
    """Return the devices of a mesh and their host in words, for the summary."""
    host = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return {"kind": mesh.devices.flat[0].device_kind, "count": mesh.size,
            "processes": jax.process_count(), "host": host}


def finished(folder, config) -> dict | None:
    """Return the summary of a run that has been trained to config.steps, or None."""
    file, saved = absolute(folder) / "summary.json", saved_config(folder)
    if not saved or not file.is_file():
        return None
    check_same_run(saved, inherited(config, saved), folder)
    try:
        with storage(file):
            summary = json.loads(file.read_text())
        return summary if summary["steps"] == config.steps else None
    except (ValueError, KeyError, TypeError, RecursionError):  # the run writes it again
        return None
