"""Costs of an asynchronous save and of a restore: a state of 100 million parameters, with Adam's
moments.

    python experiments/pods/save_stall.py --log=experiments/pods/save_stall.jsonl  # 4 GB of disk
    python experiments/pods/save_stall.py --before=DIR --log=FILE                        # in turns
    python experiments/pods/save_stall.py --quick --log=FILE

With --before, another version's checkout and this one take turns, three each, so that a machine
that slows down slows both. Every row then has its turn and version.

The state is that of configs/mlm_tiny.py's encoder, 14 layers of 768. The study takes some minutes.
A row for each save has seconds: until `save` returns (the loop stands still), until the checkpoint
is whole, and of a restore into fresh memory. Then come medians. The first save makes folders and
threads and is not counted.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import jax  # noqa: E402

from experiments.runs import ROOT, config_of  # noqa: E402
from karpjax.run.checkpoint import Checkpoints  # noqa: E402
from karpjax.run.experiment import assemble  # noqa: E402
from karpjax.run.workdir import checkpoint_meta, device, versions  # noqa: E402


def seconds(call, *arguments) -> tuple[float, object]:
    started = time.perf_counter()
    result = call(*arguments)
    return round(time.perf_counter() - started, 3), result


def restored(folder: str, abstract):
    saves = Checkpoints(folder)
    state = jax.block_until_ready(saves.restore(abstract)[0])
    saves.close()
    return state


def measure(options) -> None:
    """Time the saves and restores of this version."""
    size = dict(layers=1, width=32,
                heads=2) if options.quick else dict(layers=14, width=768, heads=12)
    exp = assemble(*config_of("mlm_tiny",
                              **{f"model.{name}": value for name, value in size.items()}))
    state, rows = jax.block_until_ready(exp.fresh_state()), []
    with open(options.log, "w") as log, tempfile.TemporaryDirectory() as folder:
        saves = Checkpoints(folder, keep=1)
        for step in range(1, 3 if options.quick else 7):
            state = state.replace(step=jax.device_put(jax.numpy.int32(step),
                                                      state.step.sharding))
            stall, _ = seconds(saves.save, step, state, checkpoint_meta(exp, {}), None)
            rest, _ = seconds(saves.wait)
            restoring, copy = seconds(restored, folder, exp.abstract)
            assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), copy.params,
                                             state.params))
            if step > 1:
                rows.append({"step": step, "stall": stall, "until_whole": round(stall + rest, 3),
                             "restore": restoring})
                log.write(json.dumps(rows[-1]) + "\n")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
        medians = {name: statistics.median(row[name] for row in rows)
                   for name in ("stall", "until_whole", "restore")}
        summary = {"parameters": parameters, "bytes": bytes_, **medians, "versions": versions(),
                   "device": device(exp.mesh)}
        log.write(json.dumps(summary) + "\n")
        print(json.dumps(summary))
        saves.close()


def in_turns(options) -> None:
    """Run each version's own script in turns, and join their logs."""
    trees = {"before": pathlib.Path(options.before).resolve(), "now": ROOT}
    order = ["before", "now", "now", "before", "before", "now"][:2 if options.quick else None]
    with open(options.log, "w") as log, tempfile.TemporaryDirectory() as folder:
        for turn, version in enumerate(order, 1):
            own, tree = pathlib.Path(folder, f"{turn}.jsonl"), trees[version]
            quick = ["--quick"] if options.quick else []
            subprocess.run([sys.executable, "experiments/pods/save_stall.py", f"--log={own}",
                            *quick], cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
                           check=True)
            for line in own.read_text().splitlines():
                log.write(json.dumps({"turn": turn, "code": version, **json.loads(line)}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--before", default="", help="a checkout of another version")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    (in_turns if chosen.before else measure)(chosen)
