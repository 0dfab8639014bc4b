"""Where jax looks for devices: libtpu without a TPU, JAX_PLATFORMS without its device."""
import glob
import importlib.util
import os
import subprocess
import sys
import types

from command import ROOT, command, python_path, refused
import pytest

from karpjax.core.errors import UserError
from karpjax.run import chips

CHECKPOINT = ROOT / "tests" / "data" / "checkpoint_v2"


@pytest.mark.parametrize("installed, files, chosen, expected", [
    (["libtpu"], [], None, ["cpu"]),
    (["libtpu"], ["/dev/accel0"], None, []),
    (["libtpu"], ["/dev/vfio/0"], None, []),
    (["libtpu", "jax_plugins"], [], None, []),  # CUDA's: a GPU need not be a file in /dev
    (["libtpu"], [], "tpu,cpu", []),
    ([], [], None, [])], ids=["alone", "v4", "v5e", "plugin", "chosen", "none"])
def test_an_absent_tpu_is_skipped_and_nothing_else(monkeypatch, installed, files, chosen, expected):
    updates = []
    config = types.SimpleNamespace(jax_platforms=chosen,
                                   update=lambda name, value: updates.append(value))
    monkeypatch.setattr(chips, "jax", types.SimpleNamespace(config=config))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(glob, "glob", lambda pattern: [
        file for file in files if file.startswith(pattern.removesuffix("*"))])
    chips.skip_absent_tpu()
    assert updates == expected


@pytest.mark.full
def test_restore_prints_nothing_of_a_tpu():
    """In a user's own Python, with libtpu or without, jax looks for no TPU that is not here."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    program = f"import karpjax; print(karpjax.restore({str(CHECKPOINT)!r}).step)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**env, "PYTHONPATH": python_path()}, timeout=300)
    assert (done.stdout, done.stderr) == ("300\n", "")


@pytest.mark.parametrize("error, reason", [
    (AssertionError(), "nor a plugin that finds one"),
    (RuntimeError("Unable to initialize backend 'cuda': no driver (set JAX_PLATFORMS='' to automa"),
     "Unable to initialize backend 'cuda': no driver")], ids=["skipped", "failed"])
def test_a_platform_without_its_device(monkeypatch, error, reason):
    def devices():
        raise error
    config = types.SimpleNamespace(jax_platforms="cuda")
    monkeypatch.setattr(chips, "jax", types.SimpleNamespace(config=config, devices=devices))
    with pytest.raises(UserError) as line:
        chips.check_platform()
    assert str(line.value) == (f"JAX_PLATFORMS=cuda: jax has no such device here ({reason}); leave "
                               "it out, or use JAX_PLATFORMS=cpu")


def test_commands_name_the_platform():
    """jax's own error is a traceback, also if the platform is no one's."""
    set_platform = "import os; os.environ['JAX_PLATFORMS'] = 'rocm'"
    refused(command("evaluate", f"--workdir={CHECKPOINT}", "--split=test", real=True,
                    before=set_platform), "JAX_PLATFORMS=rocm: jax has no such device here",
            "leave it out")
