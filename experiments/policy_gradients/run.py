"""Policy gradients over fixed seeds: each config against the criterion of its header, beside a
random policy.

    python experiments/policy_gradients/run.py --workdir=runs/policies           # minutes a config
    python experiments/policy_gradients/run.py --only=ppo_cartpole --quick --log=/tmp/quick.jsonl

Settings were chosen on seeds 0 to 3. These are seeds 10 and up. results.jsonl gets a line for each
seed: the run's own summary. With it stands when the mean return of the last episodes first reached
the criterion, in environment steps and in seconds of training, compilation apart. The last episodes
are as many of each environment, at least 100 in all. Evaluation: the most likely actions on a fixed
set of seeds. --quick: two rollouts.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments.policy_gradients.optimum import starts, unseen  # noqa: E402
from experiments.runs import Log, command, config_of, trained  # noqa: E402
from karpjax.run import metrics  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.seeds import over_seeds, seeds_table  # noqa: E402

# The criterion: a mean return, of training episodes ("when") and of the evaluation. GridNav's:
# eval/length_over_shortest of at most 1.05.
BARS = {"ppo_cartpole": 475, "a2c_cartpole": 475, "ppo_acrobot": -90, "ppo_pendulum": -150,
        "ppo_reacher": -18,
        "ppo_grid_nav": None, "ppo_minatar": 28}
FIRST = 10


def short(source) -> dict:
    """Return overrides that shorten a run to two rollouts, for tests."""
    return {"steps": 2 * source.steps_per_chunk, "eval_every": source.steps_per_chunk,
            "save_every": source.steps_per_chunk, "data.eval_episodes": 8}


def random_policy(source) -> float:
    """Return the mean return of uniform actions on the evaluation's seeds."""

    def act(obs, keys):
        return jax.vmap(lambda key: source.env.actions.sample(key))(keys)

    def play():
        episodes = jnp.arange(source.eval_episodes)
        return source.episodes(act, episodes, unseen(source))["return"].mean()
    return float(jax.jit(play)())


def first_above(workdir, bar: float, examples_per_step: float) -> dict:
    """Return {"env_steps", "train_seconds"} of the first train/return that reached the bar, or {}
    if none did."""
    seconds = 0.0
    rows = [row for row in metrics.read_rows(workdir) if "train/return" in row]
    for before, row in zip([{"step": 0}, *rows], rows, strict=False):
        seconds += (row["step"] - before["step"]) * examples_per_step / row["time/examples_per_s"]
        # Until every environment has had its share of the episodes, short ones are too many.
        if row["train/recent"] == 1 and row["train/return"] >= bar:
            return {"env_steps": round(row["step"] * examples_per_step),
                    "train_seconds": round(seconds, 2)}
    return {}


def study(options, folder: pathlib.Path):
    names = options.only.split(",")
    log = Log(options.log, keep=lambda row: row["config"] not in names)
    for name in names:
        source = assemble(*config_of(name)).source
        seeds = options.seeds or (10 if "cartpole" in name else 5)
        log({"config": name, "random_policy": random_policy(source), "criterion": BARS[name]})
        summaries = []
        for seed in range(FIRST, FIRST + seeds):
            workdir = folder / f"{name}_{seed}"
            summary = trained(name, workdir, seed=seed, **(short(source) if options.quick else {}))
            reached = first_above(workdir, BARS[name],
                                  source.examples_per_step) if BARS[name] else {}
            # of mean lengths; an episode that never arrives counts its 64 steps
            if name == "ppo_grid_nav":
                summary["eval/length_over_shortest"] = \
                    summary["eval/length"] / float(starts(source)["shortest"].mean())
            summaries.append({**summary,
                              **{f"reached/{key}": value for key, value in reached.items()}})
            log({"config": name, "seed": seed, **summaries[-1]})
        # a seed may never have reached it
        names_of_all = {key: None for summary in summaries for key in summary}
        statistics = over_seeds([{**names_of_all, **summary} for summary in summaries])
        log({"config": name, "seeds": seeds, "metrics": statistics})
        print(seeds_table(statistics), flush=True)


def arguments(parser):
    parser.add_argument("--only", default=",".join(name for name in BARS if name != "ppo_minatar"),
                        help="ppo_minatar, which needs gymnax and an hour, only where it is named")
    parser.add_argument("--seeds", type=int, default=0,
                        help="0: ten for CartPole, five for the others")


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
