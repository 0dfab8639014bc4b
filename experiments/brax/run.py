"""PPO on Brax's reacher and ant, spring backend: learning curves over environment steps.

    pip install -e ".[brax]"
    python experiments/brax/run.py --workdir=runs/brax  # minutes on a GPU, hours on 2 cores
    python experiments/brax/run.py --robots reacher --rollouts=450 --log=FILE  # a part of it
    python experiments/brax/run.py --quick --log=FILE

Seed 10 of configs/ppo_brax.py for each robot. Nothing was chosen by a run on these robots. A row
has the run's own summary and two curves. `training`: [environment steps, mean return of the last
episodes], their actions sampled. `evaluation`: [environment steps, return of the most likely
actions, of sampled ones] over 256 episodes. Another row has uniformly random actions on the same
256. The returns are Brax's own, of 1,000 steps. --quick: two updates of some steps.
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.policy_gradients.run import random_policy  # noqa: E402
from experiments.runs import Log, command, config_of, trained  # noqa: E402
from karpjax.core.sharding import make_mesh  # noqa: E402
from karpjax.run import metrics  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.workdir import device, versions  # noqa: E402

ROBOTS, POLICIES, SEED = ("reacher", "ant"), ("random", "ppo"), 10
QUICK = {"steps": 2, "eval_every": 2, "save_every": 2, "log_every": 1, "steps_per_dispatch": 1,
         "env.max_steps": 8,
         "data.num_envs": 4, "data.num_steps": 2, "data.minibatches": 1, "data.epochs": 1,
         "data.eval_episodes": 4}


def curves(workdir, env_steps: float) -> dict:
    """Return a run's returns as curves. `env_steps` are those of one step of the loop."""
    rows = metrics.read_rows(workdir)

    def series(*names):
        return [[round(row["step"] * env_steps), *(row[name] for name in names)]
                for row in rows if names[0] in row]
    return {"training": series("train/return"),
            "evaluation": series("eval/return", "eval/return_sampled")}


def study(options, workdir: pathlib.Path):
    log = Log(options.log)
    log({"versions": versions(), "device": device(make_mesh())})
    for robot in options.robots:
        name, own = f"ppo_brax:{robot}", QUICK if options.quick else {}
        source = assemble(*config_of(name, **own)).source
        if options.rollouts:
            own = {"steps": options.rollouts * source.steps_per_chunk}
        if "random" in options.policies:
            log({"robot": robot, "policy": "random", "return": random_policy(source)})
        if "ppo" in options.policies:
            summary = trained(name, workdir / robot, seed=SEED, **own)
            log({"robot": robot, "policy": "ppo", "seed": SEED, **summary,
                 **curves(workdir / robot, source.examples_per_step)})


def arguments(parser):
    parser.add_argument("--robots", nargs="+", default=ROBOTS, choices=ROBOTS)
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--rollouts", type=int, default=0,
                        help="0: the config's own, 49 million environment steps")


if __name__ == "__main__":
    command(study, HERE / "results.jsonl", arguments)
