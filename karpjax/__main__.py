"""Run one of karpjax's commands by its name.

    karpjax train --config=configs/digits_cnn.py --workdir=runs/digits
    python -m karpjax.train --config=...                                  # the same

`karpjax --help` lists them; `karpjax COMMAND --help` says what a command takes.
"""
import ast
import pathlib
import runpy
import sys

from karpjax.core.errors import UserError, did_you_mean

HERE = pathlib.Path(__file__).parent
USAGE = "karpjax COMMAND --FLAG=VALUE ...; karpjax COMMAND --help says more"


def command_files() -> dict[str, pathlib.Path]:
    """Return {command: file}: a file at the top of the package, or a folder's __main__.py."""
    files = {file.stem: file for file in HERE.glob("[a-z]*.py")}
    files |= {file.parent.name: file for file in HERE.glob("*/__main__.py")}
    files["games.record"] = HERE / "games" / "record.py"
    return dict(sorted(files.items()))


def first_line(file: pathlib.Path) -> str:
    """Return the first line of a file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]


def main() -> None:
    files = command_files()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{USAGE}\n")
        for name, file in files.items():
            print(f"  {name:<14}{first_line(file)}")
        return
    name, *rest = arguments
    if name not in files:
        print(f"karpjax: error: no command {name!r}{did_you_mean(name, files)}", file=sys.stderr)
        sys.exit(UserError.code)
    sys.argv = [f"karpjax {name}", *rest]
    is_folder = files[name].name == "__main__.py"
    runpy.run_module(f"karpjax.{name}.__main__" if is_folder else f"karpjax.{name}",
                     run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
