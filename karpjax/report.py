"""Report a run for a person to look at: draw curves.png again.

    karpjax report --workdir=DIR

It shows every metric of a run against its step. Also as python -m karpjax.report.
"""
from etils import epath

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.run import cli, metrics
from karpjax.run.pictures import curves


def main(argv):
    options = cli.parse(argv, __doc__, workdir=str)
    workdir = epath.Path(options.workdir).expanduser()
    rows = metrics.read_rows(workdir)
    if not rows:
        raise UserError(f"--workdir={options.workdir}: expected a run with rows in its "
                        f"{metrics.NAME}, found none; check the folder")
    curves(rows, workdir / "curves.png")
    cli.print_json({"rows": len(rows), "file": str(workdir / "curves.png")})


__getattr__ = old_names.attributes("report")

if __name__ == "__main__":
    cli.run(main)
