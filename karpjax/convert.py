"""Convert another project's weights to a checkpoint, or a run's to a file.

    karpjax convert --from=resnet50.pth --arch=resnet50 --to=DIR
    karpjax convert --config=cifar10_resnet:20 --weights=resnet20.safetensors --workdir=DIR
    karpjax convert --workdir=DIR --to=FILE.safetensors [--which=best] [--names=timm]

The first makes a workdir that holds weights and no data, for karpjax.restore and config.init_from:
a published architecture (karpjax/weights/archs.py) with its input's mean and std. For texts add
--tokenizer=tokenizer.json. For a width that is none of the published add --heads=N (and
--decoder_heads=N, of a MAE).

The second makes one as a run of that config would at step 0, to evaluate, or to train on.

The third writes the variables that evaluation sees (the moving average, if the run kept one), under
PyTorch's names. --trust: a task file from gs://... may run here.

Files: .safetensors, .npz; .pth, .pt and .th are read if PyTorch is installed.
Also as python -m karpjax.convert.
"""
from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.run import cli
from karpjax.run.checkpoint import absolute
from karpjax.run.lock import Lock
from karpjax.run.published import into_file, into_workdir, published


PUBLISHED = {"from": str, "arch": str, "to": str, "heads": 0, "decoder_heads": 0, "tokenizer": ""}
INTO_WORKDIR = dict(weights=str, workdir=str)
INTO_FILE = dict(workdir=str, to=str, which="newest", names="", trust=False)


def main(argv) -> None:
    given = {argument.split("=")[0] for argument in argv}
    if cli.HELP & given:
        cli.print_forms(__doc__, {"with --from": (False, PUBLISHED),
                                  "with --config": (True, INTO_WORKDIR),
                                  "else": (False, INTO_FILE)})
    elif "--from" in given:
        options = cli.parse(argv, __doc__, **PUBLISHED)
        with Lock(absolute(options.to) / "lock", f"--to={options.to}"):
            cli.print_json(published(options["from"], options.arch, options.to, options.heads,
                                     options.decoder_heads, options.tokenizer))
    elif "--config" in given:
        options = cli.parse(argv, __doc__, config=True, **INTO_WORKDIR)
        with Lock(absolute(options.workdir) / "lock", f"--workdir={options.workdir}"):
            cli.print_json(into_workdir(options.config, options.task_file, options.weights,
                                        options.workdir))
    elif "--to" in given:
        options = cli.parse(argv, __doc__, **INTO_FILE)
        cli.print_json(into_file(options.workdir, options.to, options.which, options.names,
                                 options.trust or None))
    else:
        raise UserError("expected --from=FILE, --config=FILE or --to=FILE, found "
                        f"{' '.join(argv) or 'nothing'}; see karpjax convert --help")


__getattr__ = old_names.attributes("convert")
__path__ = []  # version 1 had a package here: karpjax.convert.archs is found by old_names

if __name__ == "__main__":
    cli.run(main)
