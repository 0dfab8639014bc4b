"""Let a file operation of a command fail, or kill the command there, and run the command again.

    python experiments/faults/inject.py            # 1,080 cases: an hour on two cores
    python experiments/faults/inject.py --quick

Commands, faults and outcomes are those of tests/guarantees/fault_cases.py, of which each commit's
default run draws 40. A line of inject.jsonl is a case. The script fails if one went wrong.
"""
import argparse
import collections
from concurrent.futures import ThreadPoolExecutor
import json
import os
import pathlib
import random
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# as the tests' processes: programs that run once are not optimised
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 "
                                   "--xla_llvm_disable_expensive_passes=true")
os.environ["JAX_PLATFORMS"] = "cpu"

from guarantees.fault_cases import WRONG, Bench, Case  # noqa: E402

from karpjax.datasets.tfds import prepared_builder  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

NUMBERS = {"train": 240, "resume": 240, "prepare": 150, "overwrite": 150, "export": 150,
           "convert": 150}


def cases_of(bench: Bench, share: int) -> list[Case]:
    chance = random.Random(0)
    return [case for name, number in NUMBERS.items()
            for case in bench.draw(name, chance, max(number // share, 1))]


def study(share: int, log) -> collections.Counter:
    """Run the cases, two at a time, and return how many of each (command, outcome) there were."""
    counts, lock = collections.Counter(), threading.Lock()

    def work(cases: list, bench: Bench) -> None:
        for case in cases:
            outcome, said = bench.outcome(case)
            with lock:
                counts[case.command, outcome] += 1
                log({**case._asdict(), "outcome": outcome, "said": said})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, "programs")
        os.environ["TFDS_DATA_DIR"] = os.path.join(folder, "sets")
        prepared_builder("digits")
        benches = [Bench(pathlib.Path(folder, str(i))) for i in range(2)]
        for bench in benches:
            bench.folder.mkdir()
        cases = cases_of(benches[0], share)
        done = [pool.submit(work, cases[i::2], bench) for i, bench in enumerate(benches)]
        for each in done:
            each.result()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sixtieth of the cases")
    parser.add_argument("--log", default=str(pathlib.Path(__file__).parent / "inject.jsonl"))
    options = parser.parse_args()
    with open(options.log, "w") as file:
        def log(row: dict) -> None:
            print(json.dumps(row), file=file, flush=True)
            print(json.dumps(row), flush=True)
        log({"versions": versions()})
        counts = study(60 if options.quick else 1, log)
        for (command, outcome), number in sorted(counts.items()):
            log({"command": command, "outcome": outcome, "cases": number})
    sys.exit(any(outcome in WRONG for _, outcome in counts))


if __name__ == "__main__":
    main()
