"""Kill runs with SIGKILL, many times, and compare bitwise with a run that was never stopped.

    python experiments/kill_resume/run.py  # 20 kills of each task, 3 to 5 minutes a task
    python experiments/kill_resume/run.py --kills=2 --steps=12 --tasks=poly --log=/tmp/quick.jsonl
    python experiments/kill_resume/run.py --processes=2 --tasks=digits,ppo \
        --log=experiments/kill_resume/two_processes.jsonl
    XLA_FLAGS=--xla_gpu_deterministic_ops=true python experiments/kill_resume/run.py \
        --platform=cuda --tasks=digits,ppo

Every second kill falls inside a save (while Orbax's temporary folder is there), the others some
random moments after a random row. A random one of several processes is killed, or gets SIGTERM.
Tasks are those of tests/guarantees/registry.py. results.jsonl gets one line for each kill and each
task. The exit code is 1 if any run differs: its rows, its state, which checkpoints it kept, or the
best of them.
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

from guarantees.harness import child, children, finished, kept_in, record_of  # noqa: E402
from guarantees.registry import TASKS  # noqa: E402
from stand_ins import prepare_stand_ins  # noqa: E402

from karpjax.core.errors import Preempted  # noqa: E402
from karpjax.run import checkpoint  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402


def await_row(process, rows: int) -> tuple:
    """Wait for some rows of a run and return (the step it started at, the last row's step)."""
    start, last = None, None
    for line in process.stdout:
        if " steps " in line and start is None:
            start = int(line.split("steps ")[1].split()[0])
        if line.startswith("row"):
            rows, last = rows - 1, int(line.split()[1])
        if rows <= 0:
            break
    return start, last


def await_save(process, workdir, chance) -> None:
    """Wait until a save is under way, and a moment more: anywhere in it."""
    while process.poll() is None:
        if any("orbax-checkpoint-tmp" in name for name in os.listdir(workdir / "checkpoints")):
            time.sleep(chance.uniform(0, 0.1))
            break


def kill_once(processes: list, workdir, in_a_save: bool, chance) -> dict | None:
    """Wait for the moment and kill one process. Return the kill, or None if the run ended first.

    A random one of several processes gets SIGKILL or SIGTERM. After SIGKILL the others can only be
    killed too. After SIGTERM all must save the same step and exit with 75.
    """
    start, last = await_row(processes[0], chance.randint(1, 6))
    time.sleep(chance.uniform(0, 0.2))
    if in_a_save:
        await_save(processes[0], workdir, chance)
    number = signal.SIGKILL if len(processes) == 1 else chance.choice(
        [signal.SIGKILL, signal.SIGTERM])
    victim = chance.randrange(len(processes))
    processes[victim].send_signal(number)
    if number == signal.SIGKILL:
        processes[victim].wait()
        for process in processes:
            process.kill()
    codes = [process.wait() for process in processes]
    if number == signal.SIGTERM and set(codes) not in ({Preempted.code}, {0}):
        raise SystemExit(
            f"SIGTERM to process {victim}: exit codes {codes}, expected {Preempted.code} of all")
    if codes[victim] == 0:
        return None
    unfinished = [name for name in os.listdir(workdir / "checkpoints")
                  if "orbax-checkpoint-tmp" in name]
    of_several = {"process": victim, "signal": number.name} if len(processes) > 1 else {}
    return {"started_at": start, "last_row": last, **of_several, "save_cut": bool(unfinished)}


def study(name: str, options, log) -> bool:
    """Kill one task `kills` times, in as many runs as it takes.

    Return whether every run ended as the reference.
    """
    chance, done, equal = random.Random(f"{options.seed} {name}"), 0, True
    env = {"JAX_PLATFORMS": options.platform}

    def start(workdir, *flags) -> list:
        flags = (f"--steps={options.steps}", *flags)
        if options.processes == 1:
            return [child(name, workdir, *flags, env=env)]
        return children(name, workdir, options.processes, *flags, env=env)

    def ended(processes) -> None:
        for process in processes:
            finished(process)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ended(start(folder / "reference"))
        expected, kept = record_of(folder / "reference"), kept_of(folder / "reference")
        while done < options.kills:
            workdir = folder / "killed"
            shutil.rmtree(workdir, ignore_errors=True)
            here = 0
            while done < options.kills:
                kill = kill_once(start(workdir, "--slow=0.1"), workdir, done % 2 == 1, chance)
                if kill is None:
                    break
                done, here = done + 1, here + 1
                log({"task": name, "kill": done, **kill})
            ended(start(workdir))
            same, same_kept = record_of(workdir) == expected, kept_of(workdir) == kept
            equal &= same and same_kept
            log({"task": name, "run_with_kills": here, "rows": len(expected[0]),
                 "leaves": len(expected[1]),
                 "bitwise_equal": same, "kept_and_best": kept, "same_kept": same_kept})
    return equal


def kept_of(workdir) -> list:
    """Return the steps whose checkpoints are there, and that of the best, None without one."""
    config = checkpoint.read_meta(checkpoint.find(workdir))["config"]
    best = int(checkpoint.find(workdir, "best").name) if config["best"] else None
    return [kept_in(workdir), best]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--platform", default="cpu", help="cpu, cuda or tpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    options = parser.parse_args()
    with open(options.log, "w") as file, tempfile.TemporaryDirectory() as folder:
        os.environ.update(JAX_COMPILATION_CACHE_DIR=f"{folder}/compiled",
                          JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
        if not os.environ.get("TFDS_DATA_DIR"):     # in a test it is there
            os.environ["TFDS_DATA_DIR"] = f"{folder}/sets"
            prepare_stand_ins(pathlib.Path(folder) / "sets")

        def log(row):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)
        log({"kills": options.kills, "steps": options.steps, "seed": options.seed,
             "platform": options.platform,
             "processes": options.processes,
             "xla_flags": os.environ.get("XLA_FLAGS", ""), "versions": versions(),
             "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"})
        results = [study(name, options, log) for name in options.tasks.split(",")]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
