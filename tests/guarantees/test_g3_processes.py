"""G3: several processes equal one. SIGTERM to one of two makes both save the same step, exit 75 and
reach the same end.

A run continues with other processes and devices than before, as if it had kept them (elastic).
"""
import os
import signal

from guarantees.harness import ATOL, RTOL, child, children, finished, record_of
from guarantees.registry import TASKS
import numpy as np
import pytest

from karpjax.core.errors import Preempted
from karpjax.run import checkpoint


def two(name, workdir, *flags, devices: int = 1):
    return children(name, workdir, 2, *flags, devices=devices)


@pytest.mark.parametrize("name", TASKS)
def test_processes_equal_one(name, by_two, never_stopped):
    assert not unequal(never_stopped(name), by_two(name))


@pytest.mark.full
def test_four_processes_equal_one(tmp_path, never_stopped):
    for process in children("digits_host", tmp_path, 4):
        finished(process)
    assert not unequal(never_stopped("digits_host"), tmp_path)


@pytest.mark.parametrize("name", ["digits"])
def test_mutant_keys_of_a_process(name, tmp_path, never_stopped):
    """Two processes that draw keys of their own are caught by the comparison above."""
    for process in two(name, tmp_path, "--mutant=keyed_by_process"):
        finished(process)
    assert unequal(never_stopped(name), tmp_path)


def unequal(one, two) -> list:
    """Return (step, name, here, there) of the logged metrics of two runs that differ beyond
    rounding."""
    (rows_one, _), (rows_two, _) = record_of(one), record_of(two)
    assert [row.keys() for row in rows_one] == [row.keys() for row in rows_two]
    # Evaluation divides counts of a few hundred examples: one that flips shows, rounding does not.
    return [(a["step"], key, a[key], b[key])
            for a, b in zip(rows_one, rows_two, strict=True) for key in a
            if not np.allclose(a[key] or 0.0, b[key] or 0.0, rtol=RTOL, atol=ATOL)]


@pytest.mark.full
@pytest.mark.parametrize("name,mutant", [
    ("digits", ""), ("digits_host", ""), ("digits", "keyed_by_process")])
def test_elastic(name, mutant, tmp_path):
    """A run moves from 8 devices to two processes of 2, to 2 devices, to 8.

    SIGTERM stops each but the last.
    """
    whole, parts, flags = tmp_path / "whole", tmp_path / "parts", (f"--mutant={mutant}",
                                                                   "--slow=0.3")
    finished(child(name, whole, "--devices=8"))
    for after, start in ((1, lambda: [child(name, parts, "--devices=8", *flags)]),
                         (4, lambda: two(name, parts, *flags, devices=2)),
                         (7, lambda: [child(name, parts, "--devices=2", *flags)])):
        first, *others = start()
        for line in first.stdout:
            if line.startswith("row") and int(line.split()[1]) >= after:
                break
        first.send_signal(signal.SIGTERM)
        for process in (first, *others):
            finished(process, code=Preempted.code)
    finished(child(name, parts, "--devices=8", f"--mutant={mutant}"))
    assert bool(unequal(whole, parts)) == bool(mutant)


@pytest.mark.full
def test_sigterm_to_one_of_two(tmp_path, by_two):
    first, second = two("digits", tmp_path, "--slow=0.2")
    for line in first.stdout:
        if line.startswith("row 4"):
            break
    os.kill(second.pid, signal.SIGTERM)
    said = [finished(first, code=Preempted.code), finished(second, code=Preempted.code)]
    steps = {text.split("stopped at step ")[1].split(";")[0] for text in said}
    assert len(steps) == 1 and 4 <= int(*steps) < 12
    assert checkpoint.find(tmp_path).name == steps.pop()
    for process in two("digits", tmp_path):
        finished(process)
    assert record_of(tmp_path) == record_of(by_two("digits"))


def test_sigterm_alone(tmp_path):
    process = child("digits", tmp_path, "--slow=0.2")
    for line in process.stdout:
        if line.startswith("row 4"):
            break
    process.send_signal(signal.SIGTERM)
    said = finished(process, code=Preempted.code)
    assert checkpoint.find(tmp_path).name == said.split("stopped at step ")[1].split(";")[0]
