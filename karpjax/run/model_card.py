"""The model card (Mitchell et al. 2019, in short) beside a run's checkpoints.

It says what the model is, how good it is, and how to use it.
"""
import json

import jax

from karpjax.core.state import parameter_table

TEMPLATE = """# {title}

A {model} trained by karpjax on {data}, task `{task}`, {parameters:,} parameters.

| step {step} | |
|---|---|
{metrics}

```python
run = karpjax.restore("{workdir}")       # the newest checkpoint; which="best" for the best
outputs = run.{use}(inputs)
```

The card says what the run measured, not what it is fit for: whom the data speaks for, and whom \
not, is for you to add.

## Config

```json
{config}
```

## Parameters

```
{table}
```
"""


def model_card(exp, step: int, metrics: dict | None, workdir) -> str:
    """Return the card, in Markdown, for the state at `step`.

    exp      the Experiment (karpjax/run/experiment.py)
    metrics  of the evaluation at that step; None if it had none
    workdir  the path for `restore`
    """
    config = exp.config.to_dict()
    sources = (("data", "name"), ("data", "dir"), ("env", "name"))
    names = [config.get(part, {}).get(key) for part, key in sources]
    data = next(filter(None, names), "its own data")
    model = config.get("model", {}).get("name", type(exp.task.model).__name__)
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted((metrics or {}).items())
            if value is not None]
    return TEMPLATE.format(
        title=f"{model} on {data}", model=model, data=data, step=step, workdir=workdir,
        task=config["task"] or exp.task_file["path"],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(exp.abstract.params)),
        metrics="\n".join(rows) or "| not evaluated | |",
        use="act" if "env" in config else "predict",
        config=json.dumps(config, indent=2), table=parameter_table(exp.abstract.params))
