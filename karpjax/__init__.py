"""karpjax: CNNs, masked models and policies, trained by one shared data-parallel step."""
import importlib

from karpjax import envs, models, sources
from karpjax.core import step
from karpjax.core.errors import UserError
from karpjax.core.metric import mean
from karpjax.core.settings import config
from karpjax.core.state import TrainState
from karpjax.core.step import make_train_step
from karpjax.core.task import Task, apply
from karpjax.run.restore import restore

__version__ = "0.1.0"
__all__ = ["Task", "TrainState", "UserError", "apply", "config", "envs", "loop", "make_train_step", "mean", "models",
           "restore", "sources", "step"]


def __getattr__(name):
    """karpjax.run.loop on first use: it imports commands, which `python -m` must find unimported."""
    if name == "loop":
        return importlib.import_module("karpjax.run.loop")
    raise AttributeError(f"module 'karpjax' has no attribute {name!r}")
