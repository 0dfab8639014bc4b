"""Export a checkpoint as a pair of files to share.

    karpjax export --workdir=DIR --to=NAME.safetensors [--which=best]
    run = karpjax.restore("NAME.safetensors")

NAME.safetensors holds the variables that evaluation sees, NAME.json all the rest. The pair is
taken wherever a checkpoint is: restore, evaluate, config.init_from. Arrays have the names of the
parameter table and the values of the checkpoint, bit by bit. What training alone needs (the
optimizer, the data's position) stays behind. For other projects' names and layouts: karpjax
convert --to=FILE. --trust: a task file from gs://... may run here.
Also as python -m karpjax.export.
"""
from karpjax.core import old_names
from karpjax.run import cli
from karpjax.run.export import export


def main(argv) -> None:
    options = cli.parse(argv, __doc__, workdir=str, to=str, which="newest", trust=False)
    cli.print_json(export(options.workdir, options.to, options.which, options.trust or None))


__getattr__ = old_names.attributes("export")

if __name__ == "__main__":
    cli.run(main)
