"""Runs of tiny.py's task, to be damaged, stopped and resumed."""
from command import TINY
from guarantees.harness import mesh_of

from karpjax.core.task_file import module_from_text
from karpjax.run import loop

RECORD = {"path": "tiny.py", "text": TINY}


def train(workdir, **values) -> dict:
    """Train on one device, with changes of the config by path, and return the summary."""
    config = module_from_text("tiny.py", TINY).get_config()
    config.update_from_flattened_dict(values)
    return loop.fit(config, workdir, task_file=RECORD, mesh=mesh_of(1))
