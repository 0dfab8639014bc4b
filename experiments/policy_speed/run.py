"""Environment steps a second of PPO on CartPole: karpjax, a monolith in PureJaxRL's shape and
Stable-Baselines3, in turns.

    python experiments/policy_speed/run.py --torch_python=PATH \
        --log=experiments/policy_speed/results.jsonl
    python experiments/policy_speed/run.py --quick --log=FILE

Each plays and learns in the same shapes: environments, length, minibatches, epochs. The times are
of play and learning, without logging, evaluation or compilation. PATH: a Python with
stable-baselines3. Without it the other two are compared. Ratios are of steps a second, within a
round. Above 1 karpjax is faster.
"""
import argparse
import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402

from experiments.speed.harness import Worker, in_turns, ratio  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

# (environments, length, minibatches, epochs): the config's own, PureJaxRL's defaults in more
# environments, its defaults.
SHAPES = [(32, 32, 4, 10), (64, 32, 4, 4), (4, 128, 4, 4)]
ROLLOUTS = 10  # a dispatch


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--torch_python", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shapes", nargs="+", default=SHAPES,
                        type=lambda text: tuple(map(int, text.split(","))),
                        help="ENVS,LENGTH,MINIBATCHES,EPOCHS ...")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of karpjax in a round, about")
    options = parser.parse_args()
    machine = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    with open(options.log, "a") as log:
        for shape in [(8, 8, 2, 2)] if options.quick else options.shapes:
            arguments = [str(n) for n in shape]
            workers = {who: Worker([sys.executable, str(HERE / "jax_worker.py"), who, *arguments])
                       for who in ("karpjax", "monolith")}
            if options.torch_python:
                workers["sb3"] = Worker([options.torch_python, str(HERE / "sb3_worker.py"),
                                         *arguments])
            rows = []
            workers["karpjax"].seconds(1)
            # of ten rollouts
            blocks = 1 if options.quick else max(
                1, round(options.seconds / workers["karpjax"].seconds(3)))
            for row in in_turns(workers, 2 if options.quick else options.rounds, blocks):
                rows.append(row)
                log.write(json.dumps({"shape": shape, **row}) + "\n")
                log.flush()
            steps = ROLLOUTS * shape[0] * shape[1]  # of environments, a harness step
            rates = {who: round(steps / (statistics.median(row[who] for row in rows) / 1000))
                     for who in workers}
            summary = {"shape": shape, "steps_per_second": rates,
                       "karpjax_over": {peer: ratio(rows, peer, "karpjax") for peer in workers
                                        if peer != "karpjax"}}
            hello = {who: worker.hello for who, worker in workers.items() if worker.hello}
            for worker in workers.values():
                worker.close()
            log.write(json.dumps({**summary, **machine, "peers": hello}) + "\n")
            print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
