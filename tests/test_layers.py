"""The layers of the house: an arrow of imports never points up, and there is no circle
(pyproject.toml)."""
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
UP, CIRCLES = "An arrow never points up", "No circles"


def contracts(folder) -> dict[str, str]:
    """Return {contract: "KEPT" or "BROKEN"} of the karpjax in a folder, by import-linter."""
    done = subprocess.run([sys.executable, "-c", LINT, "--no-cache", "--no-logo"], cwd=folder,
                          env={**os.environ, "PYTHONPATH": str(folder)},
                          capture_output=True, text=True)
    verdicts = {name: line.split()[-1] for line in done.stdout.splitlines()
                for name in (UP, CIRCLES) if line.startswith(name) and line.split()[-1].isupper()}
    assert len(verdicts) == 2, done.stdout + done.stderr
    assert (done.returncode == 0) == (set(verdicts.values()) == {"KEPT"})
    return verdicts


def test_the_contracts_are_kept():
    assert contracts(ROOT) == {UP: "KEPT", CIRCLES: "KEPT"}


@pytest.mark.parametrize("file, arrow, broken", [
    ("core/errors.py", "from karpjax.envs import protocol", {UP, CIRCLES}),  # core is below all
    ("envs/spaces.py", "from karpjax import knn", {UP, CIRCLES}),            # a command is imported
    ("core/errors.py", "from karpjax.core import step", {CIRCLES}),          # step imports errors
], ids=["up", "a command", "a circle"])
def test_mutants(file, arrow, broken, tmp_path):
    """A copy with one arrow more is refused."""
    shutil.copytree(ROOT / "karpjax", tmp_path / "karpjax",
                    ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "karpjax" / file, "a") as text:
        text.write(f"\n{arrow}\n")
    verdicts = contracts(tmp_path)
    assert {name for name, verdict in verdicts.items() if verdict == "BROKEN"} == broken
