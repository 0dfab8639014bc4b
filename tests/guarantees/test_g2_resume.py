"""G2: a run killed by SIGKILL at any moment and started again ends bitwise equal to one that was
never stopped.

Each task is killed three times: at a random moment, inside a save, at a random moment.
experiments/kill_resume kills it twenty times.
"""
import os
import random
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


def killed_thrice(name, workdir, seed: int, *flags):
    """Run with three kills on the way.

    Return how many landed, and the first step of the last start.
    """
    chance, landed = random.Random(seed), 0
    for rows, in_a_save in ((chance.randint(5, 8), False), (1, True),
                            (chance.randint(1, 2), False)):
        landed += kill(child(name, workdir, SLOW, *flags), workdir, rows, in_a_save, chance)
    output = finished(child(name, workdir, *flags))
    return landed, int(output.split("steps ")[1].split()[0])


@pytest.mark.parametrize("name", TASKS)
def test_killed_and_resumed_is_bitwise_equal(name, tmp_path, never_stopped):
    landed, resumed_at = killed_thrice(name, tmp_path, seed=len(name))
    assert landed >= 2 and resumed_at > 0
    rows, checksums = record_of(tmp_path)
    expected_rows, expected_checksums = record_of(never_stopped(name))
    expected_kept = kept_in(never_stopped(name))
    assert rows == expected_rows
    assert checksums == expected_checksums
    assert kept_in(tmp_path) == expected_kept and (name != "digits" or expected_kept == [6, 9, 12])


@pytest.mark.parametrize("mutant, task",
                         [("key_not_saved", "digits"), ("position_not_saved", "masked_text"),
                          ("position_not_saved", "reinforce"), ("rows_not_cut", "poly"),
                          ("best_forgotten", "digits")])
def test_mutants(mutant, task, tmp_path, never_stopped):
    """The same comparison must notice a run that forgets something."""
    process = child(task, tmp_path, SLOW)
    for line in process.stdout:  # after the save of step 6 and rows beyond it, before the next
        if line.startswith("row 8"):
            break
    while not (tmp_path / "checkpoints" / "6").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished(child(task, tmp_path, f"--mutant={mutant}"))
    reference = never_stopped(task)
    assert (*record_of(tmp_path), kept_in(tmp_path)) != (*record_of(reference), kept_in(reference))
