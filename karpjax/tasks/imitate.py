"""Supervised learning from recorded games (karpjax/games/record.py): the moves and the results.

These are the first and the third step of AlphaGo (Silver et al. 2016, "Mastering the game of Go
with deep neural networks and tree search"). A policy is learned from a player's moves by
cross-entropy (`policy_coefficient`), a value from results by squared error (`value_coefficient`).
The second step is PPO from the first's weights (config.init_from), the fourth a search with both
(karpjax/games/search.py). Unlike there, both are heads of one network: to learn one alone, freeze
what the other needs (config.optimizer.freeze).

    config.data = dict(file="games.npz", batch_size=256, mirror=True)    # mirror: half of the
    positions, at random
"""
import jax
import jax.numpy as jnp
import numpy as np
import optax

import karpjax as kj
from karpjax.core import files
from karpjax.core.errors import UserError, check_keys
from karpjax.core.settings import check_own_keys
from karpjax.core.trees import where
from karpjax.datasets.content import RowHash
from karpjax.envs import environment, protocol
from karpjax.sources.source import SpecOnly

COLUMNS = ("obs", "legal", "action", "result", "game")
HELD_OUT = 10  # every tenth game is for validation


def build(config) -> kj.Task:
    own = ("policy_coefficient", "value_coefficient")
    check_own_keys(config, "env", *own)
    check_keys(config, config, "config", required=("env", *own))
    check_keys(config.data, ("file", "batch_size", "mirror", "described"), "config.data",
               required=("file", "batch_size"))
    env = environment(config)
    _, like = protocol.check_env(env)
    if not isinstance(like, dict):
        raise UserError("config.env: expected a game that says which moves are legal, as "
                        f"pgx:connect_four, found {config.env.name!r}, which observes "
                        f"{protocol.in_words(like)}")
    if config.data.get("mirror") and env.actions.n != like["obs"].shape[1]:
        raise UserError("config.data.mirror is for games whose moves are columns, as in "
                        f"connect_four; {config.env.name} has {env.actions.n} moves on "
                        f"{like['obs'].shape[1]} columns: leave it out")
    source = recorded(config.data, env, like)
    model = kj.models.make_model(config.model, actions=env.actions, obs_shape=like["obs"].shape)

    def loss(params, model_state, batch, key):
        # Logits (B, A), values (B,).
        (logits, values), model_state = kj.apply(model, params, model_state, batch["obs"], key)
        xent = optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])    # (B,)
        error = (values - batch["result"]) ** 2                                            # (B,)
        weight = batch["weight"]
        losses = {"policy": kj.mean(config.policy_coefficient * xent, weight),
                  "value": kj.mean(config.value_coefficient * error, weight)}
        agree = (logits.argmax(-1) == batch["action"]).astype(jnp.float32)
        metrics = {"accuracy": kj.mean(agree, weight), "value_error": kj.mean(error, weight)}
        return losses, metrics, model_state

    def predict(variables, obs):
        (logits, _), _ = kj.apply(model, variables["params"], {}, obs)
        return logits.argmax(-1)

    return kj.Task(model, source, loss, inputs="obs", predict=predict)


def recorded(data, env, like) -> kj.sources.Source:
    """Return a recording's source, or without its file a SpecOnly that a checkpoint describes."""
    def prepare(batch):
        if isinstance(batch["obs"], dict):
            return batch                                   # it is an environment's observation
        if "legal" not in batch:
            raise UserError("expected a game's observations {'obs': boards, 'legal': moves}, found "
                            f"{protocol.in_words(batch['obs'])}")
        return {**batch, "obs": {"obs": batch["obs"].astype(jnp.float32), "legal": batch["legal"]}}

    def mirror(example, key):
        obs = {name: jnp.flip(x, -2 if name == "obs" else -1)
               for name, x in example["obs"].items()}
        flipped = {**example, "obs": obs, "action": env.actions.n - 1 - example["action"]}
        return where(jax.random.bernoulli(key), flipped, example)

    try:
        columns = read(data.file, env, like)
    except UserError as error:
        if not data.get("described"):
            raise
        obs = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), dict(like))
        return SpecOnly({"obs": obs}, prepare, error)
    content = RowHash()
    content.add(columns)
    held_out = columns.pop("game") % HELD_OUT == 0
    if held_out.all() or not held_out.any():
        raise UserError(f"config.data.file = {data.file!r}: expected some games for training and "
                        f"every tenth for validation, found {held_out.sum()} of {len(held_out)} "
                        "positions held out; record more")
    train = {name: column[~held_out] for name, column in columns.items()}
    validation = {name: column[held_out] for name, column in columns.items()}
    source = kj.sources.arrays(train, batch_size=data.batch_size, splits={"validation": validation},
                               preprocess=prepare, augment=mirror if data.get("mirror") else None)
    source.spec = {"recorded": len(held_out), "content": content.hexdigest()}
    return source


def read(file: str, env, like) -> dict:
    """Return the columns of a recording, which must be of this game."""
    path = files.local(file, "config.data.file")
    if not file or not path.exists():
        raise UserError(f"config.data.file = {file!r}: no such file; make one: "
                        "python -m karpjax.games.record --help")
    stored = files.read_npz(path)
    missing = [name for name in COLUMNS if name not in stored]
    if missing:
        raise UserError(f"{file}: expected the columns {', '.join(COLUMNS)}, "
                        f"it lacks {', '.join(missing)}")
    columns = {name: stored[name] for name in COLUMNS}
    board, expected = columns["obs"].shape[1:], like["obs"].shape
    if board != expected or columns["legal"].shape[1:] != (env.actions.n,):
        raise UserError(f"{file}: expected boards {expected} and {env.actions.n} moves, as in "
                        f"config.env, found {board} and {columns['legal'].shape[1:]}; "
                        "record games of that one")
    played = columns["legal"][np.arange(len(columns["action"])), columns["action"]]
    stuck = ~columns["legal"].any(1)
    if stuck.any() or not played.all():
        raise UserError(f"{file}: {int((~played).sum())} illegal moves and {int(stuck.sum())} "
                        "positions with nothing legal; record it again")
    return columns
