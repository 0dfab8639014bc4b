"""AlphaGo's four steps on connect four, each player against the others, and tic-tac-toe against
every line of play.

    python experiments/games/run.py --workdir=runs/games              # continues where it stopped
    python experiments/games/run.py --quick --log=/tmp/quick.jsonl

Matches are of 400 games, sides swapped, with fixed seeds that no training uses. Against players of
chance (random, UCT) games begin with the empty board. Networks would play one game again and again:
between them games begin with four random moves. Elo: Bradley-Terry over all pairs, each of which
plays 100 games after four random moves, with 95 % intervals by bootstrap.
"""
import itertools
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import numpy as np  # noqa: E402

from experiments.runs import Log, command, trained  # noqa: E402
import karpjax as kj  # noqa: E402
from karpjax import envs  # noqa: E402
from karpjax.envs import spaces
from karpjax.games import matches, players, ratings, uct  # noqa: E402
from karpjax.games.record import record  # noqa: E402
from karpjax.games.search import searching  # noqa: E402

PLAYOUTS, SIMULATIONS, SEED = 100, 64, 7000
QUICK = {"supervised": {"steps": 100},
         "ppo": {"steps": 80, "eval_every": 80, "data.eval_episodes": 64, "data.num_steps": 8},
         "value": {"steps": 100}, "search": {"steps": 40, "eval_every": 40,
                                             "data.eval_episodes": 64, "simulations": 2},
         "tic_tac_toe": {"steps": 40, "data.eval_episodes": 64, "simulations": 2}}


def recorded(env, player, positions: int, random: float, seed: int, file) -> str:
    """Return the file of a recording, made if it is not there."""
    if not file.exists():
        np.savez_compressed(file, **record(env, player, positions, random, seed))
    return str(file)


def study(options, workdir):
    log, quick = Log(options.log), options.quick
    workdir.mkdir(parents=True, exist_ok=True)
    games, rated = (4, 2) if quick else (400, 100)
    positions, playouts, simulations = (300, 4, 4) if quick else (30_000, PLAYOUTS, SIMULATIONS)

    def train(name, config, **overrides):
        summary = trained(config, workdir / name, **overrides, **(QUICK[name] if quick else {}))
        log({"run": name, **{key: value for key, value in summary.items()
                             if key not in ("flops_per_step",)}})
        return kj.restore(workdir / name)

    run = train("tic_tac_toe", "tic_tac_toe")
    log({"game": "tic_tac_toe", "player": "policy", "every_line": matches.every_line(
        envs.make_env("pgx:tic_tac_toe"), players.network(run))})

    env = envs.make_env("pgx:connect_four")
    plain = uct.uct(env, playouts)
    file = recorded(env, plain, positions, 0.2, 1, workdir / "uct.npz")
    supervised = train("supervised", "connect_four_supervised", **{"data.file": file})
    ppo = train("ppo", "connect_four_ppo", init_from=str(workdir / "supervised"))
    file = recorded(env, players.sampled(ppo), positions, 0.05, 2, workdir / "ppo.npz")
    value = train("value", "connect_four_value", init_from=str(workdir / "ppo"),
                  **{"data.file": file})
    learned = train("search", "connect_four_search", init_from=str(workdir / "value"))

    known = {"random": spaces.sample_legal, f"UCT, {playouts} playouts": plain,
             "supervised": players.network(supervised),
             "policy gradient": players.network(ppo),
             f"with search, {simulations} simulations": searching(value, env, simulations),
             "learned from search": players.network(learned)}
    chance, uct_name, _, policy, search, learned_name = known

    def played(first, second, games, opening):
        started = time.perf_counter()
        score = matches.match(env, known[first], known[second], games, seed=SEED, opening=opening)
        points, low, high = ratings.interval(score.results)
        log({"game": "connect_four", "first": first, "second": second, "opening": opening,
             "games": games, "wins": score.wins,
             "draws": score.draws, "losses": score.losses, "points": round(points, 4),
             "interval": [round(low, 4), round(high, 4)],
             "seconds": round(time.perf_counter() - started, 1)})
        return score.results

    played(policy, chance, games, 0)
    played(policy, uct_name, games, 0)
    played(search, policy, games, 4)
    played(learned_name, chance, games, 0)
    played(learned_name, uct_name, games, 0)
    pairs = [(chance, policy)] if quick else itertools.combinations(known, 2)
    results = {(first, second): played(first, second, rated, 4) for first, second in pairs}
    log({"game": "connect_four", "elo": ratings.elo(results, anchor=chance)})


if __name__ == "__main__":
    command(study, log=HERE / "results.jsonl")
