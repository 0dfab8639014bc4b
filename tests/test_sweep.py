"""Sweeps over seeds: a stop and a resume, numbers that an independent computation confirms, nothing
trained twice."""
import json
import statistics

from command import TINY, command, done, refused
import pytest

# SIGTERM at the save of step 4 of seed 1.
STOP = """
import os, signal
from karpjax.run.checkpoint import Checkpoints
save = Checkpoints.save
def stopped(self, step, *rest):
    if step == 4 and "seed_1" in str(self.folder):
        os.kill(os.getpid(), signal.SIGTERM)
    return save(self, step, *rest)
Checkpoints.save = stopped
"""


@pytest.mark.full
def test_sweep(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)

    def sweep(*flags, **options):
        return command("sweep", "--config=tiny.py", "--seeds=2", "--workdir=out", *flags,
                       cwd=tmp_path, **options)
    files = [tmp_path / "out" / f"seed_{i}" / "summary.json" for i in range(2)]

    stopped = sweep(before=STOP)
    assert stopped.returncode == 75 \
        and "seed_1 stopped at step 5; the state is saved" in stopped.stderr, stopped.stderr
    assert files[0].exists() and not files[1].exists()
    assert not (tmp_path / "out" / "sweep.json").exists()

    first = files[0].stat().st_mtime_ns
    out = done(sweep())
    summaries = [json.loads(file.read_text()) for file in files]
    assert files[0].stat().st_mtime_ns == first and summaries[1]["resumed"]
    assert "steps 5 to 8" in out
    assert summaries[0]["test/loss"] != summaries[1]["test/loss"]  # the seed matters

    metrics = json.loads((tmp_path / "out" / "sweep.json").read_text())["metrics"]
    assert set(metrics) == {name for name in summaries[0]
                          if "/" in name} >= {"test/accuracy", "test/nll", "validation/loss"}
    for name, row in metrics.items():
        a, b = (summary[name] for summary in summaries)
        assert row["values"] == [a, b] and row["mean"] == statistics.mean([a, b])
        assert abs(row["sd"] - abs(a - b) / 2**0.5) < 1e-12  # of two values, with n - 1
        assert [name, *(f"{x:.4f}" for x in (row["mean"], row["sd"], a, b))] in [
            line.split() for line in out.splitlines()]

    again = done(sweep())
    assert "steps " not in again
    assert again.strip().splitlines() == out.strip().splitlines()[-len(metrics) - 1:]
    assert files[0].stat().st_mtime_ns == first and json.loads(files[1].read_text()) == summaries[1]

    # a longer sweep goes on from this one
    assert "steps 8 to 10" in done(sweep("--config.steps=10"))
    assert [json.loads(file.read_text())["steps"] for file in files] == [10, 10]
    refused(sweep("--config.optimizer.learning_rate=0.5"), "seed_0 holds another experiment",
            "0.01 -> 0.5")
