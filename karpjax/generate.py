"""Continue a text with a trained language model.

    karpjax generate --workdir=runs/shakespeare --prompt="To be" --length=200
    karpjax generate --workdir=runs/shakespeare --prompt="To be" --temperature=0.8 --top_p=0.9

--length: the most new tokens. --temperature: 1 draws from the model's own distribution, 0 takes the
most probable token. --top_k, --top_p: draw from the k most probable tokens, from the fewest whose
probabilities sum to p. --seed: other draws. --which=best: the best checkpoint, not the newest.
--trust: a task file from gs://... may run here. Also as python -m karpjax.generate.
"""
from karpjax.core.errors import UserError
from karpjax.run import cli
from karpjax.run.restore import restore


def main(argv):
    options = cli.parse(argv, __doc__, workdir=str, prompt=str, length=200, temperature=1.0,
                        top_k=0, top_p=1.0, seed=0, which="newest", trust=False)
    run = restore(options.workdir, which=options.which, trust=options.trust or None)
    if "generate" not in run.task.methods:
        raise UserError(f"--workdir={options.workdir}: expected a run that continues texts, "
                        f"found the task {run.config.task!r}; train one, as in "
                        "configs/gpt_shakespeare.py")
    print(run.generate(options.prompt, length=options.length, temperature=options.temperature,
                       top_k=options.top_k, top_p=options.top_p, seed=options.seed))


if __name__ == "__main__":
    cli.run(main)
