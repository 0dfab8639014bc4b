"""Tokens a second of sampling, with and without a cache, beside Hugging Face's `generate`.

    python experiments/generation/run.py --log=experiments/generation/results.jsonl  # 10 minutes
    python experiments/generation/run.py --quick --log=FILE  # a minute, to see that it works

Nothing else may run on the machine. All have the same GPT-2, drawn from a seed, in fp32, and follow
one another in turns. Needs PyTorch and transformers, in this Python or another
(--torch_python=PATH). Without them karpjax is timed alone. Before anything is timed, greedy
decoding must give the same tokens everywhere.
"""
import argparse
import importlib.util
import json
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import jax  # noqa: E402

from experiments.generation.case import CASES, QUICK, model_of  # noqa: E402
from experiments.speed.harness import Worker, in_turns, ratio  # noqa: E402
from karpjax import weights  # noqa: E402
from karpjax.core import files  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

SEED = 0


def draw_weights(case: dict, file: pathlib.Path) -> None:
    """Write a GPT-2's weights, drawn from the seed, under Hugging Face's names."""
    model = model_of(case)
    variables = model.init(jax.random.key(SEED), jax.numpy.zeros((1, 2), "int32"))
    files.write_arrays(file, weights.to_pytorch(model, variables))


def workers(case: dict, file: pathlib.Path, torch_python: str) -> dict[str, Worker]:
    def worker(python: str, script: str, form: str):
        return Worker([python, str(HERE / script), json.dumps(case), str(file), form])
    running = {f"karpjax, {form}": worker(sys.executable, "jax_worker.py", form)
               for form in ("cache", "no cache")}
    if torch_python:
        running |= {f"transformers, {form}": worker(torch_python, "torch_worker.py", form)
                    for form in ("cache", "no cache")}
    return running


def same_tokens(running: dict[str, Worker]) -> dict:
    """Return the versions of each worker, having checked that all decode the same tokens."""
    hello = {name: json.loads(worker.hello) for name, worker in running.items()}
    greedy = {name: said.pop("greedy") for name, said in hello.items()}
    first = next(iter(greedy.values()))
    wrong = [name for name, tokens in greedy.items() if tokens != first]
    if wrong:
        raise SystemExit(f"greedy decoding: expected the tokens of {next(iter(greedy))}, found "
                         f"others from {', '.join(wrong)}: these are not the same weights")
    return hello


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    there = all(map(importlib.util.find_spec, ("torch", "transformers")))
    parser.add_argument("--torch_python", default=sys.executable if there else "")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if not options.torch_python:
        print("PyTorch and transformers are not installed: karpjax is timed alone")
    cases, rounds = (QUICK, 2) if options.quick else (CASES, 9)
    machine = {"versions": versions(), "device": device(make_mesh(1, 1, jax.devices()[:1]))}
    with open(options.log, "a") as log, tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            file = pathlib.Path(folder, f"{name}.safetensors")
            draw_weights(case, file)
            running = workers(case, file, options.torch_python)
            hello = same_tokens(running)
            rows = []
            for row in in_turns(running, rounds, steps=1):
                rows.append(row)
                log.write(json.dumps({"case": name, **row}) + "\n")
                log.flush()
            for worker in running.values():
                worker.close()
            median = {each: statistics.median(row[each] for row in rows) for each in running}
            tokens = case["batch"] * case["new"]
            summary = {"case": name, **case, "seed": SEED, "rounds": rounds,
                       "tokens_per_s": {each: round(1000 * tokens / ms)
                                        for each, ms in median.items()},
                       "time_by_karpjax_cache": {each: ratio(rows, each, "karpjax, cache")
                                                 for each in running if each != "karpjax, cache"}}
            log.write(json.dumps({**summary, **machine, "workers": hello}) + "\n")
            print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
