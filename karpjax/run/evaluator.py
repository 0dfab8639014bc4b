"""Evaluation: exact means, totals and rows of a split, whatever the batch size and the devices."""
from collections.abc import Callable, Mapping
import dataclasses

import jax
from jax.experimental import multihost_utils
import numpy as np

from karpjax.core import sharding
from karpjax.core.errors import UserError
from karpjax.core.files import plain
from karpjax.core.metric import Rows, Total, added, quotient
from karpjax.core.step import PRECISIONS
from karpjax.core.trees import cast_floating, listed, split_variables
from karpjax.run.own_code import own_code


@dataclasses.dataclass
class Measured:
    """Everything that one evaluation of a split gives, the same on every process.

    metrics  {name: float}: the means, and what `Task.summarize` makes
    tables   {name: {class: float or text}}: its values by class, for summary.json
    totals   {name: array}, int64 (of floats: float64)
    rows     {name: array (N, ...)}, in the order of `index`
    """
    metrics: dict
    tables: dict
    totals: dict
    rows: dict


def make_evaluator(task, mesh, precision: str = "fp32") -> Callable:
    """Return evaluate(variables, split) -> {"loss": ..., metric: ...}, an `Evaluator`."""
    return Evaluator(task, mesh, precision)


class Evaluator:
    """The evaluation of a task, compiled once for all splits."""

    def __init__(self, task, mesh, precision: str = "fp32"):
        self.task, self.mesh, self.precision = task, mesh, precision
        self.program = jax.jit(self.of_batch, static_argnames="evaluate")

    def __call__(self, variables, split: str) -> dict[str, float]:
        """Return the metrics of a split."""
        return self.measure(variables, split).metrics

    def measure(self, variables, split: str, at_end: bool = False,
                beat: Callable[[str], None] | None = None) -> Measured:
        """Evaluate a split. All processes call it together.

        at_end  gather the rows, too, that are for the end of a run alone
        beat    called after each batch with what is done, as a watchdog hears it
        """
        sums, batches = None, []
        for number, local in enumerate(self.task.source.eval_batches(split), start=1):
            batch = sharding.put_batch(self.mesh, local)
            pairs, totals, rows = self.program(variables, batch, self.evaluate_of(split))
            # In 64 bits on the host: float32 loses counts beyond 16 million.
            sums = added(sums, jax.device_get((pairs, totals)))
            wanted = {name: each.array for name, each in rows.items() if at_end or not each.at_end}
            if wanted:  # batch by batch: rows of a large split need not fit a device
                batches.append(gathered(wanted, batch))
            if beat:
                beat(f"evaluation of {split} after batch {number}")
        (losses, means), totals = jax.tree.map(lambda x: x.item() if x.ndim == 0 else x, sums)
        losses, means = ({name: quotient(*pair) for name, pair in pairs.items()}
                         for pairs in (losses, means))
        metrics = {**({"loss": sum(losses.values())} if losses else {}), **losses, **means}
        metrics = {name: metrics[name] for name in sorted(metrics, key="loss".__ne__)}  # it first
        totals = {name: np.asarray(each.array) for name, each in totals.items()}
        measured = Measured(metrics, {}, totals, in_order(batches, split))
        summarize(self.task, measured)
        return measured

    def evaluate_of(self, split: str) -> Callable | None:
        """Return `Task.evaluate` for a split, None for the loss."""
        evaluate = self.task.evaluate
        if not isinstance(evaluate, Mapping):
            return evaluate
        if "" not in evaluate:
            raise UserError(f"Task.evaluate: expected a function under '', for splits without one "
                            f"of their own, found {listed(sorted(evaluate))} alone; add it")
        return evaluate.get(split, evaluate[""])

    def of_batch(self, variables, batch, evaluate: Callable | None = None):
        """Return ((losses, means), totals, rows) of a batch: pure, jitted once."""
        batch = sharding.constrain_batch(self.mesh, self.task.source.preprocess(batch))
        params, model_state = split_variables(variables)
        params = sharding.constrain(params, sharding.replicated(self.mesh))
        params = cast_floating(params, PRECISIONS[self.precision])
        if evaluate is not None:
            losses, metrics = {}, evaluate({"params": params, **model_state}, batch)
        else:
            losses, metrics, _ = self.task.loss(params, model_state, batch, None)
        means, totals, rows = by_kind(metrics)
        check_rows(rows, len(jax.tree.leaves(batch)[0]))
        # XLA chooses where a result lies: whole totals can be read by every process.
        totals = sharding.constrain(totals, sharding.replicated(self.mesh))
        return (losses, means), totals, sharding.constrain_batch(self.mesh, rows)


