"""G7: TensorFlow is never imported, not even where it is installed: preparing and reading TFDS sets, training, evaluating and
restoring do without. The blocker is a package `tensorflow` that leaves a mark when it is imported, and fails."""
import os
import subprocess
import sys

import pytest

from guarantees.harness import ROOT
from guarantees.registry import TASKS

EVERYTHING = """
import os, sys, tempfile
from stand_ins import prepare_stand_ins
prepare_stand_ins(os.environ["TFDS_DATA_DIR"])
from guarantees.registry import TASKS, config_of
from karpjax.loop import train
import karpjax
for name in sys.argv[1:]:
    config, record = config_of(name)  # the programs of G2, compiled once
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, record=record)
        karpjax.restore(workdir)
from karpjax import convert, evaluate, prepare, report, sweep, precompile
assert not [m for m in sys.modules if m.split('.')[0] == 'tensorflow']
"""


def run(code, tmp_path, *arguments):
    """(process, whether tensorflow was imported)."""
    package, mark = tmp_path / "tensorflow", tmp_path / "imported"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('blocked')\n")
    (package / "io.py").write_text("")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests"))),
           "TFDS_DATA_DIR": str(tmp_path / "sets")}
    process = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    return process, mark.exists()


def test_every_task_without_tensorflow(tmp_path):
    process, imported = run(EVERYTHING, tmp_path, *TASKS)
    assert process.returncode == 0, process.stderr[-2000:]
    assert not imported


@pytest.mark.parametrize("statement", ["import tensorflow", "import tensorflow.io", "from tensorflow import data"])
def test_mutant_is_caught(statement, tmp_path):
    """Also where the import is wrapped, as libraries do."""
    process, imported = run(f"try:\n    {statement}\nexcept ImportError:\n    pass\n", tmp_path)
    assert process.returncode == 0 and imported
