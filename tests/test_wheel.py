"""What `pip install` gives: the wheel has the package, the configs and the command, and trains without the checkout."""
import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

from command import ROOT
import pytest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Return a wheel of the files that git tracks: build leaves nothing in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "karpjax", "configs", "setup.py", "pyproject.toml", "README.md"], cwd=ROOT,
                           capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("outside git")
    for file in filter(lambda file: (ROOT / file).exists(), files):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source],
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    file, = out.glob("karpjax-*.whl")
    return file


@pytest.mark.full
def test_what_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"karpjax", wheel.name.split("-py3")[0] + ".dist-info"}           # no tests, no experiments
    ours = {f"karpjax/configs/{file.name}" for file in (ROOT / "configs").glob("*.py")}
    assert ours <= set(names) and {"karpjax/__main__.py", "karpjax/launch/__main__.py"} <= set(names)
    assert any(name.startswith("karpjax/data/") for name in names)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """Return the bin folder of an environment with the wheel, and this interpreter's packages behind it."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    site = pathlib.Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    pip = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--prefix", folder,
                          "--ignore-installed", wheel], capture_output=True, text=True)
    assert pip.returncode == 0, pip.stderr[-3000:]
    # Read as plain folders, not as sites: a .pth of theirs may put a checkout of karpjax on the path.
    behind = [path for path in sys.path if path.endswith("site-packages")]
    (site / "behind.pth").write_text("\n".join(behind) + "\n")
    script = folder / "bin" / "karpjax"
    text = script.read_text().split("\n", 1)
    script.write_text(f"#!{folder}/bin/python\n{text[1]}")                           # pip wrote its own interpreter there
    return folder / "bin"


def run(installed, *arguments, cwd):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    return subprocess.run([installed / "karpjax", *arguments], cwd=cwd, env={**env, "JAX_PLATFORMS": "cpu"}, timeout=600,
                          capture_output=True, text=True)


@pytest.mark.full
def test_it_trains_in_an_empty_folder(installed, tmp_path):
    listed = run(installed, "--help", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert {"train", "evaluate", "launch"} <= {line.split()[0] for line in listed.stdout.splitlines() if line[:2] == "  "}
    trained = run(installed, "train", "--config=digits_cnn", "--config.steps=60", "--config.model.width=4", "--workdir=run",
                  cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 60
    where = subprocess.run([installed / "python", "-c", "import karpjax; print(karpjax.__file__)"], cwd=tmp_path, text=True,
                           env={**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}, capture_output=True)
    assert where.stdout.startswith(str(installed.parent)), where.stdout + where.stderr   # not the checkout's
