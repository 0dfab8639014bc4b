"""Convert another project's weights to a checkpoint, or a run's to a file.

    karpjax convert --from=resnet50.pth --arch=resnet50 --to=DIR
    karpjax convert --config=cifar10_resnet:20 --weights=resnet20.safetensors --workdir=DIR
    karpjax convert --workdir=DIR --to=FILE.safetensors [--which=best] [--names=timm]

The first makes a workdir that holds weights and no data, for karpjax.restore and config.init_from:
of a published architecture (karpjax/weights/archs.py), with its input's mean and std. What arrays
do not say is read from config.json beside the file, and what is assumed is printed.

    --arch=NAME         resnet50, wide_resnet50_2, vit, vit_timm, vit_mae, bert, roberta, gpt2,
                        fcos_resnet50_fpn, fcn_resnet50, deeplabv3_resnet50, ...
    --to=DIR            the new workdir
    --heads=N           of a width that is none of the published (--decoder_heads=N, of a MAE)
    --tokenizer=JSON    for texts; left out, tokenizer.json beside the file (for marian: source.spm,
                        target.spm and vocab.json)
    --part=NAME         read what is under this name alone: state_dict_ema, teacher.backbone, ...
    --strict            end with an error if something must be assumed, chosen or left out

The second makes one as a run of that config would at step 0, to evaluate, or to train on:
--weights=FILE is the file, --workdir=DIR the new workdir, --part and --strict as above.

The third writes the variables that evaluation sees (the moving average, if the run kept one), under
PyTorch's names.

    --which=best        the best checkpoint, not the newest
    --names=PROJECT     whose names, if several projects have this architecture: timm, huggingface
    --trust             a task file from gs://... may run here

Files: .safetensors, .npz, and *.index.json, which lists several; .pth, .pt, .th and .bin are read
if PyTorch is installed. Also as python -m karpjax.convert.
"""
from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.run import cli
from karpjax.run.checkpoint import absolute
from karpjax.run.lock import Lock
from karpjax.run.published import into_file, into_workdir, published


CHOICES = dict(part="", strict=False)
PUBLISHED = {"from": str, "arch": str, "to": str, "heads": 0, "decoder_heads": 0, "tokenizer": "",
             **CHOICES}
INTO_WORKDIR = dict(weights=str, workdir=str, **CHOICES)
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
                                     options.decoder_heads, options.tokenizer, options.part,
                                     options.strict))
    elif "--config" in given:
        options = cli.parse(argv, __doc__, config=True, **INTO_WORKDIR)
        with Lock(absolute(options.workdir) / "lock", f"--workdir={options.workdir}"):
            cli.print_json(into_workdir(options.config, options.task_file, options.weights,
                                        options.workdir, part=options.part,
                                        strict=options.strict))
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
