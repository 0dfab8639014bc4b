"""Self-play moves a second with a search: karpjax's rollout beside a loop of pgx and mctx alone
(plain.py), in turns.

    python experiments/games/speed.py --log=experiments/games/speed.jsonl
    python experiments/games/speed.py --quick --log=FILE

Connect four, 32 games at once, 16 simulations a move, a network of 2 blocks 32 wide, the same in
both. Play alone: no learning. Both run in one process, the order turned round every time. Ratios
are within a round. Above 1 karpjax is faster.
"""
import argparse
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments.games import plain  # noqa: E402
from experiments.runs import config_of  # noqa: E402
from experiments.speed.harness import ratio  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402


def ours(games, length, simulations, width, blocks):
    config, task_file = config_of("connect_four_search", simulations=simulations, steps=1, **{
        "data.num_envs": games, "data.num_steps": length, "data.minibatches": 1,
        "model.width": width, "model.blocks": blocks})
    exp = assemble(config, task_file, make_mesh(1, 1, jax.devices()[:1]))
    state = exp.fresh_state()
    variables, carry = state.variables, state.source
    begin = jax.jit(lambda carry: exp.source.advance({}, carry, variables))

    def play():
        nonlocal carry
        carry, moves = begin(carry)
        assert jnp.isfinite(jax.block_until_ready(moves["rows"]["target"])).all()
    return play


def theirs(games, length, simulations, width, blocks):
    start, advance = plain.make("connect_four", games, length, simulations, width, blocks)
    carry = start(jax.random.key(0))

    def play():
        nonlocal carry
        carry, trajectory = advance(carry)
        assert jnp.isfinite(jax.block_until_ready(trajectory)[1]).all()
    return play


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    shape = (4, 2, 2, 4, 1) if options.quick else (32, 32, 16, 32, 2)
    sides, rows = {"karpjax": ours(*shape), "plain": theirs(*shape)}, []
    for play in sides.values():
        play()
    with open(options.log, "w") as log:
        for i in range(2 if options.quick else options.rounds):
            seconds = {}
            for name in list(sides)[::1 if i % 2 else -1]:
                started = time.perf_counter()
                sides[name]()
                seconds[name] = round(time.perf_counter() - started, 4)
            rows.append({"round": i, **seconds})
            log.write(json.dumps(rows[-1]) + "\n")
            log.flush()
        rate = {name: round(shape[0] * shape[1] / statistics.median(row[name] for row in rows))
                for name in sides}
        log.write(json.dumps({"games": shape[0], "simulations": shape[2], "moves_per_second": rate,
                              "karpjax_over_plain": ratio(rows, "plain", "karpjax"),
                              "versions": versions(),
                              "device": device(make_mesh(1, 1, jax.devices()[:1]))}) + "\n")
    print(rate, ratio(rows, "plain", "karpjax"))


if __name__ == "__main__":
    main()
