"""G7: TensorFlow is never imported, not even where it is installed.

The trap of tests/trap.py is in every process of every test, so the tests of the other guarantees
are this one's too, for every task. Here is shown that it is there, and that it catches.
"""
import os
import subprocess
import sys

from command import ROOT, command, done
from guarantees.forks import Fork
import pytest
import trap

IMPORTS = ["import tensorflow", "import tensorflow.io", "from tensorflow import data"]


def importing(argv):
    """Import it as libraries do, for a process of its own."""
    try:
        exec(argv[0])
    except ImportError:
        return 0
    return 1


@pytest.mark.parametrize("statement", IMPORTS)
def test_mutant_here(statement):
    assert importing([statement]) == 0 and trap.sprung() and not trap.sprung()
    sys.modules.pop("tensorflow", None)


@pytest.mark.parametrize("statement", IMPORTS)
def test_mutant_in_a_process(statement):
    process = subprocess.run([sys.executable, "-c",
                              f"try:\n    {statement}\nexcept ImportError:\n    pass\n"])
    assert process.returncode == 0 and trap.sprung()


def test_mutant_in_a_fork_and_in_a_command():
    fork = Fork(importing, [IMPORTS[0]], {**os.environ, "JAX_PLATFORMS": "cpu"})
    assert fork.wait() == 0 and trap.sprung()
    before = "try:\n    import tensorflow\nexcept ImportError:\n    pass"
    for real in (False, True):
        done(command("train", "--help", before=before, real=real))
        assert trap.sprung()


def test_every_module_without_tensorflow():
    """Those too that no other test imports."""
    code = ("import importlib, pkgutil, karpjax\n"
            "modules = pkgutil.walk_packages(karpjax.__path__, 'karpjax.')\n"
            "names = [module.name for module in modules if '__main__' not in module.name]\n"
            "for name in names:\n    importlib.import_module(name)\nprint(len(names))")
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0 and int(process.stdout) > 50, process.stderr
