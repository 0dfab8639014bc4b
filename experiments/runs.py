"""What the studies share: a config of configs/ with other values, and runs that go on where they stopped.

    summary = trained("imdb_sentiment", workdir / "scratch_0", seed=0, **{"data.train": "train[:1%]"})
"""
import importlib.util
import pathlib

from etils import epath

from karpjax import settings
from karpjax.loop import train
from karpjax.sweep import finished

ROOT = pathlib.Path(__file__).parent.parent


def config_of(name: str, **overrides):
    """(config, record of its file) of configs/NAME.py; overrides by path: seed=1, **{"data.batch_size": 32}."""
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    with config.unlocked():
        for key, value in overrides.items():
            *parents, last = key.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
    return config, {"path": f"configs/{name}.py", "text": path.read_text()}


def trained(name: str, workdir, **overrides) -> dict:
    """The summary of the run in `workdir`: read where it is done, else trained to its end from where it stopped."""
    config, record = config_of(name, **overrides)
    config = settings.canonical(config)
    return finished(epath.Path(workdir), config) or train(config, workdir, record=record)
