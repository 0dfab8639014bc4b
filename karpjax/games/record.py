"""Games that a player plays against itself, recorded in a file to learn from.

    python -m karpjax.games.record --simulations=100 --positions=30000 --to=games.npz    # UCT
    python -m karpjax.games.record --workdir=runs/ppo --positions=30000 --to=games.npz   # a network

Columns (N, ...): obs, legal, action, result (1, 0 or -1 for the player to move), game.
--random per cent of the moves (20) are drawn at random, to reach other positions than the player
would. The action stored there is the one that the player would have chosen. A network's moves are
drawn from its policy.

--env=pgx:connect_four  the game; --seed=N  other games. --trust: the task file of a run from
gs://... may run here.
"""
from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from karpjax import envs
from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.envs import spaces
from karpjax.envs.protocol import auto_reset, step_keys
from karpjax.games import players, uct
from karpjax.rl import advantages
from karpjax.run.restore import restore

GAMES = 256  # at a time


def record(env, player: Callable, positions: int, random: float = 0.0, seed: int = 0,
           games: int = GAMES) -> dict:
    """Return at least so many positions of whole games, as numpy columns.

    random   share of the moves that is drawn at random
    games    number of them under way at a time
    """
    def step(carry, t):
        state, obs, game = carry
        keys = step_keys(start_keys, t, 4)                                 # (E, 4)
        choice = jax.vmap(player)(state, obs, keys[:, 0])
        drawn = jax.vmap(spaces.sample_legal)(state, obs, keys[:, 1])
        at_random = jax.vmap(jax.random.uniform)(keys[:, 2]) < random
        played = jnp.where(at_random, drawn, choice)
        state, out = jax.vmap(functools.partial(auto_reset, env))(state, played, keys[:, 3])
        done = out.terminated | out.truncated
        row = {"obs": obs["obs"].astype(jnp.uint8), "legal": obs["legal"],
               "action": choice.astype(jnp.int32), "reward": out.reward, "done": done, "game": game}
        return (state, out.obs, game + done), row

    start_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(games))
    state, obs = jax.vmap(env.reset)(start_keys)
    carry = (state, obs, jnp.zeros(games, jnp.int32))
    advance = jax.jit(lambda carry, ts: lax.scan(step, carry, ts))
    parts, chunk = [], 8
    while True:
        t = chunk * len(parts)
        carry, part = advance(carry, jnp.arange(t, t + chunk))
        parts.append(jax.device_get(part))
        rows = {name: np.concatenate([part[name] for part in parts]).swapaxes(0, 1)
                for name in part}                                          # (E, T, ...)
        result, known = advantages.returns_to_go(rows.pop("reward"),
                                                 rows.pop("done").astype(np.float32), -1.0)
        known = np.asarray(known) > 0
        if known.sum() >= positions:
            break
    rows["game"] = rows["game"] * games + np.arange(games)[:, None]
    rows["result"] = np.asarray(result).round().astype(np.float32)
    return {name: column[known] for name, column in rows.items()}


def main(argv):
    from karpjax.run import cli
    options = cli.parse(argv, __doc__, env="pgx:connect_four", simulations=0, workdir="",
                        positions=30_000, random=20, seed=0, to=str, trust=False)
    if bool(options.workdir) == bool(options.simulations):
        raise UserError("expected one of --simulations (of UCT) and --workdir (of a network), "
                        f"found {options.simulations} and {options.workdir!r}")
    to, env = files.local(options.to, "--to"), envs.make_env(options.env)
    if to.suffix != ".npz" or not to.parent.is_dir():
        raise UserError(f"--to={to}: expected a name that ends in .npz, in a folder that is there")
    if getattr(env, "players", 1) != 2:
        raise UserError(f"--env={options.env}: expected a game of two players, as in "
                        "pgx:connect_four")
    player = (players.sampled(restore(options.workdir, trust=options.trust or None))
              if options.workdir
              else uct.uct(env, options.simulations))
    columns = record(env, player, options.positions, options.random / 100, options.seed)
    np.savez_compressed(to, **columns)
    cli.print_json({"positions": len(columns["action"]), "games": len(np.unique(columns["game"])),
                    "to": str(to)})


if __name__ == "__main__":
    from karpjax.run import cli
    cli.run(main)
