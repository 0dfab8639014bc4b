"""A command that a fault of the file system struck goes on, or says what to do, and loses nothing.

40 cases are drawn by the commit. experiments/faults draws over a thousand.
"""
import random

from guarantees import fault_cases
from guarantees.fault_cases import COMMANDS, WRONG, Bench, Case
import pytest

import three_runs

# a case of train, resume and convert takes 4 to 6 seconds, of the others one or less
SHARES = {"train": 1, "resume": 2, "prepare": 16, "overwrite": 15, "export": 5, "convert": 1}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"))


def test_shares():
    assert sum(SHARES.values()) == 40 and set(SHARES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_faults_of_a_command(name, bench):
    chance = random.Random(three_runs.git("rev-parse", "HEAD") + name)
    cases = bench.draw(name, chance, SHARES[name])
    outcomes = {case: bench.outcome(case) for case in cases}
    assert len(outcomes) == SHARES[name]
    assert not {case: found for case, found in outcomes.items() if found[0] in WRONG}


def test_threads_of_a_failed_save_do_not_keep_a_process(bench):
    """Orbax's wait ten minutes for a folder that could not be made."""
    mkdirs = bench.undisturbed("convert")[1]["mkdir"]
    found, said = bench.outcome(Case("convert", "mkdir", mkdirs - 3, "ESTALE"))
    assert found == "again" and "Stale file handle" in said


WRITTEN_IN_PLACE = """
import contextlib
from karpjax.core import files
@contextlib.contextmanager
def whole(path, durable=True):
    with open(path, "w") as file:
        yield file
files.whole = whole
"""
ROWS_AFTER_THE_SAVE = """
from karpjax.run import loop, metrics
save, write, late = loop.Trainer.save, metrics.Writer.write, []
metrics.Writer.write = lambda self, row: late.append(row)
def save_first(self, *args):
    save(self, *args)
    self.checkpoints.wait()
    while late:
        write(self.writer, late.pop(0))
loop.Trainer.save = save_first
"""


@pytest.mark.parametrize("mutant, kind", [(WRITTEN_IN_PLACE, "write"),
                                          pytest.param(ROWS_AFTER_THE_SAVE, "fsync",
                                                       marks=pytest.mark.full)],
                         ids=["written in place", "rows after the save"])
def test_mutants(mutant, kind, bench, monkeypatch):
    """A kill at one of the calls shows it."""
    right = fault_cases.run
    monkeypatch.setattr(fault_cases, "run", lambda name, folder, before="":
                        right(name, folder, mutant + before if before else ""))
    calls = bench.undisturbed("resume")[1][kind]
    outcomes = (bench.outcome(Case("resume", kind, n, "kill"))[0] for n in range(1, calls + 1))
    assert any(outcome in WRONG for outcome in outcomes)
