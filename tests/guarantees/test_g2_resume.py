"""G2: a run killed by SIGKILL at any moment and started again ends bitwise equal to one that was
never stopped.

A task is killed three times: at a random moment, inside a save, at a random moment. In the default
run it is killed once, inside a save. experiments/kill_resume kills twenty times.
"""
import functools
import os
import random
import shutil
import signal
import time

from guarantees.harness import child, finished, kept_in, record_of
from guarantees.registry import TASKS
import pytest

SLOW = "--slow=0.2"  # seconds a row: a save takes about as long


def kill(process, workdir, rows: int, in_a_save: bool, chance: random.Random) -> bool:
    """SIGKILL the run some moments after its n-th row and its first checkpoint, or then inside the
    next save.

    Return False if the run ended before.
    """
    for line in process.stdout:
        rows -= line.startswith("row")
        if rows <= 0:
            break
    # the first kill waits for a checkpoint: a run that starts from nothing proves less
    folder = workdir / "checkpoints"
    while process.poll() is None \
            and not (folder.exists() and any(name.isdigit() for name in os.listdir(folder))):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.2))
    while in_a_save and process.poll() is None:
        if any("orbax-checkpoint-tmp" in name for name in os.listdir(folder)):
            break
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def run_with_kills(name, workdir, kills: int, *flags):
    """Run with one or three kills on the way.

    Return how many landed, and the first step of the last start.
    """
    chance, landed = random.Random(len(name)), 0
    moments = [(chance.randint(5, 8), False), (1, True), (chance.randint(1, 2), False)]
    for rows, in_a_save in moments if kills == 3 else [(moments[0][0], True)]:
        landed += kill(child(name, workdir, SLOW, *flags), workdir, rows, in_a_save, chance)
    output = finished(child(name, workdir, *flags))
    return landed, int(output.split("steps ")[1].split()[0])


@pytest.mark.parametrize("name", TASKS)
def test_killed_and_resumed_is_bitwise_equal(name, tmp_path, never_stopped, request):
    everything = request.config.getoption("full") or request.config.getoption("task")
    kills = 3 if everything else 1
    landed, resumed_at = run_with_kills(name, tmp_path, kills)
    assert landed >= (kills + 1) // 2 and resumed_at > 0
    rows, checksums = record_of(tmp_path)
    expected_rows, expected_checksums = record_of(never_stopped(name))
    expected_kept = kept_in(never_stopped(name))
    assert rows == expected_rows
    assert checksums == expected_checksums
    assert kept_in(tmp_path) == expected_kept and (name != "digits" or expected_kept == [6, 9, 12])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return the workdir of a task's run that was killed some rows after a save."""
    @functools.cache
    def workdir(name):
        folder = tmp_path_factory.mktemp(f"killed_{name}")
        process = child(name, folder, SLOW)
        for line in process.stdout:
            if line.startswith("row 8"):
                break
        # digits save at 6, ppo, in chunks of 4 steps, at 4
        while not any((folder / "checkpoints" / step).exists() for step in ("4", "6")):
            time.sleep(0.01)
        process.kill()
        process.wait()
        return folder
    return workdir


@pytest.mark.parametrize("mutant, task",
                         [("key_not_saved", "digits"),
                          *(pytest.param("position_not_saved", task, marks=pytest.mark.full)
                            for task in ("ppo", "masked_text")),
                          ("rows_not_cut", "digits"),
                          ("best_forgotten", "digits")])
def test_mutants(mutant, task, tmp_path, never_stopped, killed):
    """The same comparison must notice a run that forgets something."""
    workdir, reference = tmp_path / "run", never_stopped(task)
    shutil.copytree(killed(task), workdir)
    finished(child(task, workdir, f"--mutant={mutant}"))
    assert (*record_of(workdir), kept_in(workdir)) != (*record_of(reference), kept_in(reference))
