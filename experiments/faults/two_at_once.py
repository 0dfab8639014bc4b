"""Start two processes of one command in one workdir, and kill and restart launchers. Compare rows.

    python experiments/faults/two_at_once.py            # ten times each: 14 minutes
    python experiments/faults/two_at_once.py --only=killed_launcher
    python experiments/faults/two_at_once.py --quick --log=FILE   # once each

Both are processes of their own, as a user starts them. In the end there must be the rows, the state
and the checkpoints of a run that nothing disturbed. two_at_once.jsonl has a line for each time.
"""
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from guarantees.harness import kept_in, record_of  # noqa: E402

from experiments.runs import Log, command  # noqa: E402
from karpjax.run.metrics import read_rows  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

FLAGS = [f"--config={ROOT}/tests/tiny.py", "--config.steps=400", "--config.log_every=5",
         "--config.save_every=20", "--config.eval_every=40", "--config.keep=2",
         "--config.best=max validation/accuracy"]
LAUNCH = ["launch", "local", "--processes=2", "--devices-per-process=1", *FLAGS]
TRAIN = ["train", *FLAGS]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


def started(arguments: list, workdir) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "karpjax", *arguments, f"--workdir={workdir}"],
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def ended(process) -> tuple[int, str]:
    said, _ = process.communicate(timeout=600)
    return process.returncode, (said.strip().splitlines() or [""])[-1]


def left_in(workdir) -> tuple:
    return (*record_of(workdir), kept_in(workdir))


def two_trainings(workdir, chance) -> dict:
    """Start a second process some moments after the first."""
    delay = chance.uniform(0, 6)
    first = started(TRAIN, workdir)
    time.sleep(delay)
    second = started(TRAIN, workdir)
    (code, said), (other, said_too) = ended(first), ended(second)
    return {"delay": round(delay, 2), "codes": [code, other], "said": [said, said_too],
            # one is told that the other is there; or it begins as the other has ended
            "right": sorted([code, other]) in ([0, 0], [0, 2])}


def killed_launcher(workdir, chance) -> dict:
    """Kill a launcher of two processes some moments after the first row, and start it again."""
    delay = chance.uniform(0, 5)
    first = started(LAUNCH, workdir)
    while first.poll() is None and not read_rows(workdir):
        time.sleep(0.05)
    time.sleep(delay)
    was_running = first.poll() is None
    first.send_signal(signal.SIGKILL)
    step = read_rows(workdir)[-1]["step"]
    second = started(LAUNCH, workdir)
    (code, said), (other, said_too) = ended(first), ended(second)
    return {"delay": round(delay, 2), "killed": was_running, "after_step": step,
            "codes": [code, other], "said": [said, said_too], "right": other == 0}


CASES = ((two_trainings, TRAIN), (killed_launcher, LAUNCH))


def study(options, folder) -> None:
    """Do both ten times, log each time, and exit with 1 if one was wrong."""
    cases = {case.__name__: (case, flags) for case, flags in CASES
             if options.only in ("", case.__name__)}
    log = Log(options.log, keep=lambda row: options.only and row.get("case", "") not in cases)
    right, chance = True, random.Random(0)
    log({"versions": versions()})
    for case, of_one in cases.values():
        code, said = ended(started(of_one, folder / case.__name__))
        assert code == 0, said
        expected = left_in(folder / case.__name__)
        for i in range(1 if options.quick else 10):
            workdir = folder / f"{case.__name__}_{i}"
            row = case(workdir, chance)
            row["said"] = [line.replace(str(workdir), "WORKDIR") for line in row["said"]]
            row["same"] = left_in(workdir) == expected
            right = right and row["right"] and row["same"]
            log({"case": case.__name__, **row})
    sys.exit(not right)


if __name__ == "__main__":
    command(study, log=pathlib.Path(__file__).parent / "two_at_once.jsonl",
            arguments=lambda parser: parser.add_argument("--only", default=""))
