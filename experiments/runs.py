"""The studies' common parts: a config with other values, runs that continue where they stopped, a
log, a command line.

def study(options, workdir):
    log = Log(options.log)
    summary = trained("imdb_sentiment", workdir / "scratch_0", **{"data.train": "train[:1%]"})
    log({"run": "scratch", **summary})

if __name__ == "__main__":
    command(study, log="results.jsonl")
"""
import argparse
from collections.abc import Callable
import json
import os
import pathlib
import tempfile

from etils import epath
import jax

from karpjax import load_config
from karpjax.core import settings
from karpjax.core.sharding import make_mesh
from karpjax.datasets.formats import prepare
from karpjax.evaluate import run_with
from karpjax.run.evaluator import make_evaluator
from karpjax.run.loop import fit
from karpjax.run.workdir import finished

ROOT = pathlib.Path(__file__).parent.parent
# Or a study's times would depend on what ran before. A short form's runs share their programs.
COMPILED = {"compile_cache": "off"}
SHARED = pathlib.Path(os.environ.get("KARPJAX_TEST_DATA", ROOT.parent / "shared" / "data"))


def config_of(name: str, **overrides):
    """Return (config, task file) of configs/NAME.py, or of another file, its path without .py.

    "NAME:ARGUMENT" as on the command line. Overrides by path: seed=1, **{"data.batch_size": 32}.
    """
    overrides = {**COMPILED, **overrides}
    name, colon, argument = name.partition(":")
    config, task_file = load_config(
        f"{ROOT / (name if '/' in name else f'configs/{name}')}.py{colon}{argument}", overrides)
    return config, {**task_file, "path": str(pathlib.Path(task_file["path"]).relative_to(ROOT))}


def trained(name: str, workdir, **overrides) -> dict:
    """Return the summary of the run in `workdir`: read if it is done, otherwise trained on to its
    end."""
    config, task_file = config_of(name, **overrides)
    config = settings.canonical(config)
    return finished(epath.Path(workdir), config) or fit(config, workdir, task_file=task_file)


def measured(folder: pathlib.Path, split: str) -> dict:
    """Return the metrics and tables of a split by a run's best checkpoint."""
    run, name = run_with(str(folder), split, "best")
    of_split = make_evaluator(run.task, make_mesh(devices=jax.devices()[:1])).measure(
        run.variables, name)
    return {"split": split, "step": run.step, **of_split.metrics, **of_split.tables}


def prepared(workdir: pathlib.Path, format: str, name: str, **options) -> str:
    """Return the data_dir in which a set of the shared data is prepared."""
    data_dir = workdir / "tfds"
    if not (data_dir / name).exists():
        prepare(format, SHARED / name, name, str(data_dir), **options)
    return str(data_dir)


def kept(file: pathlib.Path, make: Callable[[], dict]) -> dict:
    """Return the row in a file, or make it and keep it there.

    So a study that was stopped goes on behind the rows that took it minutes.
    """
    if not file.exists():
        row = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(row))
        part.rename(file)  # whole, or not there
    return json.loads(file.read_text())


class Log:
    """The rows of a study, written whole with each row.

    A study that is started again finds its runs done, and writes their rows again.
    """

    def __init__(self, file, keep: Callable = lambda row: False):
        """Open the log. keep(row) decides whether a row that is there already stays."""
        self.file = pathlib.Path(file)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = [row for row in map(json.loads, lines) if keep(row)]

    def __call__(self, row: dict) -> None:
        self.rows.append(row)
        self.file.write_text("".join(json.dumps(each) + "\n" for each in self.rows))
        print({name: value for name, value in row.items() if not isinstance(value, (list, dict))},
              flush=True)


def command(study: Callable, log, arguments: Callable = lambda parser: None) -> None:
    """Run study(options, workdir) with --workdir, --log, --quick and what
    `arguments(parser)` adds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", default="",
                        help="where a study that was stopped goes on; empty: nowhere")
    parser.add_argument("--log", default=str(log))
    parser.add_argument("--quick", action="store_true",
                        help="a few steps, for tests: the figures say nothing")
    arguments(parser)
    options = parser.parse_args()
    if options.quick and options.log == str(log):
        parser.error(f"--quick needs a --log of its own: {log or 'the default'} is for whole runs")
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            COMPILED["compile_cache"] = str(pathlib.Path(folder) / "compiled")
        study(options, pathlib.Path(options.workdir or folder).resolve())


def command_of_parts(parts: dict[str, Callable], log, **published) -> None:
    """Run the parts of a study that --parts names, {name: part(log, options, workdir)}.

    The rows of the other parts stay in the log.

    published   figures of others, for a row at the end
    """
    def study(options, workdir):
        rows = Log(options.log, keep=lambda row: row["part"] not in (*options.parts, "published"))
        for name in options.parts:
            parts[name](rows, options, workdir)
        if published:
            rows({"part": "published", **published})

    def arguments(parser):
        parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts)
        parser.add_argument("--torch_python", default="",
                            help="a Python that has the peer's packages; empty: ours alone")
    command(study, log, arguments)