def by_kind(metrics: dict) -> tuple[dict, dict, dict]:
    """Return the means, totals and rows among metrics."""
    expected = ("expected karpjax.mean(values, weight), karpjax.total(array) or "
                "karpjax.rows(array)")
    if not isinstance(metrics, Mapping):
        raise UserError(f"evaluation returned a {type(metrics).__name__}; expected a dict of name "
                        f"-> metric, and of each: {expected}")
    means, totals, rows = {}, {}, {}
    for name, value in metrics.items():
        if isinstance(value, Total):
            totals[name] = value
        elif isinstance(value, Rows):
            rows[name] = value
        elif isinstance(value, tuple) and len(value) == 2:
            shapes = [np.shape(x) for x in jax.tree.leaves(value)]
            if shapes != [(), ()]:
                raise UserError(f"evaluation: the metric {name!r} has shapes {shapes}; {expected}")
            means[name] = value
        else:
            raise UserError(f"evaluation: the metric {name!r} is a {type(value).__name__}; "
                            f"{expected}")
    return means, totals, rows


def check_rows(rows: dict, batch_size: int) -> None:
    """Check that rows have one entry an example. Runs while tracing: free."""
    for name, value in rows.items():
        shapes = [x.shape for x in jax.tree.leaves(value)]
        if any(shape[:1] != (batch_size,) for shape in shapes):
            raise UserError(f"karpjax.rows: {name!r}: expected a leading axis of {batch_size}, one "
                            f"entry an example, found {shapes}; count with karpjax.total instead")


def gathered(rows: dict, batch: dict) -> dict:
    """Return the rows of a batch, and their index, from all processes, without padding."""
    number = batch["index"] if "index" in batch else batch.get("seed")
    if number is None or "weight" not in batch:
        raise UserError(f"karpjax.rows: expected evaluation batches with `index` (or `seed`) and "
                        f"`weight`, found {listed(sorted(batch))}; add them to the source")
    wanted = {**rows, "index": number, "weight": batch["weight"]}
    whole = multihost_utils.process_allgather(wanted, tiled=True)
    real = whole.pop("weight") > 0
    return jax.tree.map(lambda x: x[real], whole)


def in_order(batches: list[dict], split: str) -> dict:
    """Return the rows of all batches in the order of their index, 0 to N - 1, each there once."""
    if not batches:
        return {}
    rows = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    index = rows.pop("index").astype(np.int64)
    numbers_there, times = np.unique(index, return_counts=True)
    twice = numbers_there[times > 1].tolist()
    missing = np.setdiff1d(np.arange(index.max(initial=-1) + 1), numbers_there).tolist()
    if twice or missing:
        raise UserError(f"evaluation of {split}: expected every index from 0 once, found "
                        f"{listed(twice)} more than once and {listed(missing)} missing; mend "
                        "`index` or `weight` in the source's eval_batches")
    order = np.argsort(index)
    return jax.tree.map(lambda x: x[order], rows)


def summarize(task, measured: Measured) -> None:
    """Add what `Task.summarize` makes of totals and rows to the metrics and tables."""
    if task.summarize is None:
        return
    with own_code("Task.summarize"):
        summary = task.summarize(measured.totals, measured.rows)
    if not isinstance(summary, Mapping):
        raise UserError(f"Task.summarize returned a {type(summary).__name__}; expected a dict of "
                        "name -> float, or -> a dict of floats or texts by class")
    for name, value in summary.items():
        if name in measured.metrics:
            raise UserError(f"Task.summarize: {name!r} is a metric of Task.evaluate already; "
                            "rename one of them")
        if isinstance(value, Mapping):
            measured.tables[name] = {str(part): x if isinstance(x, str) else float(x)
                                     for part, x in value.items()}
        elif np.ndim(value) == 0:
            measured.metrics[name] = float(value)
        else:
            raise UserError(f"Task.summarize: {name!r} is a {type(value).__name__}; expected a "
                            "float, or a dict of floats or texts by class")


def last_tables(measured: dict[str, Measured]) -> dict:
    """Return {"accuracy_by_class": {...}, ...} of the split that was measured last: the test's.

    Names of "split/metric" are for floats, of which sweeps take means.
    """
    return {name: {part: plain(x) for part, x in table.items()}
            for last in list(measured.values())[-1:] for name, table in last.tables.items()}
