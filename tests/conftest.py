"""Every test runs on 8 simulated CPU devices. Tests that need fewer make a smaller mesh.

For the three runs see three_runs.py.

Shape annotations (jaxtyping) are checked here, and only here: in production a jitted function pays
nothing for them.
"""
import atexit
import fcntl
import functools
import gc
import importlib.metadata
import os
import pathlib
import shutil
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nine tenths of these tests is LLVM optimising programs that run once. The HLO, and so what is
# tested, is the same without.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
         "--xla_cpu_parallel_codegen_split_count=1"]
# XLA ends a process whose devices do not all come to a sum within 40 s. A busy machine may keep one
# waiting for longer.
FLAGS += ["--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
          "--xla_cpu_collective_call_terminate_timeout_seconds=600"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # MLIR for every fusion: three times the time; 0.12 aborts at the flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
ROOT = pathlib.Path(__file__).parent.parent
# one folder for the whole session, pytest's workers and their processes
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["KARPJAX_TEST_SESSION"] = tempfile.mkdtemp(prefix="karpjax_tests_")
    atexit.register(shutil.rmtree, os.environ["KARPJAX_TEST_SESSION"], ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["KARPJAX_TEST_SESSION"],
                                                           "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import trap  # noqa: E402

# G7: before anything that could import TensorFlow. A worker has its own: they share a session.
worker = os.environ.get("PYTEST_XDIST_WORKER", "controller")
folder = pathlib.Path(os.environ["KARPJAX_TEST_SESSION"], f"trap_{worker}")
os.environ["KARPJAX_TEST_TRAP"] = str(folder)
trap.set_up(folder)

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

import jaxtyping  # noqa: E402

CHECKED = ["karpjax.models", "karpjax.tasks", "karpjax.core.task", "karpjax.core.step",
           "karpjax.envs", "karpjax.generation", "karpjax.sources.shuffle"]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

import pytest  # noqa: E402
import three_runs  # noqa: E402

# tracing makes objects by the million: a tenth of the time was spent looking for their cycles
gc.set_threshold(20_000, 20)


@functools.cache
def embedded_sets():
    """Prepare the embedded data sets, and noise in place of those that are downloaded, once for all
    workers.
    """
    folder = pathlib.Path(os.environ["KARPJAX_TEST_SESSION"]) / "tfds"
    os.environ["TFDS_DATA_DIR"] = str(folder)
    folder.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            from karpjax.datasets.tfds import prepared_builder
            from stand_ins import prepare_stand_ins
            prepared_builder("digits")
            prepare_stand_ins(folder)
            (folder / "done").touch()


@pytest.fixture(autouse=True)
def tensorflow_is_never_imported():
    """G7, of every test and of every process that it starts."""
    yield
    assert not trap.sprung(), "TensorFlow was imported, here or in a process that this test started"


# What may be skipped, and why; CI fails on any other skip (tests/test_house_rules.py reads this
# too).
ALLOWED_SKIPS = ("libtpu", "KARPJAX_TEST_DATA", "PyTorch and transformers", "Gymnasium", "gymnax",
                 "brax", "pgx",
                 "highway-env", "outside git", "no full run yet")
COSTS, STARTED = three_runs.Costs(), time.monotonic()


def pytest_addoption(parser):
    three_runs.add_options(parser)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return three_runs.make_scheduler(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    three_runs.select(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    embedded_sets()    # no fixture: it would be a cost of the first test's
    COSTS.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    COSTS.attach(report)
    return report


def pytest_runtest_logreport(report):
    COSTS.collect(report)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped: {report.nodeid}: {report.longrepr[-1]}")
    dearest = sorted(COSTS.seconds, key=COSTS.seconds.get, reverse=True)
    total = sum(COSTS.seconds.values())
    shown = [f"{name.split('/')[-1]} {COSTS.seconds[name]:.0f}" for name in dearest[:5]]
    terminalreporter.write_line(f"{total:.0f} CPU seconds in {len(dearest)} tests; the dearest: "
                                + ", ".join(shown))
    if getattr(config, "cache", None):  # not with -p no:cacheprovider
        config.cache.set("karpjax/processor_seconds", COSTS.seconds)


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not reporter or "PYTEST_XDIST_WORKER" in os.environ or exitstatus:
        return
    skipped = reporter.stats.get("skipped", [])
    strange = [r.nodeid for r in skipped
               if not any(word in str(r.longrepr[-1]) for word in ALLOWED_SKIPS)]
    wrong = [f"these skips are not on the list in tests/conftest.py: {strange}"] if strange else []
    times, machine = three_runs.read(three_runs.TIMES), three_runs.machine_seconds()
    wrong += filter(None, [COSTS.too_slow(times, machine)])
    for line in wrong:
        reporter.write_line(f"CI: {line}", red=True)
    if wrong and os.environ.get("CI"):
        session.exitstatus = 1
    elif three_runs.is_whole(session.config):
        counts = {name: len(reporter.stats.get(name, [])) for name in ("passed", "skipped")}
        three_runs.write_records(COSTS, counts, time.monotonic() - STARTED)
