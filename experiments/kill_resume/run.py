"""Kill runs with SIGKILL, many times, and compare bitwise with a run that was never stopped.

    python experiments/kill_resume/run.py                       # 20 kills a task: about 25 minutes on 2 cores
    python experiments/kill_resume/run.py --kills=2 --steps=12 --tasks=poly --log=/tmp/quick.jsonl
    XLA_FLAGS=--xla_gpu_deterministic_ops=true python experiments/kill_resume/run.py --platform=cuda --tasks=digits,ppo

Every second kill falls inside a save (while Orbax's temporary folder is there), the others some random moments after a random
row. Tasks are those of tests/guarantees/registry.py. One line a kill and one a task in results.jsonl; exit 1 if any differs.
"""
import argparse
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from guarantees.harness import child, finished, record_of  # noqa: E402
from guarantees.registry import TASKS  # noqa: E402
from karpjax.loop import versions  # noqa: E402


def kill_once(process, workdir, in_a_save: bool, chance) -> dict | None:
    """Wait for the moment and kill; what was killed where, or None if the run ended first."""
    rows, last, start = chance.randint(1, 6), None, None
    for line in process.stdout:
        if " steps " in line and start is None:
            start = int(line.split("steps ")[1].split()[0])
        if line.startswith("row"):
            rows, last = rows - 1, int(line.split()[1])
        if rows <= 0:
            break
    time.sleep(chance.uniform(0, 0.2))
    while in_a_save and process.poll() is None:
        if any("orbax-checkpoint-tmp" in name for name in os.listdir(workdir / "checkpoints")):
            time.sleep(chance.uniform(0, 0.1))  # anywhere in it
            break
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return None
    unfinished = [name for name in os.listdir(workdir / "checkpoints") if "orbax-checkpoint-tmp" in name]
    return {"started_at": start, "last_row": last, "save_cut": bool(unfinished)}


def study(name: str, kills: int, steps: int, seed: int, platform: str, log) -> bool:
    """`kills` kills of one task, in as many runs as it takes; True if every run ended as the reference."""
    start = lambda workdir, *flags: child(name, workdir, f"--steps={steps}", *flags, env={"JAX_PLATFORMS": platform})
    chance, done, equal = random.Random(f"{seed} {name}"), 0, True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        finished(start(folder / "reference"))
        expected = record_of(folder / "reference")
        while done < kills:
            workdir = folder / "killed"
            shutil.rmtree(workdir, ignore_errors=True)
            here = 0
            while done < kills:
                found = kill_once(start(workdir, "--slow=0.1"), workdir, done % 2 == 1, chance)
                if found is None:
                    break
                done, here = done + 1, here + 1
                log({"task": name, "kill": done, **found})
            finished(start(workdir))
            same = record_of(workdir) == expected
            equal &= same
            log({"task": name, "run_with_kills": here, "rows": len(expected[0]), "leaves": len(expected[1]),
                 "bitwise_equal": same})
    return equal


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--platform", default="cpu", help="cpu, cuda or tpu")
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    options = parser.parse_args()
    with open(options.log, "w") as file, tempfile.TemporaryDirectory() as cache:
        os.environ.update(JAX_COMPILATION_CACHE_DIR=cache, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")

        def log(row):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)
        log({"kills": options.kills, "steps": options.steps, "seed": options.seed, "platform": options.platform,
             "xla_flags": os.environ.get("XLA_FLAGS", ""), "versions": versions(),
             "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"})
        results = [study(name, options.kills, options.steps, options.seed, options.platform, log)
                   for name in options.tasks.split(",")]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
