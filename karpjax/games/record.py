"""Games that a player plays against itself, as a file to learn from: positions, the player's move in each, how the game ended.

    python -m karpjax.games.record --env=pgx:connect_four --simulations=100 --positions=30000 --to=games.npz      # UCT
    python -m karpjax.games.record --env=pgx:connect_four --workdir=runs/ppo --positions=30000 --to=games.npz     # a network

`random` per cent of the moves are drawn at random instead, for positions off the player's own way; what is stored there as its
move is what it would have played. Columns (N, ...): obs, legal, action, result (1, 0 or -1 for who is to move), game. A
network's moves are drawn from its policy.
"""
from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from karpjax import envs
from karpjax.core.errors import UserError
from karpjax.envs import spaces
from karpjax.envs.protocol import auto_reset
from karpjax.games import players, uct
from karpjax.rl import advantages
from karpjax.run.restore import restore

GAMES = 256  # at a time


def record(env, player: Callable, positions: int, random: float = 0.0, seed: int = 0, games: int = GAMES) -> dict:
    """At least that many positions of whole games, as numpy columns."""
    def step(carry, t):
        state, obs, over = carry
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, t), 4))(start_keys)               # (E, 4)
        choice = jax.vmap(player)(state, obs, keys[:, 0])
        drawn = jax.vmap(spaces.sample_legal)(state, obs, keys[:, 1])
        played = jnp.where(jax.vmap(jax.random.uniform)(keys[:, 2]) < random, drawn, choice)
        state, out = jax.vmap(lambda s, a, k: auto_reset(env, s, a, k))(state, played, keys[:, 3])
        ended = out.terminated | out.truncated
        row = {"obs": obs["obs"].astype(jnp.uint8), "legal": obs["legal"], "action": choice.astype(jnp.int32),
               "reward": out.reward, "over": ended, "game": over}
        return (state, out.obs, over + ended), row

    start_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(games))
    state, obs = jax.vmap(env.reset)(start_keys)
    carry, advance = (state, obs, jnp.zeros(games, jnp.int32)), jax.jit(lambda carry, ts: lax.scan(step, carry, ts))
    rows, chunk = [], 8
    while True:
        t = chunk * len(rows)
        carry, part = advance(carry, jnp.arange(t, t + chunk))
        rows.append(jax.device_get(part))
        table = {name: np.concatenate([row[name] for row in rows]).swapaxes(0, 1) for name in part}        # (E, T, ...)
        result, known = advantages.returns_to_go(table.pop("reward"), table["over"].astype(np.float32), -1.0)
        known = np.asarray(known) > 0
        if known.sum() >= positions:
            break
    table["game"] = table["game"] * games + np.arange(games)[:, None]
    table["result"] = np.asarray(result).round().astype(np.float32)
    return {name: column[known] for name, column in table.items() if name != "over"}


def main(argv):
    from karpjax.run import cli
    options = cli.parse(argv, __doc__, env="pgx:connect_four", simulations=0, workdir="", positions=30_000, random=20, seed=0,
                        to=str)
    if bool(options.workdir) == bool(options.simulations):
        raise UserError("expected one of --simulations (of UCT) and --workdir (of a network), found "
                        f"{options.simulations} and {options.workdir!r}")
    env = envs.make_env(options.env)
    player = players.sampled(restore(options.workdir)) if options.workdir else uct.uct(env, options.simulations)
    columns = record(env, player, options.positions, options.random / 100, options.seed)
    np.savez_compressed(options.to, **columns)
    cli.print_json({"positions": len(columns["action"]), "games": len(np.unique(columns["game"])), "to": options.to})


if __name__ == "__main__":
    from karpjax.run import cli
    cli.run(main)
