"""The shared step equals a step by hand: the same heavy operations, and a short list of light ones.

The test compares what XLA compiles for the digits CNN: its step against
experiments/overhead/bare.py, which also has the times.
"""
import collections
import json
import math
import re
import subprocess
import sys

from guarantees.harness import ROOT, mesh_of
from guarantees.registry import config_of
import jax
import pytest

from experiments.overhead import bare
from karpjax.run.experiment import assemble

# elements; a fusion of so many is one pass over an activation, a gradient, a kernel or its moments
LARGE = 1000
MAY_DIFFER = {
    # Is everything finite, and if not the old state; a reduce of many is a reduce-window on the
    # CPU.
    "is-finite", "and", "select", "compare", "reduce", "reduce-window", "concatenate",
    # Totals over counts, with weights; and what of it XLA computes again in the fusion next door.
    "add", "subtract", "multiply", "divide", "negate", "maximum", "convert",
    # No arithmetic.
    "constant", "parameter", "broadcast", "copy", "bitcast", "transpose", "slice", "fusion"}
OPERATION = re.compile(r"^\s+(?:ROOT )?\S+ = (.*?) ([a-z][\w-]*)\(")


def operations(hlo: str) -> collections.Counter:
    """Return {opcode: number} over all computations of a program's text.

    "large fusion" is counted apart.
    """
    counts = collections.Counter()
    for result, opcode in filter(None, (match and match.groups()
                                        for match in map(OPERATION.match, hlo.splitlines()))):
        sizes = [math.prod(map(int, filter(None, shape.split(","))))
                 for shape in re.findall(r"\[([\d,]*)\]", result)]
        counts["large fusion" if opcode == "fusion" and max(sizes, default=0) >= LARGE
              else opcode] += 1
    return counts


def unexplained(step, by_hand) -> dict:
    """Return {opcode: (by hand, ours)} that differ and may not.

    Arithmetic and memory traffic are among them if they exceed what the list may cost.
    """
    ours, theirs = operations(step.as_text()), operations(by_hand.as_text())
    differing = {name: (theirs[name], ours[name]) for name in ours | theirs
             if theirs[name] != ours[name]}
    differing = {name: counts for name, counts in differing.items() if name not in MAY_DIFFER}
    for name, room in (("flops", 1.005), ("bytes accessed", 1.06)):
        costs = by_hand.cost_analysis()[name], step.cost_analysis()[name]
        differing |= {name: costs} if costs[1] > room * costs[0] else {}
    return differing


@pytest.fixture(scope="module")
def experiment():
    config, task_file = config_of("digits",
                                  **{"model.width": 32, "data.batch_size": 64, "ema_decay": 0.0})
    return assemble(config, task_file, mesh_of(1))


def batch_of(experiment):
    source = experiment.source

    def first(arrays, state):
        chunk = source.advance(arrays, state.source, state.variables)[1]
        return source.batch(arrays, chunk, 0)
    return jax.eval_shape(first, source.arrays, experiment.abstract)


def compiled(experiment):
    # the batch comes from outside, as in the step by hand
    state = experiment.abstract.replace(source={})
    return jax.jit(experiment.train_step(),
                   donate_argnums=0).lower(state, batch_of(experiment)).compile()


@pytest.fixture(scope="module")
def by_hand(experiment):
    state = jax.eval_shape(bare.init, jax.random.key(0))
    return jax.jit(bare.train_step, donate_argnums=0).lower(state, batch_of(experiment)).compile()


def test_the_step_has_the_operations_of_a_step_by_hand(experiment, by_hand):
    assert operations(by_hand.as_text())["convolution"] == 8
    assert operations(by_hand.as_text())["large fusion"] > 0
    assert unexplained(compiled(experiment), by_hand) == {}


def test_mutant_second_forward_pass(experiment, by_hand, monkeypatch):
    """A metric that runs the network again is caught."""
    once = experiment.task.loss

    def twice(params, model_state, batch, key):
        losses, metrics, model_state = once(params, model_state, batch, key)
        again = once(params, model_state, batch, None)[0]["xent"]
        return losses, {**metrics, "again": again}, model_state
    monkeypatch.setattr(experiment, "task",
                        type(experiment.task)(experiment.task.model, experiment.source, twice))
    assert {"convolution", "flops"} <= set(unexplained(compiled(experiment), by_hand))


def test_mutant_a_pass_over_memory(experiment, by_hand, monkeypatch):
    """Light operations alone are caught: a moving average nobody asked for."""
    monkeypatch.setitem(experiment.config, "ema_decay", 0.9)
    monkeypatch.setattr(experiment, "abstract",
                        experiment.abstract.replace(ema=experiment.abstract.params,
                                                    ema_state=experiment.abstract.model_state))
    assert "bytes accessed" in unexplained(compiled(experiment), by_hand)


@pytest.mark.full
def test_the_study_writes_its_log(tmp_path):
    log = tmp_path / "results.jsonl"
    done = subprocess.run([sys.executable, "-m", "experiments.overhead.run", "--quick",
                           f"--log={log}"], cwd=ROOT,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    *rows, summary = map(json.loads, log.read_text().splitlines())
    assert [row["first"] for row in rows] == ["karpjax", "bare"]
    assert all(milliseconds > 0 for row in rows for milliseconds in row["karpjax"] + row["bare"])
    assert summary["wall"]["ratio"] > 0 and summary["processor"]["ratio"] > 0
    assert summary["versions"]["jax"] == jax.__version__
