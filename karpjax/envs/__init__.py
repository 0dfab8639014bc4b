"""Environments by name: those here, and others' as "gymnax:NAME", "brax:NAME" (adapters.py), "gymnasium:NAME" (host.py), and
games as "pgx:NAME" (games.py)."""
import inspect

from karpjax.envs.acrobot import Acrobot
from karpjax.envs.adapters import Brax, Gymnax
from karpjax.envs.cartpole import CartPole
from karpjax.envs.games import Pgx
from karpjax.envs.grid_nav import GridNav
from karpjax.envs.highway import Highway
from karpjax.envs.host import Gymnasium
from karpjax.envs.pendulum import Pendulum
from karpjax.envs.reacher import Reacher
from karpjax.errors import UserError, check_keys, did_you_mean

ENVIRONMENTS = {"cartpole": CartPole, "acrobot": Acrobot, "pendulum": Pendulum, "grid_nav": GridNav, "reacher": Reacher,
                "highway": Highway}
ADAPTERS = {"gymnax": Gymnax, "brax": Brax, "gymnasium": Gymnasium, "pgx": Pgx}


def make(name: str, **options):
    project, _, foreign = name.partition(":")
    if foreign and project in ADAPTERS:
        return ADAPTERS[project](foreign, **options)
    if name not in ENVIRONMENTS:
        raise UserError(f"config.env: no environment {name!r}{did_you_mean(name, ENVIRONMENTS)}")
    check_keys(options, inspect.signature(ENVIRONMENTS[name]).parameters, "config.env")
    return ENVIRONMENTS[name](**options)
