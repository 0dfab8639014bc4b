"""Every test runs on 8 simulated CPU devices; tests that need fewer make a smaller mesh.

Shape annotations (jaxtyping) are checked here, and only here: in production a jitted function pays nothing for them.
"""
import atexit
import gc
import importlib.metadata
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nine tenths of these tests is LLVM optimising programs that run once. The HLO, and so what is tested, is the same without.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
         "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # MLIR for every fusion: three times the time; 0.12 aborts at the flag
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
# Programs are compiled once for all tests, pytest's workers and the processes they start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="karpjax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

import jaxtyping  # noqa: E402

CHECKED = ["karpjax.models", "karpjax.tasks", "karpjax.task", "karpjax.step", "karpjax.envs", "karpjax.sources.shuffle"]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

import pytest  # noqa: E402

gc.set_threshold(20_000, 20)  # tracing makes objects by the million: a tenth of the time was spent looking for their cycles


@pytest.fixture(scope="session", autouse=True)
def embedded_sets(tmp_path_factory):
    """The embedded data sets are prepared once, away from the user's own; noise stands in for those that are downloaded."""
    os.environ["TFDS_DATA_DIR"] = str(tmp_path_factory.mktemp("tfds"))
    from karpjax.sources.datasets import prepared_builder
    from stand_ins import prepare_stand_ins
    prepared_builder("digits")
    prepare_stand_ins(os.environ["TFDS_DATA_DIR"])


# What may be skipped, and why; CI fails on any other skip (tests/test_house_rules.py reads this too).
ALLOWED_SKIPS = ("libtpu", "KARPJAX_TEST_DATA", "PyTorch and transformers", "Gymnasium", "gymnax", "brax", "pgx",
                 "highway-env")


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped: {report.nodeid}: {report.longrepr[-1]}")


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    strange = [r.nodeid for r in skipped if not any(word in str(r.longrepr[-1]) for word in ALLOWED_SKIPS)]
    if os.environ.get("CI") and strange and exitstatus == 0:
        reporter.write_line(f"CI: these skips are not on the list in tests/conftest.py: {strange}", red=True)
        session.exitstatus = 1
