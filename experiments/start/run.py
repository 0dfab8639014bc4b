"""Seconds of a start: `python -m karpjax.train` on the digits CNN to the end of 20 steps, first
start and second.

    python experiments/start/run.py --before=DIR        # DIR: another version, to compare with
    python experiments/start/run.py --quick --log=FILE  # one round, to see that it works

A first start finds no compiled programs, a second one those of the first. The data set is prepared
before. Versions take turns, so that a machine that slows down slows both. Beside the time on the
wall stands the processor time.
"""
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import ROOT, Log, command  # noqa: E402

FLAGS = ["--config=configs/digits_cnn.py", "--config.steps=20",
         "--config.optimizer.learning_rate.warmup_steps=5"]


def start(tree: pathlib.Path, workdir: pathlib.Path, caches: pathlib.Path) -> dict:
    """Run the command in a checkout, and time it from the outside."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(caches)}
    shutil.rmtree(workdir, ignore_errors=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "karpjax.train", *FLAGS, f"--workdir={workdir}"],
                          cwd=tree, env=env,
                          capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{tree}: the run failed:\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def study(options, workdir):
    trees = {"now": ROOT, **({"before": pathlib.Path(options.before).resolve()}
                             if options.before else {})}
    log, rows = Log(options.log), []
    # the data set, matplotlib's list of fonts, Python's own compiled files
    for tree in trees.values():
        start(tree, workdir / "run", workdir / "caches")
    for turn in range(1 if options.quick else options.rounds):
        for version, tree in list(trees.items())[::(-1) ** turn]:
            shutil.rmtree(workdir / "caches" / "karpjax", ignore_errors=True)
            for which in ("first", "second"):
                rows.append({"round": turn, "version": version, "start": which,
                             **start(tree, workdir / "run", workdir / "caches")})
                log({**rows[-1], "load": round(os.getloadavg()[0], 1)})
    for version in trees:
        for which in ("first", "second"):
            mine = [row for row in rows if (row["version"], row["start"]) == (version, which)]
            log({"version": version, "start": which, "rounds": len(mine),
                 **{f"median_{unit}": statistics.median(row[unit] for row in mine)
                    for unit in ("wall_s", "cpu_s")}})


def arguments(parser):
    parser.add_argument("--before", default="", help="a checkout of another version")
    parser.add_argument("--rounds", type=int, default=5)


if __name__ == "__main__":
    command(study, log=HERE / "results.jsonl", arguments=arguments)
