"""karpjax COMMAND --FLAGS: the commands by name, as `python -m karpjax.COMMAND`.

    karpjax train --config=configs/digits_cnn.py --workdir=runs/digits
"""
import ast
import pathlib
import runpy
import sys

from karpjax.core.errors import UserError, did_you_mean

HERE = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
    """Return {command: first line of its docstring}, read without importing any of them."""
    files = {file.stem: file for file in sorted(HERE.glob("[a-z]*.py"))}
    files |= {file.parent.name: file for file in sorted(HERE.glob("*/__main__.py"))}
    files["games.record"] = HERE / "games" / "record.py"
    lines = {name: (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0] for name, file in files.items()}
    return dict(sorted(lines.items()))


def main() -> None:
    known, (name, *rest) = commands(), sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("karpjax COMMAND --FLAGS; karpjax COMMAND --help says more\n")
        print("\n".join(f"  {command:<14}{line}" for command, line in known.items()))
        return
    if name not in known:
        print(f"karpjax: error: {UserError(f'no command {name!r}{did_you_mean(name, known)}')}", file=sys.stderr)
        sys.exit(UserError.code)
    sys.argv = [f"karpjax {name}", *rest]
    module = f"karpjax.{name}.__main__" if (HERE / name / "__main__.py").exists() else f"karpjax.{name}"
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
