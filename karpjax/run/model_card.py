"""The model card (Mitchell et al. 2019, in short) beside the checkpoints of a run: what it is, how good, and how to use it."""
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

The card says what the run measured, not what it is fit for: whom the data speaks for, and whom not, is for you to add.

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
    """Markdown for the state at `step`; metrics are its evaluation's, None where it had none.

    exp      the Experiment (karpjax/run/experiment.py)
    workdir  as `restore` is to be told
    """
    config = exp.config.to_dict()
    names = [config.get(part, {}).get(key) for part, key in (("data", "name"), ("data", "dir"), ("env", "name"))]
    data = next(filter(None, names), "its own data")
    model = config.get("model", {}).get("name", type(exp.task.model).__name__)
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted((metrics or {}).items()) if value is not None]
    return TEMPLATE.format(
        title=f"{model} on {data}", model=model, data=data, task=config["task"] or exp.task_file["path"], step=step,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(exp.abstract.params)), workdir=workdir,
        metrics="\n".join(rows) or "| not evaluated | |", use="act" if "env" in config else "predict",
        config=json.dumps(config, indent=2), table=parameter_table(exp.abstract.params))
