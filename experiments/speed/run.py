"""karpjax's train step beside PyTorch's: the same network, batch and optimizer, in fp32, in turns.

    python experiments/speed/run.py --log=experiments/speed/results.jsonl  # 10 minutes, 2 cores
    python experiments/speed/run.py --quick --log=FILE  # a minute, to see that it works

Nothing else may run on the machine. Needs PyTorch (pip install torch), in this Python or another
(--torch_python=PATH). Without it karpjax is timed against itself. The peer has two layouts,
channels first and last. The ratio is to the one that is faster in the median. Variants of karpjax
show the gain of each change (karpjax/models/layers/conv.py): "whole" is without convolution in
parts.
"""
import argparse
import importlib.util
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

CASES = [("cnn", 64), ("cnn", 512), ("resnet20", 128), ("airbench", 500)]


def workers(network: str, batch: int, torch_python: str) -> dict[str, Worker]:
    def ours(*variant):
        return Worker([sys.executable, str(HERE / "jax_worker.py"), network, str(batch), *variant])

    def torch(*layout):
        return Worker([torch_python, str(HERE / "torch_worker.py"), network, str(batch), *layout])
    peers = {"torch": torch(),
             "torch, channels last": torch("channels_last")} if torch_python else {}
    pooled = {"karpjax, XLA's pooling": ours("scatter")} if network == "airbench" else {}
    return {"karpjax": ours(), "karpjax, whole": ours("whole"), **pooled, **peers}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--torch_python",
                        default=sys.executable if importlib.util.find_spec("torch") else "")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    cases, rounds = ([("cnn", 16)], 2) if options.quick else (CASES, 9)
    machine = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    with open(options.log, "a") as log:
        for network, batch in cases:
            running = workers(network, batch, options.torch_python)
            running["karpjax"].seconds(1)  # compiles
            # blocks of about a second
            steps = 1 if options.quick else max(1, round(1 / running["karpjax"].seconds(1)))
            rows = []
            for row in in_turns(running, rounds, steps):
                rows.append(row)
                log.write(json.dumps({"network": network, "batch": batch, **row}) + "\n")
                log.flush()
            hello = {name: worker.hello for name, worker in running.items() if worker.hello}
            for worker in running.values():
                worker.close()
            median = {name: round(statistics.median(row[name] for row in rows), 1)
                      for name in running}
            peer = min((name for name in running if name != "karpjax"),
                       key=lambda n: (not n.startswith("torch"), median[n]))
            summary = {"network": network, "batch": batch, "rounds": rounds, "steps": steps,
                       "median_ms": median, "peer": peer,
                       "ratios": {name: ratio(rows, name, peer) for name in running
                                  if name != peer}}
            log.write(json.dumps({**summary, **machine, "peers": hello}) + "\n")
            print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
