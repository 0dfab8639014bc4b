"""The three runs of the tests: the tests of each, their costs, and the stamp of the full one.

    python -m pytest tests               six core tasks, all cheap tests, and what the commit draws
    python -m pytest tests --task=NAME   one task under all guarantees, in 2 to 4 minutes
    python -m pytest tests --full        every pair of guarantee and task, every config and study

A pair is a guarantee and a task (of G8: a config). A dear test took long in the last full run, and
is no guarantee's: the default run draws some by the commit's hash, so that all come round. What a
run leaves out is deselected, never skipped. `--full` writes the cost of each test to
tests/times.json and its stamp to tests/full_run.json. Both are committed.
"""
import datetime
import hashlib
import importlib.metadata
import json
from multiprocessing import forkserver
import os
import pathlib
import platform
import random
import re
import resource
import subprocess
import time

import pytest


ROOT = pathlib.Path(__file__).parent.parent
TASKS = set(json.loads((ROOT / "tests" / "guarantees" / "pairs.json").read_text())["g1"])
TIMES, STAMP = ROOT / "tests" / "times.json", ROOT / "tests" / "full_run.json"
# Every kind of source, of model state and of optimizer.
CORE = ("digits", "digits_host", "masked_text", "finetune", "ppo", "self_play")
CORE_CONFIGS = ("digits_cnn.py", "ppo_reacher.py")
# What these pairs compile proves nothing new: folders of pictures and texts are arrays, as the
# digits are, and self-play is a rollout, as ppo's is, but for its pool, which G2 looks at, and G6.
# They are drawn, as other tasks' pairs are.
SHOWN_BY_OTHERS = {*((f"g{i}", "finetune") for i in (1, 2, 3, 4, 5)),
                   *((f"g{i}", "self_play") for i in (1, 3, 4, 5)),
                   *((f"g{i}", "masked_text") for i in (2, 3)), ("g2", "ppo")}
DRAWN = 2                                   # pairs beside the core's, so that all come round
# in times of the fixed piece of work that `machine_seconds` does, which takes about 0.02 s
DEAR, DRAWN_DEAR = 46, 2300                 # a test's; of all dear tests that a commit draws
# times the seconds of tests/times.json: then a run fails in CI
SLOWER = 1.25
STAMPED = ("karpjax/core", "karpjax/run")   # the folders whose trees the stamp holds
STALE = datetime.timedelta(days=14)


# -------------------------------------------------------------------------------------------- what
# a run holds

def add_options(parser) -> None:
    group = parser.getgroup("karpjax")
    group.addoption("--task", default="",
                    help="a task of tests/guarantees/registry.py, under all guarantees")
    group.addoption("--full", action="store_true",
                    help="every pair of guarantee and task, config and study")


def pair_of(item) -> tuple[str, str] | None:
    """Return ("g1", "digits") for a guarantee's test on a task, None for any other test."""
    guarantee = re.search(r"guarantees/test_(g\d)_", item.nodeid)
    task = hasattr(item, "callspec") and item.callspec.params.get("name")
    return (guarantee[1], task) if guarantee and task and "mutant" not in item.nodeid else None


def in_core(pair: tuple[str, str]) -> bool:
    core = CORE_CONFIGS if pair[0] == "g8" else CORE
    return pair[1] in core and pair not in SHOWN_BY_OTHERS


def drawn(pairs, seed: str) -> set:
    """Return DRAWN of the pairs, always the same for one seed. A config for a TPU (G8) costs too
    much to be drawn.
    """
    pairs = sorted(pair for pair in set(pairs) if not in_core(pair) and pair[0] != "g8")
    return set(random.Random(seed).sample(pairs, min(DRAWN, len(pairs))))


def git(*arguments: str) -> str:
    """Return git's answer, "" outside git."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def default_run(items: list, seed: str) -> list:
    """Return the items of the default run of the commit with this hash."""
    pairs = {item: pair_of(item) for item in items}
    today = drawn(filter(None, pairs.values()), seed)
    held = [item for item in unmarked(items)
            if pairs[item] is None or in_core(pairs[item]) or pairs[item] in today]
    late = dear([item.nodeid for item in held], read(TIMES))
    late -= drawn_dear(late, seed, read(TIMES))
    return [item for item in held if item.nodeid not in late]


def unmarked(items: list) -> list:
    return [item for item in items if not item.get_closest_marker("full")]


def dear(names, file: dict) -> set[str]:
    """Return the names of the dear tests among these, by tests/times.json."""
    most = DEAR * file.get("machine_seconds", 0.0)
    return {name for name in names if "guarantees/" not in name
            and file.get("tests", {}).get(name, 0.0) > most}


def drawn_dear(names: set[str], seed: str, file: dict) -> set[str]:
    """Return the first of these names, in an order by the seed, that take DRAWN_DEAR together."""
    chosen, left = set(), DRAWN_DEAR * file.get("machine_seconds", 0.0)
    for name in random.Random(seed).sample(sorted(names), len(names)):
        left -= file["tests"][name]
        if left < 0:
            break
        chosen.add(name)
    return chosen


def of_task(items: list, task: str) -> list:
    """Return the guarantees of one task."""
    return [item for item in items if (pair_of(item) or ("", ""))[1] == task]


def held_by(items: list) -> dict:
    """Return {run: {"tests": [node id], "pairs": [pair]}} of all collected items, for the tests of
    these runs: "full", "task" (poly), "default", and "unmarked" of those without the mark `full`.
    """
    runs = {"full": items, "unmarked": unmarked(items), "task": of_task(items, "poly"),
            "default": default_run(items, git("rev-parse", "HEAD"))}
    return {run: {"tests": [item.nodeid for item in kept],
                  "pairs": sorted(set(filter(None, map(pair_of, kept))))}
            for run, kept in runs.items()}


HELD = pytest.StashKey[dict]()


def select(config, items: list) -> None:
    """Deselect what this run leaves out, group the rest for the workers, and put the dearest groups
    first.
    """
    if config.args == ["tests"]:
        config.stash[HELD] = held_by(items)
    task, default = config.getoption("task"), set(default_run(items, git("rev-parse", "HEAD")))
    if task:
        keep = of_task(items, task)
    elif config.getoption("full") or any("::" in argument for argument in config.args):
        keep = list(items)                  # whoever names a test means that test
    else:
        keep = [item for item in items if item in default]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(keep)])
    seconds, totals = read(TIMES).get("tests", {}), {}
    groups = {item: group_of(item.nodeid) for item in keep}
    for item, group in groups.items():
        totals[group] = totals.get(group, 0.0) + seconds.get(item.nodeid, 1.0)
    # In a full run, too, the default run's tests of a group come first: who comes first compiles,
    # and costs would not compare.
    items[:] = sorted(keep,
                      key=lambda item: (-totals[groups[item]], groups[item], item not in default))


def group_of(nodeid: str) -> str:
    """Return the group whose tests share a worker: a task's programs, or a file's fixtures.

    So a mutant of one task has the task as a parameter.
    """
    file, _, test = nodeid.partition("::")
    parameters = test.partition("[")[2].rstrip("]").split("-")
    if "guarantees/test_g" in file and "test_g8" not in file:
        return next((name for name in parameters if name in TASKS), file)
    return file


def make_scheduler(config, log):
    """Return xdist's scheduler by these groups.

    Its own `--dist loadgroup` marks a test's name, which pytest 9.1 does not let it change.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)
    return Groups(config, log)


