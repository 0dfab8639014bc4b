"""Environments by name: karpjax's own, and those of other libraries, a file each.

Others' names begin with their library: "gymnax:NAME", "brax:NAME", "gymnasium:NAME", and of games
"pgx:NAME". An environment of your own follows karpjax/envs/protocol.py, and `protocol.check_env`
checks it.
"""
import inspect

from ml_collections import ConfigDict

from karpjax.core import old_names
from karpjax.core.errors import UserError, check_keys, did_you_mean
from karpjax.envs.acrobot import Acrobot
from karpjax.envs.brax import Brax
from karpjax.envs.cartpole import CartPole
from karpjax.envs.grid_nav import GridNav
from karpjax.envs.gymnasium import Gymnasium
from karpjax.envs.gymnax import Gymnax
from karpjax.envs.highway import Highway
from karpjax.envs.pendulum import Pendulum
from karpjax.envs.pgx import Pgx
from karpjax.envs.reacher import Reacher

ENVIRONMENTS = {"cartpole": CartPole, "acrobot": Acrobot, "pendulum": Pendulum,
                "grid_nav": GridNav, "reacher": Reacher, "highway": Highway}
ADAPTERS = {"gymnax": Gymnax, "brax": Brax, "gymnasium": Gymnasium, "pgx": Pgx}


def make_env(name: str, **options):
    """Return the environment of this name; UserError if there is none, or an option is unknown."""
    project, _, foreign = name.partition(":")
    if foreign and project in ADAPTERS:
        return ADAPTERS[project](foreign, **options)
    if name not in ENVIRONMENTS:
        raise UserError(f"config.env: no environment {name!r}{did_you_mean(name, ENVIRONMENTS)}")
    check_keys(options, inspect.signature(ENVIRONMENTS[name]).parameters, "config.env")
    return ENVIRONMENTS[name](**options)


def environment(config):
    """Return the environment that config.env names."""
    options = config.env
    if not isinstance(options, ConfigDict) or "name" not in options:
        raise UserError(f"config.env: expected dict(name=..., its options), found {options!r}")
    return make_env(options["name"], **{k: v for k, v in options.items() if k != "name"})


__getattr__ = old_names.attributes("envs")
