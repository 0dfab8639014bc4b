"""The choice of settings: a config with other values, on seeds that the results do not use
(run.py's are 10 and up).

    python experiments/policy_gradients/choose.py ppo_pendulum gae_lambda=0.95 --seeds 0 1 2
    python experiments/policy_gradients/choose.py ppo_pendulum --seeds 0 1 2  # as it is

trials.jsonl gets a line for each seed: the values that differ, and the run's own summary. The same
trial again replaces its line. --quick: two rollouts.
"""
import ast
import functools
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from experiments.policy_gradients.run import FIRST, short  # noqa: E402
from experiments.runs import Log, command, config_of, trained  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402


def value_of(text: str):
    """Return the number, tuple or dict that a text spells, or else the text: the values that a
    config may hold."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def is_other(trial: dict, row: dict) -> bool:
    return {key: row[key] for key in trial} != trial


def study(options, folder: pathlib.Path):
    values = {name: value_of(text)
              for name, _, text in (given.partition("=") for given in options.values)}
    if max(options.seeds) >= FIRST:
        raise SystemExit(f"--seeds: expected at most {FIRST - 1}, found {max(options.seeds)}; "
                         "others are for results")
    own = short(assemble(*config_of(options.config)).source) if options.quick else {}
    for seed in options.seeds:
        # as a log stores it: without tuples
        trial = json.loads(json.dumps({"config": options.config, "values": values, "seed": seed}))
        name = "_".join([options.config, *options.values, str(seed)]).replace("/", "-")
        summary = trained(options.config, folder / name, **{**values, **own, "seed": seed})
        # Other processes write the log too: it is read again for each row.
        log = Log(options.log, keep=functools.partial(is_other, trial))
        log({**trial, **summary})


def arguments(parser):
    parser.add_argument("config", help="a name in configs/")
    parser.add_argument("values", nargs="*", help="name=value, by path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])


if __name__ == "__main__":
    command(study, HERE / "trials.jsonl", arguments)
