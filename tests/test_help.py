"""The help of every command: each flag that it reads is listed, and has a word in the text."""
import importlib
import re

import pytest

from karpjax.__main__ import command_files
from karpjax.run import cli

LOADED = {"config", "task_file"}  # by cli.parse, from --config=FILE


def help_of(command: str, capsys) -> str:
    """Return what `karpjax COMMAND --help` prints, without a process of its own."""
    file = command_files()[command]
    part = ".__main__" if file.name == "__main__.py" else ""
    try:
        importlib.import_module(f"karpjax.{command}{part}").main(["--help"])
    except SystemExit as end:
        assert not end.code
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    """Return the flags of help's list."""
    return set(re.findall(r"^  --([\w-]+)", text.split("\nflags:\n")[1], re.M)) - {"config"}


def unexplained(text: str) -> set[str]:
    """Return the flags of help's list that the text before it never mentions."""
    prose, _, _ = text.partition("\nflags:\n")
    return {flag for flag in flags_in(text) if not re.search(rf"--{flag}\b", prose)}


def read_by(command: str) -> set[str]:
    """Return the flags that a command's code reads from its options."""
    file = command_files()[command]
    files = file.parent.glob("*.py") if file.name == "__main__.py" else [file]
    found = re.findall(r"\boptions(?:\.(\w+)|\[\"([\w-]+)\"\])",
                       "\n".join(each.read_text() for each in files))
    return {attribute or key for attribute, key in found} - LOADED


@pytest.mark.parametrize("command", command_files())
def test_every_flag_stands_in_the_help(command, capsys):
    text = help_of(command, capsys)
    assert flags_in(text), text
    assert read_by(command) <= flags_in(text)
    assert not unexplained(text)


def test_the_flags_of_convert(capsys):
    """All three forms are there: the first once had the flags of one."""
    flags = flags_in(help_of("convert", capsys))
    assert flags == {"from", "arch", "to", "heads", "decoder_heads", "tokenizer", "part", "strict",
                     "weights", "workdir", "which", "names", "trust"}


def test_a_flag_that_nobody_explains():
    """The mutants: a text that leaves a flag out, or names only a longer one."""
    flags = cli.flags_help(False, dict(to=str, part=""))
    assert unexplained(f"Convert.\n\n  --to=FILE --partial\n\nflags:\n{flags}") == {"part"}
    assert unexplained(f"Convert.\n\n  --to=FILE --part\n\nflags:\n{flags}") == set()
