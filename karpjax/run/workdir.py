"""The workdir of a run: its config, and which experiment may go on in it."""
import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform

from etils import epath
import jax

from karpjax.core import files, old_names, settings
from karpjax.core.errors import Outage, UserError, outage, storage
from karpjax.run import init_from
from karpjax.run.checkpoint import absolute
from karpjax.run.experiment import Experiment
from karpjax.run.init_from import inherited


def saved_config(workdir) -> dict | None:
    """Return WORKDIR/config.json by today's keys, None if there is none."""
    file = absolute(workdir) / "config.json"
    with storage(file):
        return old_names.today(json.loads(file.read_text())) if file.exists() else None


def open_workdir(workdir, exp: Experiment, saved: dict | None) -> epath.Path:
    """Make the workdir and its config.json, unless it holds another experiment (UserError).

    saved  the config that is there; None: none
    """
    config, workdir = exp.config, absolute(workdir)
    file = workdir / "config.json"
    try:
        if saved:
            settings.check_same(saved, config.to_dict(), workdir)
        elif config.init_from:
            init_from.check_weights(config.init_from, exp.abstract.variables, exp.task.model,
                                    exp.source.spec, config.init_skip)
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            files.write_whole(file, json.dumps(config.to_dict(), indent=2) + "\n")
    except OSError as error:
        if outage(error) and error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Outage(f"--workdir={workdir}: the storage failed ({error}); "
                         "start the same command again") from error
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror or error}); "
                        "choose another folder") from error
    return workdir


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
    if not (folder / "summary.json").exists():
        return None
    saved = saved_config(folder)
    settings.check_same(saved, inherited(config, saved).to_dict(), folder)
    summary = json.loads((folder / "summary.json").read_text())
    return summary if summary["steps"] == config.steps else None
