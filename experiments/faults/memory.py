"""Train 30,000 steps with a row and an evaluation often, and watch memory and open files.

    python experiments/faults/memory.py            # 30,000 steps: two minutes
    python experiments/faults/memory.py --quick --log=FILE

memory.jsonl has a line for each 1,000 steps: resident MB, and open files when no save is under way.
After the first 1,000 steps memory must stay within 20 MB, and the number of open files must be the
same each time, or the script fails.
"""
import gc
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

from tiny_runs import train  # noqa: E402

from experiments.runs import Log, command  # noqa: E402
from karpjax.run import loop  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

EVERY, MEGABYTES = 1000, 20


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def study(options, folder) -> None:
    """Train, log a row each 1,000 steps, and exit with 1 if memory or open files have grown."""
    log, seen = Log(options.log), []
    log({"versions": versions(), "rows": "one a step", "evaluations": "one every 20 steps",
         "saves": "one every 500 steps"})
    advance = loop.Trainer.advance

    def watched(self, state, step, n, profile):
        if step % EVERY == 0 and step:
            self.checkpoints.wait()         # a save under way holds some files
            gc.collect()
            seen.append({"step": step, "resident_mb": round(resident(), 1),
                         "open_files": len(os.listdir("/proc/self/fd"))})
            log(seen[-1])
        return advance(self, state, step, n, profile)
    loop.Trainer.advance = watched
    train(folder / "run", steps=6000 if options.quick else 30_000, log_every=1, eval_every=20,
          save_every=500, keep=2)
    memory, files = ([row[name] for row in seen] for name in ("resident_mb", "open_files"))
    right = max(memory) - memory[0] <= MEGABYTES and len(set(files)) == 1
    log({"resident_mb_at_most": max(memory), "open_files": sorted(set(files)), "right": right})
    sys.exit(not right)


if __name__ == "__main__":
    command(study, log=pathlib.Path(__file__).parent / "memory.jsonl")
