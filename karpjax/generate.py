"""Continue a text, or make pictures, with a trained model.

    karpjax generate --workdir=runs/shakespeare --prompt="To be" --length=200
    karpjax generate --workdir=runs/shakespeare --prompt="To be" --temperature=0.8 --top_p=0.9
    karpjax generate --workdir=runs/flow --n=64 --label=3 --guidance=2 --to=samples.png

Of a text. --length: the most new tokens. --temperature: 1 draws from the model's own distribution,
0 takes the most probable token. --top_k, --top_p: draw from the k most probable tokens, from the
fewest whose probabilities sum to p.

Of pictures. --n: how many. --label: of which class; -1: of none. --steps: of the way from noise to
a picture. --guidance: above 1 they are more like their class than the data is, and less varied.
--to: the file, a table of them all as PNG.

--seed: other draws. --which=best: the best checkpoint, not the newest. --trust: a task file from
gs://... may run here. Also as python -m karpjax.generate.
"""
import inspect
import math

from etils import epath

from karpjax.core.errors import UserError
from karpjax.generation.pictures import table
from karpjax.run import cli, pictures
from karpjax.run.restore import restore

TEXT = dict(prompt="", length=200, temperature=1.0, top_k=0, top_p=1.0)
PICTURES = dict(n=16, label=-1, steps=50, guidance=1.0, to="")


def main(argv):
    options = cli.parse(argv, __doc__, workdir=str, **TEXT, **PICTURES, seed=0, which="newest",
                        trust=False)
    run = restore(options.workdir, which=options.which, trust=options.trust or None)
    method = run.task.methods.get("generate")
    takes = inspect.signature(method).parameters if method else {}
    if "prompt" in takes:
        check_given(options, TEXT, PICTURES, "prompt", "a run that continues texts")
        print(run.generate(options.prompt, seed=options.seed, length=options.length,
                           temperature=options.temperature, top_k=options.top_k,
                           top_p=options.top_p))
    elif "n" in takes:
        check_given(options, PICTURES, TEXT, "to", "a run that makes pictures")
        save_pictures(run, options)
    else:
        raise UserError(f"--workdir={options.workdir}: expected a run that continues texts or "
                        f"makes pictures, found the task {run.config.task!r}; train one, as in "
                        "configs/gpt_shakespeare.py or configs/flow_digits.py")


def check_given(options, own: dict, foreign: dict, required: str, what: str) -> None:
    """Raise a UserError for a flag of the other kind of run, and for none where one is needed."""
    if others := [name for name, default in foreign.items() if options[name] != default]:
        raise UserError(f"--{others[0]}: {options.workdir} is {what}, which takes "
                        f"{', '.join(f'--{name}' for name in own)}; leave it out")
    if not options[required]:
        raise UserError(f"--{required}=... is missing, which {what} needs")


def save_pictures(run, options) -> None:
    """Write a table of samples to --to."""
    path = epath.Path(options.to)
    if path.suffix != ".png":
        raise UserError(f"--to={options.to}: expected a file NAME.png")
    if not path.parent.is_dir():
        raise UserError(f"--to={options.to}: no folder {path.parent}; make it first")
    made = run.generate(options.n, None if options.label == -1 else options.label,
                        steps=options.steps, guidance=options.guidance, seed=options.seed)
    pictures.write(table(made, math.isqrt(len(made) - 1) + 1), path)
    print(f"{len(made)} pictures: {path}")


if __name__ == "__main__":
    cli.run(main)
