"""karpjax's train step on one GPU beside PyTorch's on the same card, in bf16, in turns, and its
MFU.

    python experiments/gpu/run.py --log=experiments/gpu/results.jsonl  # two minutes on a GPU
    python experiments/gpu/run.py --quick --log=FILE                   # small, anywhere

ResNet-50 on 256 pictures of 224 x 224 with SGD. BERT-base on 64 rows of 512 tokens, the head on the
masked ones, with AdamW. PyTorch (with torchvision and transformers, in this Python or in
--torch_python) runs eagerly and compiled. The ratio is to the one that is faster in the median.
Without PyTorch karpjax is timed alone. Rows: {"case", "round", milliseconds a step}, then a
summary: medians, ratio of times, examples a second and MFU.
"""
import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the card is shared by the workers

import jax  # noqa: E402

from experiments.gpu.cases import CASES, QUICK  # noqa: E402
from experiments.speed.harness import Worker, in_turns, ratio  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.chips import PEAK_FLOPS  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402


def start(command: list[str]) -> Worker | str:
    """Return the compiled worker, or the error of a peer that does not run here, which is reported
    and left out."""
    try:
        worker = Worker(command)
        worker.seconds(2)
        return worker
    except (RuntimeError, OSError) as error:
        return str(error)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--torch_python",
                        default=sys.executable if importlib.util.find_spec("torch") else "")
    parser.add_argument("--only", nargs="+", default=[c.name for c in CASES], help="cases")
    parser.add_argument("--how", nargs="*", default=["eager", "compiled"],
                        help="the forms of PyTorch")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quick, cases, rounds = (["quick"], QUICK, 2) if options.quick else (
        [], [c for c in CASES if c.name in options.only], 9)
    commands = {}
    for c in cases:
        ours = [sys.executable, str(HERE / "jax_worker.py"), c.name, *quick]
        commands[c.name, "karpjax"] = ours
        if c.length and jax.default_backend() == "gpu":
            commands[c.name, "karpjax, cuDNN's attention"] = [*ours, "cudnn"]
        for how in options.how if options.torch_python else ():
            commands[c.name, f"torch, {how}"] = [options.torch_python,
                                                 str(HERE / "torch_worker.py"), c.name, how, *quick]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # compilation takes longer than timing
        started = dict(zip(commands, pool.map(start, commands.values()), strict=True))
    machine = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    with open(options.log, "a") as log:
        for c in cases:
            workers = {who: worker for (name, who), worker in started.items() if name == c.name
                       and isinstance(worker, Worker)}
            failed = {who: error for (name, who), error in started.items() if name == c.name
                      and isinstance(error, str)}
            if "karpjax" in failed:
                sys.exit(failed["karpjax"])
            steps = 1 if options.quick else max(1, round(0.6 / workers["karpjax"].seconds(3)))
            rows = []
            for row in in_turns(workers, rounds, steps):
                rows.append(row)
                log.write(json.dumps({"case": c.name, **row}) + "\n")
            median = {who: statistics.median(row[who] for row in rows) for who in workers}
            peers = sorted((who for who in workers if who.startswith("torch")), key=median.get)
            rates = {who: 1000 * c.batch / ms for who, ms in median.items()}
            summary = {"case": c.name, "median_ms": median,
                       "examples_per_second": {who: round(r, 1) for who, r in rates.items()},
                       "tokens_per_second": {who: round(r * c.length) for who, r in rates.items()}
                       if c.length else {},
                       "mfu": {who: round(r * c.flops / peak, 4) for who, r in rates.items()}
                       if peak else {},
                       "time": {f"{who} / {peer}": ratio(rows, who, peer)
                                for who in workers if who not in peers for peer in peers},
                       "left_out": failed}
            log.write(json.dumps({**summary, **machine,
                                  "workers": {who: w.hello for who, w in workers.items()}}) + "\n")
            print(json.dumps(summary), flush=True)
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()
