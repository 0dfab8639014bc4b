"""Measure an encoder's features by their nearest neighbours, without training.

    karpjax knn --workdir=runs/mae --name=cifar10 --train='train[:90%]' --on='train[90%:]' [--k=20]

Each row of `on` gets the label that the k rows of `train` with the most similar features (cosine)
vote for. A vote weighs exp(similarity / 0.07) (Wu et al. 2018, section 3.4). Printed is the
accuracy. `name` is a set with labels. Text must be prepared with the run's own tokenizer.
Features: what the model calls "pooled": the mean over the last layer's patches or tokens, or a
ViT's class token. --trust: a task file from gs://... may run here. Also as python -m karpjax.knn.
"""
from karpjax.core import old_names
from karpjax.explain.features import knn
from karpjax.run import cli


def main(argv):
    options = cli.parse(argv, __doc__, workdir=str, name=str, train=str, on=str, k=20,
                        trust=False)
    cli.print_json(knn(options.workdir, options.name, options.train, options.on, options.k,
                       options.trust or None))


__getattr__ = old_names.attributes("knn")

if __name__ == "__main__":
    cli.run(main)
