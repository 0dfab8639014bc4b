"""A trap for TensorFlow: a package of that name that leaves a mark when it is imported, and fails.

It is on the path of every test's process, and of every process that a test starts.
"""
import os
import pathlib
import sys

PACKAGE = """
open({mark!r}, "w").close()
raise ImportError("TensorFlow is trapped: see tests/trap.py")
"""


def set_up(folder: pathlib.Path) -> None:
    """Make the package in `folder` and put it first on the path, here and for processes to come."""
    package = folder / "tensorflow"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(PACKAGE.format(mark=str(mark(folder))))
    (package / "io.py").write_text("")
    sys.path.insert(0, str(folder))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None,
                                                      [str(folder), *(p for p in paths
                                                                      if p != str(folder))]))


def mark(folder: pathlib.Path) -> pathlib.Path:
    """Return the file that an import leaves."""
    return folder / "imported"


def sprung() -> bool:
    """Return whether a process of this session imported TensorFlow since the last call."""
    file = mark(pathlib.Path(os.environ["KARPJAX_TEST_TRAP"]))
    if not file.exists():
        return False
    file.unlink()
    return True
