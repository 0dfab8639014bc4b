"""For a person to look at: `curves.png`, every metric of a run against its step, and what a task shows of its examples.

    python -m karpjax.report --workdir=DIR      # draw the curves again
"""
from etils import epath

from karpjax.core import old_names
from karpjax.run import metrics
from karpjax.run.pictures import curves


def main(argv):
    from karpjax.run import cli
    options = cli.parse(argv, __doc__, workdir=str)
    rows = metrics.read_rows(options.workdir)
    if not rows:
        raise cli.UserError(f"--workdir={options.workdir}: no {metrics.NAME} with rows in it")
    curves(rows, epath.Path(options.workdir) / "curves.png")


__getattr__ = old_names.attributes("report")

if __name__ == "__main__":
    from karpjax.run import cli
    cli.run(main)
