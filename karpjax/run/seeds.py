"""Final metrics of one experiment trained from several seeds."""
import statistics


def over_seeds(summaries: list[dict]) -> dict:
    """Return {metric: {"mean", "sd", "values"}} of the metrics named "split/metric".

    The deviation is that of the sample (n - 1). Mean and deviation are None if a value is missing.
    """
    metrics = {}
    for name in (name for name in summaries[0] if "/" in name):
        values = [summary.get(name) for summary in summaries]
        whole = None not in values
        metrics[name] = {"mean": statistics.fmean(values) if whole else None,
                         "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
                         "values": values}
    return metrics


def seeds_table(metrics: dict) -> str:
    """Return what `over_seeds` returns as text: a line a metric, a column a seed."""
    width = max(map(len, metrics), default=6)
    seeds = len(next(iter(metrics.values()))["values"]) if metrics else 0
    head = "".join(f"{f'seed {i}':>10}" for i in range(seeds))
    lines = [f"{'metric':<{width}}  {'mean':>10}{'sd':>10}  {head}"]
    for name, row in metrics.items():
        values = "".join(map(cell, row["values"]))
        lines.append(f"{name:<{width}}  {cell(row['mean'])}{cell(row['sd'])}  {values}")
    return "\n".join(lines)


def cell(value: float | None) -> str:
    """Return a number in ten columns, "-" if it is missing."""
    return f"{'-' if value is None else format(value, '.4f'):>10}"
