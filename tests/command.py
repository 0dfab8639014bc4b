"""Running karpjax's commands as a user does, and what a refusal must look like."""
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import warnings

from guarantees.forks import Fork

ROOT = pathlib.Path(__file__).parent.parent
SEEN = set()  # commands that have been run
TINY = (ROOT / "tests" / "tiny.py").read_text()
# a network that other projects have too
RESNET = """
import karpjax


def get_config():
    return karpjax.config(task="classify", model=dict(name="resnet_cifar", depth=8), best="",
                          optimizer=dict(name="sgd", learning_rate=0.1),
                          data=dict(name="digits", train="train", test="test", batch_size=64,
                                    mean=[4.88], std=[6.02]))
"""


def python_path(*folders) -> str:
    """Return a PYTHONPATH of the checkout, these folders and what is there already: the trap of
    trap.py.
    """
    return os.pathsep.join(map(str, filter(None, [ROOT, *folders, os.environ.get("PYTHONPATH")])))


def command(name: str, *flags: str, cwd=ROOT, path="", before: str = "", timeout: int = 600,
            optimised: bool = False, real: bool | None = None) -> subprocess.CompletedProcess:
    """Run python -m karpjax.NAME FLAGS on one CPU device.

    path       a folder that is also on PYTHONPATH
    before     Python to run first, in the same process: faults to inject
    optimised  programs as a user has them: longer to compile, for runs of many steps
    real       a Python process of its own, not a fork of one that has imported karpjax, which
               takes seconds less. By default the first of each command is one
    """
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": python_path(path)}
    if optimised:
        env.pop("XLA_FLAGS")
    if real is None:
        real = name not in SEEN
    SEEN.add(name)
    if not real:
        with tempfile.NamedTemporaryFile(mode="r") as stderr:
            fork = Fork(as_a_command, [name, before, *flags], env, cwd, stderr.name)
            stdout, _ = fork.communicate(timeout)
            return subprocess.CompletedProcess([name, *flags], fork.returncode, stdout,
                                               stderr.read())
    start = ["-m", f"karpjax.{name}"]
    if before:
        run = f"runpy.run_module('karpjax.{name}', run_name='__main__', alter_sys=True)"
        start = ["-c", f"{before}\nimport runpy\n{run}"]
    return subprocess.run([sys.executable, *start, *flags], cwd=cwd, env=env, timeout=timeout,
                          capture_output=True, text=True)


def as_a_command(argv: list) -> None:
    """Do what python -m karpjax.NAME FLAGS does, in a fork; argv is [NAME, Python to run first,
    *FLAGS].
    """
    name, before, *flags = argv
    sys.argv = ["karpjax", *flags]
    sys.path.insert(0, "")
    exec(compile(before, "before", "exec"), {"__name__": "__main__"})
    with warnings.catch_warnings():
        # the server has imported the module already
        warnings.simplefilter("ignore", RuntimeWarning)
        runpy.run_module(f"karpjax.{name}", run_name="__main__", alter_sys=True)


def done(result) -> str:
    said = f"{result.stdout[-1000:]}\n{result.stderr[-3000:]}"
    assert result.returncode == 0, f"exit code {result.returncode}:\n{said}"
    return result.stdout


def refused(result, *words: str) -> str:
    """Exit code 2 and one line that says all of `words`; no traceback anywhere."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, f"exit code {result.returncode}:\n{result.stderr[-3000:]}"
    assert lines[-1].startswith("karpjax: error: "), lines[-1]
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    missing = [word for word in words if word not in lines[-1]]
    assert not missing, f"{missing} not in: {lines[-1]}"
    return lines[-1]


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """Replace parts of a file's text. Each must be there once, or the test tests nothing."""
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text
