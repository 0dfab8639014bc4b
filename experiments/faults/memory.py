"""Train 30,000 steps with a row and an evaluation often, and watch memory and open files.

    python experiments/faults/memory.py            # 30,000 steps: about ten minutes
    python experiments/faults/memory.py --steps=3000

memory.jsonl has a line for each 1,000 steps: resident MB, and open files, of which a save under way
holds some. After the first 1,000 steps memory must stay within 20 MB, and never may more files be
open than in the first 5,000, or the script fails.
"""
import argparse
import gc
import json
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

from tiny_runs import train  # noqa: E402

from karpjax.run import loop  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

EVERY, MEGABYTES = 1000, 20


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--log", default=str(pathlib.Path(__file__).parent / "memory.jsonl"))
    options = parser.parse_args()
    seen = []
    with open(options.log, "w") as file, tempfile.TemporaryDirectory() as folder:
        def log(row: dict) -> None:
            print(json.dumps(row), file=file, flush=True)
            print(json.dumps(row), flush=True)
        log({"versions": versions(), "rows": "one a step", "evaluations": "one every 20 steps",
             "saves": "one every 500 steps"})
        advance = loop.Trainer.advance

        def watched(self, state, step, n, profile):
            if step % EVERY == 0 and step:
                gc.collect()
                row = {"step": step, "resident_mb": round(resident(), 1),
                       "open_files": len(os.listdir("/proc/self/fd"))}
                seen.append(row)
                log(row)
            return advance(self, state, step, n, profile)
        loop.Trainer.advance = watched
        train(pathlib.Path(folder, "run"), steps=options.steps, log_every=1, eval_every=20,
              save_every=500, keep=2)
    memory = [row["resident_mb"] for row in seen]
    files = [row["open_files"] for row in seen]
    right = max(memory) - memory[0] <= MEGABYTES and max(files) <= max(files[:5])
    print(f"resident memory {memory[0]} MB after {EVERY} steps, at most {max(memory)} MB later; "
          f"open files {min(files)} to {max(files[:5])} at first, at most {max(files)} later")
    sys.exit(not right)


if __name__ == "__main__":
    main()
