"""The notebooks run from top to bottom and print the numbers that they state.

They are stored without outputs.
"""
import json
import pathlib
import re
import sys

from command import python_path
import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return the name of a kernel that is this interpreter, whatever else the machine has."""
    folder = tmp_path / "jupyter" / "kernels" / "here"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
    for name, value in (("JUPYTER_PATH", tmp_path / "jupyter"),
                        ("JUPYTER_RUNTIME_DIR", tmp_path / "runtime"),
                        ("IPYTHONDIR", tmp_path / "ipython"), ("PYTHONPATH", python_path()),
                        ("JAX_PLATFORMS", "cpu")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("WORKDIR", raising=False)
    return "here"


def executed(name: str, tmp_path, kernel) -> tuple[str, list]:
    """Run a notebook in tmp_path and return (the text that it printed, its pictures)."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name=kernel,
                            resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code"
               for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    return text, [output for output in outputs if "image/png" in output.get("data", {})]


def number(pattern: str, text: str) -> float:
    return float(re.search(pattern, text)[1])


@pytest.mark.full
def test_restore_notebook(tmp_path, kernel):
    text, pictures = executed("restore", tmp_path, kernel)
    assert number(r"step 60: test accuracy ([\d.]+)", text) > 0.5
    assert number(r"own loop, step 100: loss ([\d.]+)", text) < 1.0
    assert "label_smoothing: 0.1" in text and re.search(r"head/kernel +\(128, 10\) +1,280", text)
    assert pictures and (tmp_path / "runs" / "notebook" / "checkpoints" / "60").is_dir()


@pytest.mark.full
def test_finetune_notebook(tmp_path, kernel):
    """A start on all digits learns to tell threes from eights."""
    text, pictures = executed("finetune", tmp_path, kernel)
    assert re.search(r"head/kernel \(\d+, 10\) -> \(\d+, 2\) reinitialised", text)
    assert "# cnn on " in text
    assert number(r"\ntest accuracy ([\d.]+)", text) > 0.8 and pictures


@pytest.mark.full
def test_new_loss_notebook(tmp_path, kernel):
    """The new loss learns, and one device and eight agree."""
    text, pictures = executed("new_loss", tmp_path, kernel)
    one, eight = re.search(r"loss at step 10: ([\d.]+) on one device, ([\d.]+) on eight",
                           text).groups()
    assert abs(float(one) - float(eight)) < 1e-4 and float(one) < 3.0
    assert pictures and "gamma 2.0" in text
    assert number(r"validation/accuracy': ([\d.]+)", text) > 0.5


@pytest.mark.full
def test_language_notebook(tmp_path, kernel):
    """It learns more than the frequencies of characters, and repeats a text of the same seed."""
    text, pictures = executed("language", tmp_path, kernel)
    assert number(r"([\d.]+) nats a character of this window", text) < 3.3
    assert "the same seed, the same text: True" in text and "none looks ahead: 0.0" in text
    assert "ROMEO:" in text and len(pictures) == 2


@pytest.mark.full
def test_detection_notebook(tmp_path, kernel):
    """It finds digits where they are, and the truth scores 1."""
    text, pictures = executed("detection", tmp_path, kernel)
    assert number(r"test/AP50 ([\d.]+)", text) > 0.1
    assert "moved by 0: AP 1.000, AP50 1.000" in text
    assert number(r"moved by 2: AP ([\d.]+)", text) < 0.8 and len(pictures) == 2


@pytest.mark.full
def test_generation_notebook(tmp_path, kernel):
    """Samples do not depend on their company, guidance makes them alike, and none is a copy."""
    text, pictures = executed("generation", tmp_path, kernel)
    assert number(r"alone differ by at most (\d+) of 255", text) <= 1
    one, four = (number(rf"guidance {w}: deviation of a pixel ([\d.]+)", text) for w in (1.0, 4.0))
    assert four < one and len(pictures) == 6
    assert abs(number(r"at time 0: ([\d.]+)", text) - 1) < 0.1
    assert number(r"samples ([\d.]+), validation", text) > 0.5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in cells if cell.cell_type == "code"
            and (cell.outputs or cell.execution_count)] == []
    assert len(cells) >= 8
    assert not re.search(r"/(tmp|home|root|Users|content|mnt|var|opt)/", path.read_text())


def test_every_notebook_is_run_here():
    assert {f"test_{path.stem}_notebook" for path in NOTEBOOKS} <= set(globals())
