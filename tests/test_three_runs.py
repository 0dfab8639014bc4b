"""The three runs hold what they say: no pair of guarantee and task is lost, the stamp is not stale,
costs are watched.
"""
import datetime
import json
import subprocess
import sys
import types

import pytest

import three_runs
from three_runs import ROOT

PAIRS = json.loads((ROOT / "tests" / "guarantees" / "pairs.json").read_text())


COLLECT = """
import json, sys
sys.path.insert(0, "tests")
import pytest
import three_runs

class Plugin:
    def pytest_collection_finish(self, session):
        print("RUNS", json.dumps(session.config.stash[three_runs.HELD]))

sys.exit(pytest.main(["tests", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider"],
                     plugins=[Plugin()]))
"""


@pytest.fixture(scope="module")
def runs(request):
    """Return {run: {"tests", "pairs"}}: what pytest collected now if it was all, else anew."""
    held = request.config.stash.get(three_runs.HELD, None)
    if held is None:
        done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True,
                              text=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("RUNS"))
        held = json.loads(line.removeprefix("RUNS "))
    return {run: {"tests": set(of["tests"]), "pairs": set(map(tuple, of["pairs"]))}
            for run, of in held.items()}


@pytest.fixture(scope="module")
def full(runs):
    return runs["full"]["pairs"]


def test_no_pair_is_lost(full):
    """tests/guarantees/pairs.json is the list. A new task or config adds to it."""
    assert {guarantee: sorted(name for g, name in full if g == guarantee)
            for guarantee in PAIRS} == PAIRS
    assert sum(map(len, PAIRS.values())) == len(full)


def test_every_task_is_in_every_guarantee():
    """G4 and G5 need a task that can do without BatchNorm and dropout. G7 is in every test, G8 of
    configs.
    """
    from guarantees.registry import TASKS
    exact = sorted(name for name, entry in TASKS.items() if entry.exact is not None)
    assert all(PAIRS[guarantee] == sorted(TASKS) for guarantee in ("g1", "g2", "g3", "g6", "g9"))
    assert PAIRS["g4"] == PAIRS["g5"] == exact
    assert PAIRS["g8"] == sorted(path.name for path in (ROOT / "configs").glob("*.py"))


def test_the_default_run_holds_the_core_and_the_pairs_of_the_day(runs, full):
    expected = {pair for pair in full if three_runs.in_core(pair)} | three_runs.drawn(full,
        three_runs.git("rev-parse", "HEAD"))
    assert runs["default"]["pairs"] == expected
    assert len(expected) == sum(map(three_runs.in_core, full)) + three_runs.DRAWN


def test_most_tests_are_in_the_default_run(runs):
    """Of the tests that are no guarantee's, more than three quarters."""
    held, all_ = ({name for name in runs[run]["tests"] if "guarantees/" not in name}
                  for run in ("default", "full"))
    assert held < all_ and len(held) > 0.75 * len(all_)


def test_every_dear_test_comes_round(runs):
    """Within 200 commits: each is drawn, and no commit draws more than its share."""
    times, seen = three_runs.read(three_runs.TIMES), set()
    dear = three_runs.dear(runs["unmarked"]["tests"], times)
    most = three_runs.DRAWN_DEAR * times["machine_seconds"]
    for i in range(200):
        drawn = three_runs.drawn_dear(dear, f"commit {i}", times)
        assert sum(times["tests"][name] for name in drawn) < most + 1e-6
        seen |= drawn
    assert seen == dear


def test_a_new_test_is_not_dear():
    most = three_runs.DEAR * 0.02
    file = {"machine_seconds": 0.02, "tests": {"tests/a.py::slow": 1.1 * most,
                                               "tests/a.py::fast": 0.9 * most,
                                               "tests/guarantees/g.py::slow": 99.0}}
    assert three_runs.dear(["tests/a.py::slow", "tests/a.py::fast", "tests/a.py::new",
                            "tests/guarantees/g.py::slow"], file) == {"tests/a.py::slow"}


def test_a_task_has_all_its_guarantees(runs, full):
    poly = {pair for pair in full if pair[1] == "poly"}
    assert runs["task"]["pairs"] == poly and len(poly) == 5


def test_every_pair_comes_round(full):
    """Within 400 commits: each is drawn at least once."""
    seen = set().union(*(three_runs.drawn(full, f"commit {i}") for i in range(400)))
    assert seen == {pair for pair in full if not three_runs.in_core(pair) and pair[0] != "g8"}


def test_the_last_full_run_is_not_stale():
    if not three_runs.git("rev-parse", "HEAD"):
        pytest.skip("outside git")
    if not three_runs.STAMP.exists():
        pytest.skip("no full run yet")
    date = datetime.date.fromisoformat(three_runs.git("log", "-1", "--format=%cs"))
    assert not three_runs.stale(three_runs.read(three_runs.STAMP), three_runs.trees(), date)


@pytest.mark.parametrize("flag", [{"collectonly": True}, {"keyword": "g1"}, {"lf": True},
                                  {"markexpr": "not full"}, {"deselect": ["x"]}])
def test_a_part_of_a_full_run_writes_no_stamp(flag):
    """A collection once wrote a stamp of no tests over that of a full run."""
    def config(**options):
        return types.SimpleNamespace(args=["tests"],
                                     getoption=lambda name, default=None: options.get(name))
    assert three_runs.is_whole(config(full=True))
    assert not three_runs.is_whole(config(full=True, **flag))
    assert not three_runs.is_whole(config())


def test_mutant_stale():
    stamp = {"trees": {"karpjax/core": "1"}, "date": "2026-01-01"}
    def days(n):
        return datetime.date(2026, 1, 1) + datetime.timedelta(days=n)
    assert "run python -m pytest tests --full" in three_runs.stale(stamp, {"karpjax/core": "2"},
                                                                   days(15))
    assert not three_runs.stale(stamp, {"karpjax/core": "2"},
                                days(14)) and not three_runs.stale(stamp, stamp["trees"], days(99))


def test_mutant_slow():
    """A run of 1.3 times the seconds is noticed, on a machine that is as fast; a new test is not
    held against the others.
    """
    file = {"machine_seconds": 1.0, "tests": {"a": 100.0, "b": 20.0}}
    costs = three_runs.Costs()
    costs.seconds = {"a": 130.0, "b": 26.0, "new": 999.0}
    assert "2 tests took 156 CPU seconds" in costs.too_slow(file, machine=1.0)
    assert not costs.too_slow(file, machine=1.3)
    costs.seconds = {"a": 110.0, "b": 26.0}
    assert not costs.too_slow(file, machine=0.5)


def test_costs_are_measured():
    """Of this process and of the processes that it started."""
    costs = three_runs.Costs()
    costs.start()
    subprocess.run([sys.executable, "-c", "sum(range(30_000_000))"], check=True)
    assert three_runs.processor_seconds() - costs.started > 0.2