# ------------------------------------------------------------------------------ what a test costs

def processor_seconds() -> float:
    """Return the CPU seconds of this process, its ended children and the fork server's."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + forked_seconds()


def forked_seconds() -> float:
    """Return the seconds of the fork server's ended processes, 0.0 without a server or /proc."""
    try:
        stat = pathlib.Path(f"/proc/{forkserver._forkserver._forkserver_pid}/stat").read_text()
    except OSError:
        return 0.0
    children = stat.rsplit(")", 1)[1].split()[13:15]                    # cutime, cstime
    return sum(map(int, children)) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Return this machine's seconds for a fixed piece of work, to compare two machines by."""
    def once():
        start = time.process_time()
        for i in range(60):
            hashlib.sha256(json.dumps(list(range(i, i + 2000))).encode() * 20).hexdigest()
        return time.process_time() - start
    return min(once() for _ in range(30))   # other work takes turns with it


class Costs:
    """The CPU seconds of each test.

    Workers measure. The reports of a test's teardown bring the seconds to the controller.
    """

    def __init__(self):
        self.started, self.seconds = 0.0, {}

    def start(self) -> None:
        self.started = processor_seconds()

    def attach(self, report) -> None:
        if report.when == "teardown":
            report.user_properties.append(("processor_seconds",
                                           round(processor_seconds() - self.started, 2)))

    def collect(self, report) -> None:
        seconds = dict(report.user_properties).get("processor_seconds")
        if report.when == "teardown" and seconds is not None:
            self.seconds[report.nodeid] = seconds

    def too_slow(self, file: dict, machine: float) -> str:
        """Return a line if the tests of the file take over SLOWER times its seconds, else ""."""
        known = [name for name in self.seconds if name in file.get("tests", {})]
        if not known:
            return ""
        # A slower machine is forgiven. A faster one is not held against the file.
        machines = max(1.0, machine / file["machine_seconds"])
        now = sum(self.seconds[name] for name in known)
        then = machines * sum(file["tests"][name] for name in known)
        if then < 60 or now < SLOWER * then:
            return ""
        return (f"{len(known)} tests took {now:.0f} CPU seconds, over {SLOWER} times the "
                f"{then:.0f} of {TIMES.name}: find what became slow, or run --full and commit "
                "its times")


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


# ---------------------------------------------------------------------- the stamp of the full run

def trees() -> dict:
    """Return {folder: hash of its git tree at HEAD}."""
    return {folder: git("rev-parse", f"HEAD:{folder}") for folder in STAMPED}


def is_whole(config) -> bool:
    """Return whether a run is `pytest tests --full` with nothing left out."""
    fewer = ("collectonly", "keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob")
    return bool(config.getoption("full") and config.args == ["tests"]
                and not any(config.getoption(name, None) for name in fewer))


def write_records(costs: Costs, counts: dict, seconds: float) -> None:
    """Write tests/times.json and tests/full_run.json, after a full run without a failure."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {"python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in names}}
    stamp = {"trees": trees(), "date": datetime.date.today().isoformat(), "versions": versions,
             "counts": counts, "seconds": round(seconds)}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")
    tests = dict(sorted(costs.seconds.items()))
    TIMES.write_text(json.dumps({"machine_seconds": round(machine_seconds(), 3), "tests": tests},
                                indent=0) + "\n")


def stale(stamp: dict, now: dict, commit_date: datetime.date) -> str:
    """Return a line if the stamp is of other trees and over STALE older than the commit."""
    age = commit_date - datetime.date.fromisoformat(stamp["date"])
    if stamp["trees"] == now or age <= STALE:
        return ""
    return (f"the last full run, {stamp['date']}, was of another {' and '.join(STAMPED)}, "
            f"{age.days} days before this commit: run python -m pytest tests --full and commit "
            "its stamp")
