"""The prose rule: a first sentence says in at most 25 words what a thing does, so that a newcomer
can skim.
"""
import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PUBLIC = [*sorted(ROOT.glob("karpjax/**/*.py")), *sorted(ROOT.glob("configs/*.py"))]
MOST, NEVER_FIRST = 25, ("of", "what", "where", "that", "those", "it")
CODE = re.compile(r"```.*?```", re.S)


def faults(sentence: str) -> list[str]:
    """Return the faults of a sentence: its length, a semicolon, a first word that names nothing."""
    text = re.sub(r"`[^`]*`", "code", sentence)
    words = [word for word in text.split() if re.search(r"\w", word)]
    first = re.sub(r"\W", "", words[0]).lower() if words else ""
    return [f"{len(words)} words"] * (len(words) > MOST) + ["a semicolon"] * (";" in text) + \
        [f"begins with {first!r}"] * (first in NEVER_FIRST)


def first_sentence(docstring: str) -> str:
    """Return the text up to the first full stop, colon before code or empty line."""
    paragraph = docstring.strip().split("\n\n")[0]
    return re.split(r"(?<=[.!?])\s|:\n|\n {4,}",
                    " ".join(paragraph.split("\n    ")[0].split()) + " ", maxsplit=1)[0]


def docstrings(file: pathlib.Path):
    """Yield (name, docstring) of a module and of what is public in it."""
    def walk(node, name):
        text = ast.get_docstring(node)
        if text:
            yield name, text
        for child in getattr(node, "body", []):
            if isinstance(child,
                          (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                if not isinstance(node, ast.FunctionDef):
                    yield from walk(child, f"{name}:{child.name}")
    yield from walk(ast.parse(file.read_text()), str(file.relative_to(ROOT)))


@pytest.mark.parametrize("folder", sorted({str(file.parent.relative_to(ROOT)) for file in PUBLIC}))
def test_first_sentences(folder):
    wrong = [f"{name}: {', '.join(found)}: {first_sentence(text)}" for file in PUBLIC
             if str(file.parent.relative_to(ROOT)) == folder for name, text in docstrings(file)
             if (found := faults(first_sentence(text)))]
    assert not wrong, "\n".join(wrong)


def readme_sentences() -> list[str]:
    """Return the sentences of README's paragraphs, list items and table cells, without code."""
    text = CODE.sub("", (ROOT / "README.md").read_text())
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.)\s)|\|", text)
    lines = (" ".join(block.split()).lstrip("#-* ") for block in blocks)
    return [sentence for line in lines if re.search(r"\w", line)
            for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*])", line)]


def test_readme():
    wrong = [f"{', '.join(found)}: {sentence}" for sentence in readme_sentences()
             if (found := faults(sentence))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("sentence",
                         ["Of the rows the first.", "Return one; keep the other.",
                          "word " * 26 + "."])
def test_mutants(sentence):
    assert faults(sentence)


def test_ruff():
    """F, B, E731, C901, D401 and D415, as pyproject.toml says."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
