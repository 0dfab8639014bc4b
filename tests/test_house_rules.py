"""README and the house rules hold: sizes, texts, commands, and studies that still run."""
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

from command import python_path
from guarantees.registry import TASKS
import pytest

from karpjax.__main__ import command_files

ROOT = pathlib.Path(__file__).parent.parent
SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
README = (ROOT / "README.md").read_text()
READMES = [*sorted(ROOT.glob("*.md")), *(
    file for folder in ("karpjax", "configs", "experiments", "tests")
    for file in sorted((ROOT / folder).glob("**/README.md")))]
PICTURES = 300 * 1024                       # bytes of README's pictures, all together
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def run(arguments, **env):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": python_path(), **env})


def lines(path) -> int:
    return len((ROOT / path).read_text().splitlines())


def stated_lines(text: str, what: str) -> set[str]:
    """Return every number N of "N lines" within a table row's length of a name in a text."""
    near = (text[max(0, at.start() - 120):at.end() + 120] for at in re.finditer(what, text))
    return {number for part in near for number in re.findall(r"([\d,]+) lines", part)}


def test_the_core_is_small():
    """README states the line count of karpjax/core/, which a newcomer reads in an afternoon."""
    count = sum(lines(file) for file in FILES if re.fullmatch(r"karpjax/core/\w+\.py", file))
    assert count < 2000
    assert f"{count:,}" in stated_lines(README, "karpjax/core"), f"karpjax/core has {count:,} lines"


# The first prefix that a file has sets its limit.
LIMITS = {"karpjax/models/": 330, "karpjax/tasks/": 165, "configs/": 105, "": 350}
COLUMNS = 100


def too_large(file: str, text: str) -> list[str]:
    """Return the limits that a Python file exceeds."""
    limit = next(limit for prefix, limit in LIMITS.items() if file.startswith(prefix))
    rows = text.splitlines()
    wide = [i for i, row in enumerate(rows, 1) if len(row) > COLUMNS]
    return [f"{file}: {len(rows)} lines, at most {limit}"] * (len(rows) > limit) + \
        [f"{file}: over {COLUMNS} columns in lines {wide}"] * bool(wide)


def test_files_stay_readable():
    """Rule 1 of the house limits lines to 100 columns and files to a size that one reads."""
    python = [file for file in FILES if file.endswith(".py") and (ROOT / file).exists()]
    faults = [fault for file in python for fault in too_large(file, (ROOT / file).read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("file, text", [
    ("karpjax/tasks/x.py", "x\n" * 166), ("karpjax/models/layers/x.py", "x\n" * 331),
    ("configs/x.py", "x\n" * 106), ("tests/test_x.py", "x\n" * 351), ("setup.py", "x" * 101)])
def test_mutant_files_too_large(file, text):
    assert too_large(file, text)
    assert not too_large(file, text[:100])


def test_readme_shows_a_whole_task():
    """README's first Python block is configs/poly.py, and no longer than a page."""
    text = blocks("python")[0]
    assert text == (ROOT / "configs" / "poly.py").read_text()
    code = [line for line in text.splitlines() if line.strip()]
    assert len(code) <= 30, len(code)


@pytest.mark.full
def test_readme_task_trains_as_readme_says(tmp_path):
    """Exactly that text trains by one command on 8 simulated devices."""
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    done = run(["-m", "karpjax.train", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run",
                "--devices=8", "--config.steps=60"])
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["device"]["count"] == 8 and summary["test/accuracy"] > 0.8


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_readmes_name_what_exists(file):
    """Every link, file and command of a README is there, and its Python blocks are Python."""
    wrong = missing(file.read_text(), file.parent)
    assert not wrong, "\n".join(wrong)


def missing(text: str, folder: pathlib.Path) -> list[str]:
    """Return the links, files and commands of a README that are not there."""
    wrong = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text)
             if "://" not in link and not (folder / link).exists()]
    named = re.findall(r"`((?:configs|experiments|tests|notebooks|karpjax)/[\w/]+\.\w+)`", text)
    wrong += [path for path in named if not (ROOT / path).exists()]
    names = re.findall(r"python -m karpjax\.([a-z]\w*(?:\.\w+)?)", text) \
        + re.findall(r"^karpjax ([a-z.]+) --", text, re.M) \
        + re.findall(r"`karpjax ([a-z.]+)[ `]", text)
    wrong += [f"karpjax {name}" for name in set(names) - set(command_files())]
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        compile(block, "README.md", "exec")
    return wrong


@pytest.mark.parametrize("text", ["[a](nowhere.py)", "`configs/nowhere.py`",
                                  "python -m karpjax.nowhere --x", "karpjax nowhere --x",
                                  "`karpjax nowhere`"])
def test_mutant_readme(text):
    assert missing(text, ROOT)


def test_readmes_blocks_are_the_two_commands():
    """CI and a newcomer run the first two shell blocks: install and train, install and test."""
    train, test = blocks("sh")[:2]
    assert "pip install -q -e .\n" in train and "train --config=configs/digits_cnn.py" in train
    assert 'pip install -q --no-compile -e ".[test]"\n' in test
    assert test.endswith("python -m pytest tests\n")


def test_readmes_pictures_are_small():
    links = [ROOT / link for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)]
    assert links and sum(link.stat().st_size for link in links) <= PICTURES


