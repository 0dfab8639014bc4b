"""Let a file operation of a command fail, or kill the command there, and run the command again.

    python experiments/faults/inject.py            # over 1,000 cases: half an hour
    python experiments/faults/inject.py --quick --log=FILE      # a sixtieth of them

Commands, faults and outcomes are those of tests/guarantees/fault_cases.py, of which each commit's
default run draws 40. A line of inject.jsonl is a case. The script fails if one went wrong. A second
start goes on with the cases that the log lacks.
"""
import collections
from concurrent.futures import ThreadPoolExecutor
import os
import pathlib
import random
import sys
from threading import Lock

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# as the tests' processes: programs that run once are not optimised
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 "
                                   "--xla_llvm_disable_expensive_passes=true")
os.environ["JAX_PLATFORMS"] = "cpu"

from guarantees.fault_cases import WRONG, Bench, Case  # noqa: E402

from experiments.runs import Log, command  # noqa: E402
from karpjax.datasets.tfds import prepared_builder  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

NUMBERS = {"train": 240, "resume": 240, "prepare": 150, "overwrite": 150, "export": 150,
           "convert": 150}


def cases_of(bench: Bench, share: int) -> list[Case]:
    chance = random.Random(0)
    return [case for name, number in NUMBERS.items()
            for case in bench.draw(name, chance, max(number // share, 1))]


def study(options, workdir) -> None:
    """Run the cases, two at a time, log each, and exit with 1 if one went wrong."""
    log, lock = Log(options.log, keep=lambda row: "kind" in row or "versions" in row), Lock()
    log({"versions": versions()})
    done = {Case(*(row[field] for field in Case._fields)) for row in log.rows if "kind" in row}

    def work(cases: list, bench: Bench) -> None:
        for case in cases:
            outcome, said = bench.outcome(case)
            said = said.replace(str(bench.folder / "case"), "FOLDER").replace(f"{ROOT}/", "")
            with lock:
                log({**case._asdict(), "outcome": outcome, "said": said})
    os.environ.update(JAX_COMPILATION_CACHE_DIR=str(workdir / "programs"),
                      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                      TFDS_DATA_DIR=str(workdir / "sets"))
    prepared_builder("digits")
    benches = [Bench(workdir / str(i)) for i in range(2)]
    for bench in benches:
        bench.folder.mkdir()
    cases = [case for case in cases_of(benches[0], share=60 if options.quick else 1)
             if case not in done]
    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work, cases[i::2], bench) for i, bench in enumerate(benches)]
        for worker in workers:
            worker.result()
    counts = collections.Counter((row["command"], row["outcome"]) for row in log.rows
                                 if "kind" in row)
    for (command_, outcome), number in sorted(counts.items()):
        log({"command": command_, "outcome": outcome, "cases": number})
    sys.exit(any(outcome in WRONG for _, outcome in counts))


if __name__ == "__main__":
    command(study, log=pathlib.Path(__file__).parent / "inject.jsonl")
