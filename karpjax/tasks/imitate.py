"""Supervised learning from recorded games (karpjax/games/record.py): the move that was chosen, and how the game ended.

The first and the third step of AlphaGo (Silver et al. 2016, "Mastering the game of Go with deep neural networks and tree
search"): a policy from a player's moves by cross-entropy (`policy_coefficient`), a value from results by squared error
(`value_coefficient`); the second is PPO from the first's weights (config.init_from), the fourth a search with both
(karpjax/games/search.py). Unlike there, both are heads of one network: to learn one alone, freeze what the other needs
(config.optimizer.freeze).

    config.data = dict(file="games.npz", batch_size=256, mirror=True)    # mirror: half of the positions, at random
"""
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core.errors import UserError, check_keys
from karpjax.core.settings import check_own_keys
from karpjax.envs import environment, protocol
from karpjax.sources.source import SpecOnly

COLUMNS = ("obs", "legal", "action", "result", "game")
HELD_OUT = 10  # every tenth game is for validation


def build(config) -> kj.Task:
    own = ("policy_coefficient", "value_coefficient")
    check_own_keys(config, "env", *own)
    check_keys(config, config, "config", required=("env", *own))
    check_keys(config.data, ("file", "batch_size", "mirror", "described"), "config.data", required=("file", "batch_size"))
    env = environment(config)
    _, like = protocol.check_env(env)
    if config.data.get("mirror") and env.actions.n != like["obs"].shape[1]:
        raise UserError(f"config.data.mirror is for games whose moves are columns, as in connect_four; {config.env.name} has "
                        f"{env.actions.n} moves on {like['obs'].shape[1]} columns: leave it out")
    source = recorded(config.data, env, like)
    model = kj.models.make_model(config.model, actions=env.actions, obs_shape=like["obs"].shape)

    def loss(params, model_state, batch, key):
        (logits, values), model_state = kj.apply(model, params, model_state, batch["obs"], key)           # (B, A), (B,)
        xent = optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])                   # (B,)
        error, weight = (values - batch["result"]) ** 2, batch["weight"]
        losses = {"policy": kj.mean(config.policy_coefficient * xent, weight),
                  "value": kj.mean(config.value_coefficient * error, weight)}
        agree = (logits.argmax(-1) == batch["action"]).astype(jnp.float32)
        return losses, {"accuracy": kj.mean(agree, weight), "value_error": kj.mean(error, weight)}, model_state

    return kj.Task(model, source, loss, inputs="obs", predict=lambda variables, obs: kj.apply(
        model, variables["params"], {}, obs)[0][0].argmax(-1))


def recorded(data, env, like) -> kj.sources.Source:
    def prepare(batch):
        if isinstance(batch["obs"], dict):
            return batch                                                # as a player sees it
        return {**batch, "obs": {"obs": batch["obs"].astype(jnp.float32), "legal": batch["legal"]}}

    def mirror(example, key):
        def turned(example):
            obs = {name: jnp.flip(x, -2 if name == "obs" else -1) for name, x in example["obs"].items()}
            return {**example, "obs": obs, "action": env.actions.n - 1 - example["action"]}
        return jax.tree.map(lambda x, y: jnp.where(jax.random.bernoulli(key), x, y), turned(example), example)

    try:
        columns = read(data.file, env, like)
    except UserError as error:
        if not data.get("described"):
            raise
        return SpecOnly({"obs": jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), dict(like))}, prepare, error)
    held_out = columns.pop("game") % HELD_OUT == 0
    if held_out.all() or not held_out.any():
        raise UserError(f"config.data.file = {data.file!r}: expected some games for training and every tenth for validation, "
                        f"found {held_out.sum()} of {len(held_out)} positions held out; record more")
    parts = [{name: column[rows] for name, column in columns.items()} for rows in (~held_out, held_out)]
    source = kj.sources.arrays(parts[0], batch_size=data.batch_size, splits={"validation": parts[1]}, preprocess=prepare,
                               augment=mirror if data.get("mirror") else None)
    source.spec = {"recorded": len(held_out)}
    return source


def read(file: str, env, like) -> dict:
    """The columns of a recording, which must be of this game."""
    if not file or not pathlib.Path(file).exists():
        raise UserError(f"config.data.file = {file!r}: no such file; make one: python -m karpjax.games.record --help")
    with np.load(file) as stored:
        missing = [name for name in COLUMNS if name not in stored]
        if missing:
            raise UserError(f"{file}: expected the columns {', '.join(COLUMNS)}, it lacks {', '.join(missing)}")
        columns = {name: stored[name] for name in COLUMNS}
    found, expected = columns["obs"].shape[1:], like["obs"].shape
    if found != expected or columns["legal"].shape[1:] != (env.actions.n,):
        raise UserError(f"{file}: expected boards {expected} and {env.actions.n} moves, as in config.env, found {found} and "
                        f"{columns['legal'].shape[1:]}; record games of that one")
    played = columns["legal"][np.arange(len(columns["action"])), columns["action"]]
    if not columns["legal"].any(1).all() or not played.all():
        raise UserError(f"{file}: {int((~played).sum())} illegal moves and {int((~columns['legal'].any(1)).sum())} positions "
                        "with nothing legal; record it again")
    return columns