def test_every_task_is_in_the_registry():
    """A task that is not under the guarantees is not done."""
    registered = {(ROOT / "configs" / entry.file).read_text() for entry in TASKS.values()}
    for path in (ROOT / "karpjax" / "tasks").glob("[a-z]*.py"):
        if "\ndef build(" not in path.read_text():
            continue  # shared by several tasks, as agent.py is
        assert any(f'task="{path.stem}"' in text for text in registered), path.stem


def test_no_machine_in_the_tree():
    for file in FILES:
        binary = file.endswith((".npz", ".png")) or "checkpoint_v1" in file
        if not binary and (ROOT / file).exists():
            text = (ROOT / file).read_text(errors="ignore")
            assert not re.search(r"(?<![\w.-])/(work|root|home|farm)/", text), file


STUDIES = {
    "experiments/pods/save_stall.py": ["--quick"],
    "experiments/pods/scaling.py": ["--quick"],
    "experiments/toys/run.py": ["--only=poly", "--seeds=1", "--steps=4"],
    "experiments/image_sets/run.py": ["--quick", "--only=fashion_mnist", "--seeds=2"],
    "experiments/fashion_mnist/run.py": ["--quick"],
    "experiments/labelled_texts/run.py": ["--quick"],
    "experiments/input_pipeline/run.py": ["--quick"],
    "experiments/published_weights/run.py": ["--only=resnet20", "--limit=256"],
    "experiments/speed/run.py": ["--quick"],
    "experiments/gpu/run.py": ["--quick"],
    "experiments/gpu/embedding.py": ["--quick"],
    "experiments/bert_curve/run.py": ["--quick"],
    "experiments/imdb/run.py": ["--quick", "--size=tiny", "--shares", "10"],
    "experiments/shakespeare/run.py": ["--quick", "--parts", "floor", "peer", "twenty"],
    "experiments/multi30k/run.py": ["--quick", "--parts", "floor", "short", "peer"],
    "experiments/detection/run.py": ["--quick"],
    "experiments/segmentation/run.py": ["--quick"],
    "experiments/mae/run.py": ["--quick"],
    "experiments/pictures/run.py": ["--quick"],
    "experiments/masked_ablation/run.py": ["--quick"],
    "experiments/finetune/run.py": ["--quick"],
    "experiments/policy_gradients/run.py": ["--quick", "--only=a2c_cartpole,ppo_pendulum",
                                            "--seeds=1"],
    "experiments/policy_gradients/choose.py": ["ppo_acrobot", "discount=0.9", "--quick",
                                               "--seeds", "0", "1"],
    "experiments/policy_gradients/optimum.py": ["--quick"],
    "experiments/policy_speed/run.py": ["--quick"],
    "experiments/games/run.py": ["--quick"],
    "experiments/games/speed.py": ["--quick"],
    "experiments/generation/run.py": ["--quick"],
    "experiments/flow/run.py": ["--quick"],
    "experiments/highway/run.py": ["--quick"],
    "experiments/brax/run.py": ["--quick", "--robots", "reacher"],
    "experiments/start/run.py": ["--quick"],
    "experiments/start/readme.py": ["--quick"],
    "experiments/faults/bits.py": ["--quick"],
    "experiments/faults/inject.py": ["--quick"],
    "experiments/faults/workdir_bits.py": ["--quick"],
    "experiments/faults/two_at_once.py": ["--quick"],
    "experiments/faults/memory.py": ["--quick"],
    "experiments/kill_resume/run.py": ["--kills=1", "--steps=6", "--tasks=poly"],
}
NEEDS = {  # module, and the package it comes in
    "experiments/pods/scaling.py": ("libtpu", "libtpu"),
    "experiments/highway/run.py": ("highway_env", "highway-env"),
    "experiments/brax/run.py": ("brax", "brax"),
}
QUICK = ("experiments/toys/run.py",)  # in the default run
READ_SHARED_DATA = ("experiments/published_weights/run.py", "experiments/imdb/run.py",
                    "experiments/finetune/run.py", "experiments/labelled_texts/run.py",
                    "experiments/multi30k/run.py", "experiments/detection/run.py",
                    "experiments/segmentation/run.py")


@pytest.mark.parametrize("script", [script if script in QUICK
                                    else pytest.param(script, marks=pytest.mark.full)
                                    for script in STUDIES])
def test_studies_still_run(script, tmp_path):
    log = tmp_path / "log.jsonl"
    if script in READ_SHARED_DATA and not SHARED.exists():
        pytest.skip("KARPJAX_TEST_DATA: no shared data here")
    if script in NEEDS and importlib.util.find_spec(NEEDS[script][0]) is None:
        pytest.skip(f"{NEEDS[script][1]} is not installed")
    own = {"XLA_FLAGS": ""} if "pods" in script else {}  # libtpu does not know the CPU's
    if script == "experiments/kill_resume/run.py":
        own["TFDS_DATA_DIR"] = ""               # as at a user's: the study makes its own sets
    done = run([script, *STUDIES[script], f"--log={log}"], **own)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) >= 2


def test_every_study_is_run_here():
    """A new study joins by being listed (the overhead study has its own test)."""
    scripts = {f for f in FILES if re.fullmatch(r"experiments/\w+/run\.py", f)}
    assert scripts <= set(STUDIES) | {"experiments/overhead/run.py"}
