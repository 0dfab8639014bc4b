"""The three toy families over five fixed seeds: the numbers of README's table of results.

    python experiments/toys/run.py                            # about 12 minutes on 2 cores
    python experiments/toys/run.py --only=digits_cnn --seeds=1 --steps=20 --log=/tmp/quick.jsonl

results.jsonl gets a line for each seed: the run's own summary (final metrics, seconds, versions,
machine). Then the mean and the standard deviation of every metric. The hyper-parameters in configs/
were chosen on validation splits. The test split is evaluated once, at the end of each run.
"""
import argparse
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.runs import config_of, trained  # noqa: E402
from karpjax.sources.text import text, unigram_entropy  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

CONFIGS = ("digits_cnn", "poly", "mlm_tiny", "reinforce_cartpole")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(CONFIGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="0: the config's own")
    parser.add_argument("--log", default=str(HERE / "results.jsonl"))
    options = parser.parse_args()
    names, log_file = options.only.split(","), pathlib.Path(options.log)
    kept = [line for line in log_file.read_text().splitlines()
            if json.loads(line)["config"] not in names] \
        if log_file.exists() else []  # rows of configs that are not run now stay
    with open(log_file, "w") as file:
        file.writelines(line + "\n" for line in kept)

        def log(row):
            file.write(json.dumps(row) + "\n")
            file.flush()
        for name in names:
            summaries = []
            for seed in range(options.seeds):
                steps = {"steps": options.steps} if options.steps else {}
                with tempfile.TemporaryDirectory() as workdir:
                    summaries.append(trained(name, workdir, seed=seed, **steps))
                log({"config": name, "seed": seed, **summaries[-1]})
            extra = {}
            if name == "mlm_tiny":
                extra["unigram_entropy"] = \
                    unigram_entropy(text(config_of(name)[0].data).data["test"]["tokens"])
            log({"config": name, "seeds": options.seeds, **extra, "metrics": over_seeds(summaries)})
            print(f"{name}\n{seeds_table(over_seeds(summaries))}", extra, flush=True)


if __name__ == "__main__":
    main()
