"""Play a game against a trained network, in a terminal.

    karpjax play --workdir=runs/c4/ppo                      # its policy alone
    karpjax play --workdir=runs/c4/ppo --simulations=64     # with search

--first: you begin. A move is the number of a column, or of a square from the top left. q, Ctrl-D
and Ctrl-C leave. --which=best: its best checkpoint, not the newest. --trust: a task file from
gs://... may run here. Also as python -m karpjax.play.
"""
import jax
import jax.numpy as jnp
import numpy as np

from karpjax.core.errors import UserError
from karpjax.envs import make_env
from karpjax.games import players
from karpjax.games.search import searching
from karpjax.run import cli
from karpjax.run.restore import restore


def picture(obs, own: str, other: str) -> str:
    """Return the board as text, from the point of view of the player to move.

    Under it are the numbers of the columns, if moves are columns.
    """
    planes = np.asarray(obs["obs"]) > 0                                                 # (H, W, 2)
    signs = np.where(planes[..., 0], own, np.where(planes[..., 1], other, "."))
    lines = [" ".join(row) for row in signs]
    columns = planes.shape[1]
    if len(obs["legal"]) == columns:
        lines.append(" ".join(str(i + 1) for i in range(columns)))
    return "\n".join(lines)


def ask_move(obs) -> int | None:
    """Ask for a legal move and return its index, or None if the player leaves."""
    legal = [str(i + 1) for i in np.flatnonzero(obs["legal"])]
    while True:
        try:
            text = input("your move: ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        if text in ("q", "quit"):
            return None
        if text in legal:
            return int(text) - 1
        known = text.isdigit() and 1 <= int(text) <= len(obs["legal"])
        print(f"{text!r} is {'not allowed now' if known else 'no move'}; "
              f"expected one of {' '.join(legal)}, or q")


def game(env, player, first: bool, seed: int = 0) -> None:
    """Play one game in the terminal against `player`, (state, obs, key) -> move."""
    move = jax.jit(player)
    step = jax.jit(env.step)
    state, obs = env.reset(jax.random.key(seed))
    t = 0
    yours = first
    marks = ("X", "O") if first else ("O", "X")                           # yours, its; X begins
    while True:
        if yours:
            print(picture(obs, *marks))
            action = ask_move(obs)
            if action is None:
                print("bye")
                return
        else:
            action = int(move(state, obs, jax.random.key(t)))
            print(f"I play {action + 1}")
        state, out = step(state, jnp.int32(action), jax.random.key(t))
        obs, t = out.obs, t + 1
        if out.terminated or out.truncated:
            print(picture(obs, *(marks[::-1] if yours else marks)))
            won = yours == bool(out.reward > 0)
            print("a draw" if out.reward == 0 else "you win" if won else "you lose")
            return
        yours = not yours


def empty_board(options):
    """Return a run's environment, without the random moves that begin the games of its training."""
    return make_env(**{**options, **({"opening": 0} if "opening" in options else {})})


def main(argv):
    options = cli.parse(argv, __doc__, workdir=str, simulations=0, first=False, which="newest",
                        trust=False)
    run = restore(options.workdir, which=options.which, trust=options.trust or None)
    env = empty_board(run.config.env) if "env" in run.config else None
    if getattr(env, "players", 1) != 2:
        raise UserError(f"--workdir={options.workdir}: expected a run of a game of two players, "
                        f"found the task {run.config.task!r}")
    if options.simulations < 0:
        raise UserError("--simulations: expected 0 (the policy alone) or more, "
                        f"found {options.simulations}")
    search = options.simulations
    player = searching(run, env, search) if search else players.network(run)
    game(env, player, options.first)


if __name__ == "__main__":
    cli.run(main)
