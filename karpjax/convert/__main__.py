"""Weights of another project into a karpjax checkpoint, or a run's weights into a file for other projects.

    python -m karpjax.convert --from=resnet50.pth --arch=resnet50 --to=DIR
    python -m karpjax.convert --config=configs/cifar10_resnet.py:20 --weights=resnet20.safetensors --workdir=DIR
    python -m karpjax.convert --workdir=DIR --to=FILE.safetensors [--which=best] [--names=timm]

The first leaves a workdir that holds weights and no data, for karpjax.restore and config.init_from: a published architecture
(karpjax/convert/archs.py) with its input's mean and std; --tokenizer=tokenizer.json for texts, --heads=N (and
--decoder_heads=N, of a MAE) for a width that is none of the published. The second leaves one as a run of that config would at
step 0, to evaluate, or to train on. The third writes the variables that evaluation sees (the moving average, where the run kept
one), under PyTorch's names.
Files: .safetensors, .npz; .pth, .pt and .th are read where PyTorch is installed.
"""
import jax

from karpjax import cli, convert, metrics
from karpjax.checkpoint import FOLDER, Checkpoints, absolute
from karpjax.convert import archs
from karpjax.convert.files import check_new
from karpjax.corpora import read_tokenizer
from karpjax.dispatch import default_dispatch
from karpjax.errors import UserError
from karpjax.experiment import assemble
from karpjax.init_from import start_from
from karpjax.loop import about, claim, saved_config
from karpjax.models.transformer import merged
from karpjax.restore import restore
from karpjax.sharding import make_mesh
from karpjax.task import split_variables


def published(file, arch: str, workdir, heads: int = 0, decoder_heads: int = 0, tokenizer: str = "") -> dict:
    """A checkpoint of a published architecture. The head of a file that has none, of a bare encoder, is drawn anew."""
    arrays = archs.by_our_names(arch, convert.read(file), file)
    config = archs.config_for(arch, arrays, heads, decoder_heads, read_tokenizer(tokenizer) if tokenizer else "")
    ours = sum("/" in name for name in arrays)  # theirs have dots
    bare = config.task == "classify" and "head/kernel" not in arrays and ours > len(arrays) / 2
    return into_workdir(config, None, file, workdir, anew=("head/.*",) if bare else ())


def into_workdir(config, record, weights, workdir, anew=()) -> dict:
    """A checkpoint at step 0 that holds the weights; nothing is written before all of them have found their place.

    anew    regular expressions on names of ours that the file lacks
    """
    folder = absolute(workdir) / FOLDER
    if folder.exists() and any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(f"{workdir} has checkpoints already; choose a new folder")
    x = assemble(config, record, make_mesh(devices=jax.devices()[:1]))
    if anew:
        state, _ = start_from(weights, x.fresh_state(), x.task, anew)
    else:
        variables = convert.to_karpjax(x.task.model, x.abstract.variables, convert.read(weights), weights)
        state = x.fresh_state()
        place = lambda new, old: jax.device_put(new, old.sharding)
        params, model_state = split_variables(jax.tree.map(place, variables, x.abstract.variables))
        state = state.replace(params=params, model_state=model_state, ema=jax.tree.map(place, variables["params"], state.ema)
                              if state.ema else state.ema)
    workdir = claim(workdir, x, saved_config(workdir))
    x.config.dispatch = x.config.dispatch or default_dispatch()
    saves = Checkpoints(workdir, x.config.keep, x.config.best)
    saves.save(0, state, about(x, seconds={}), None)
    saves.wait()
    saves.close()
    for name, text in x.source.files.items():
        metrics.write_whole(workdir / name, text)
    return {"step": 0, "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)), "workdir": str(workdir),
            "model": x.config.model.to_dict(), **({"anew": list(anew)} if anew else {})}


def into_file(workdir, to, which: str, names: str = "") -> dict:
    """PyTorch's names and layouts, from the newest or the best checkpoint."""
    check_new(to)
    run = restore(workdir, which=which)
    arrays = convert.to_pytorch(*merged(run.model, run.variables), names)
    convert.write(to, arrays)
    return {"step": run.step, "arrays": len(arrays), "file": to}


def main(argv) -> None:
    if any(argument.startswith("--from") for argument in argv):
        options = cli.parse(argv, __doc__, **{"from": str}, arch=str, to=str, heads=0, decoder_heads=0,
                            tokenizer="")
        cli.print_json(published(options["from"], options.arch, options.to, options.heads, options.decoder_heads,
                                 options.tokenizer))
    elif any(argument.startswith("--to") for argument in argv):
        options = cli.parse(argv, __doc__, workdir=str, to=str, which="newest", names="")
        cli.print_json(into_file(options.workdir, options.to, options.which, options.names))
    else:
        options = cli.parse(argv, __doc__, config=True, weights=str, workdir=str)
        cli.print_json(into_workdir(options.config, options.record, options.weights, options.workdir))


if __name__ == "__main__":
    cli.run(main)
