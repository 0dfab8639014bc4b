"""karpjax: CNNs, masked models and policies, trained by one shared data-parallel step.

    config, task_file = karpjax.load_config("configs/digits_cnn.py")
    karpjax.fit(config, "runs/digits", task_file=task_file)
    logits = karpjax.restore("runs/digits").predict(images)
"""
import importlib
import os
import sys

# Paths on gs:// by gcsfs: if TensorFlow is installed, etils would import it for them.
os.environ.setdefault("EPATH_USE_TF", "false")

from karpjax import envs, models, sources  # noqa: E402
from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.core.metric import mean, rows, total
from karpjax.core.settings import config
from karpjax.core.state import TrainState
from karpjax.core.step import make_train_step
from karpjax.core.task import Task, apply
from karpjax.run.chips import skip_absent_tpu
from karpjax.run.config_file import load_config
from karpjax.run.restore import restore

__version__ = "0.2.0"
__all__ = ["Task", "TrainState", "UserError", "apply", "config", "envs", "fit", "load_config",
           "make_train_step", "mean", "models", "restore", "rows", "sources", "total"]

skip_absent_tpu()
old_names.install()
# `karpjax.restore` is a function here. In version 1 it was a module as well: an import of it would
# set the package's attribute of its name.
sys.modules["karpjax.restore"] = old_names.OldModule("karpjax.restore")


def __getattr__(name: str):
    """Return `fit`, or a module of version 1 (as karpjax.loop), on first use."""
    if name == "fit":  # it imports Orbax, which takes a while
        return importlib.import_module("karpjax.run.loop").fit
    if name in old_names.MODULES:
        return importlib.import_module(f"karpjax.{name}")
    raise AttributeError(f"module 'karpjax' has no attribute {name!r}")
