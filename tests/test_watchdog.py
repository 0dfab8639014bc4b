"""The watchdog names a process that stands still, and the others do not wait for it for ever."""
import os
import signal
import subprocess
import sys
import time

from guarantees.harness import ROOT, finished, mesh_of
from guarantees.registry import config_of
from guarantees.test_g3_processes import two
import pytest

from karpjax.run import watchdog
from karpjax.run.evaluator import make_evaluator
from karpjax.run.experiment import assemble

PROGRAM = """
import sys, time
from karpjax.run.watchdog import Watchdog
watch = Watchdog(sys.argv[1], after=1.0, process=0, processes=2)
for i in range(4):
    watch.beat(f"{sys.argv[2]} {i}")
    time.sleep(float(sys.argv[3]))
watch.close()
"""


def run(folder, doing: str, seconds: float):
    return subprocess.run([sys.executable, "-c", PROGRAM, folder, doing, str(seconds)], cwd=ROOT,
                          capture_output=True,
                          text=True, timeout=600)


def test_standing_still_ends_it_with_the_stacks_and_the_silent_process(tmp_path):
    done = run(tmp_path, "step", 20.0)
    assert done.returncode == watchdog.CODE
    assert 'File "<string>", line 7 in <module>' in done.stderr  # where it slept
    said = done.stderr.splitlines()[-1]
    assert "nothing new for 1 s" in said and "'step 0'" in said
    assert "process 1 is dead or stopped" in said


@pytest.mark.parametrize("doing,seconds", [("step", 0.5), ("compiling", 2.0)])
def test_moving_on_and_compiling_are_no_hang(tmp_path, doing, seconds):
    done = run(tmp_path, doing, seconds)
    assert done.returncode == 0, done.stderr
    assert not any((tmp_path / "beats").iterdir())


def test_each_batch_of_an_evaluation_is_a_beat():
    """A large split takes longer than config.hang_timeout, and is no hang."""
    exp = assemble(*config_of("digits"), mesh_of(1))
    beats, variables = [], exp.fresh_state().eval_variables
    make_evaluator(exp.task, exp.mesh).measure(variables, "validation", beat=beats.append)
    batches = len(list(exp.source.eval_batches("validation")))
    assert batches > 1 and len(beats) == batches
    assert beats[-1] == f"evaluation of validation after batch {batches}"


def test_a_process_that_compiles_is_waited_for(tmp_path):
    (tmp_path / "beats").mkdir()
    other = watchdog.Watchdog(tmp_path, after=1.0, process=1, processes=2)
    other.beat("compiling 4 steps")
    try:
        assert run(tmp_path, "step", 2.0).returncode == 0
    finally:
        other.close()


def test_the_process_that_waits_for_its_data_is_named(tmp_path):
    """Both processes name the slower one, from each one's own report."""
    watches = [watchdog.Watchdog(tmp_path, after=1.0, process=i, processes=2) for i in range(2)]
    try:
        for step in range(8):
            for each, waited in zip(watches, (0.5, 2.0), strict=True):
                each.beat(f"step {step}", waited=waited)
            time.sleep(0.1)
        assert [each.slowest() for each in watches] == [(1, 2.0)] * 2
    finally:
        for each in watches:
            each.close()
    assert watchdog.Watchdog(tmp_path, after=0, processes=2).slowest() is None


@pytest.mark.full
def test_a_stopped_process_is_named(tmp_path):
    """After SIGSTOP to one of two processes, the other ends within the bound and names it."""
    after = 8
    first, second = two("digits", tmp_path, "--slow=0.2", f"--hang_timeout={after}", "--steps=60")
    for line in first.stdout:
        if line.startswith("row 4"):
            break
    os.kill(second.pid, signal.SIGSTOP)
    started = time.monotonic()
    try:
        said = finished(first, code=watchdog.CODE, timeout=600)
        assert time.monotonic() - started < 4 * after
        assert "karpjax: error: hung" in said and "process 1 is dead or stopped" in said
        assert "Thread 0x" in said
    finally:
        second.kill()
