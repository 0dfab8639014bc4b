"""The commands that faults strike, and what must hold after them.

A case is a command, and a fault at its n-th call of a kind (faults.py). The same command runs
again, without the fault, in what the first one left. An outcome is one of

    unnoticed   both ended well: the fault struck what a run can do without
    again       the first one failed in one line, or was killed; the second ended well
    told        the second said in one line what to do
    traceback   never: of either
    moved       never: a file that was whole before is gone, or another
    different   never: the second ended well, with another result
"""
import functools
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
from typing import Callable, NamedTuple

from command import RESNET, ROOT, TINY, command
from guarantees.faults import ERRORS, KILL, KINDS, LASTING
from guarantees.harness import kept_in, record_of
import jax
import jax.numpy as jnp
import numpy as np

import karpjax as kj
from karpjax import weights
from karpjax.core import files
from karpjax.datasets import content
from karpjax.run import checkpoint
from karpjax.sources import images

WRONG = ("traceback", "moved", "different")
FAULTS = (*ERRORS, *(error + LASTING for error in ERRORS), KILL, KILL, KILL)
CODES = (0, 2, 75)


class Case(NamedTuple):
    command: str
    kind: str
    n: int
    fault: str


class Command(NamedTuple):
    """A command in a folder.

    before  makes what is there, in an empty folder of a Bench
    result  of the folder: what must be equal in the end
    sound   globs of files that must stay as they are
    """
    flags: tuple
    before: Callable
    result: Callable
    sound: tuple = ()


# ------------------------------------------------------------------------- what is there before

def a_config(folder: pathlib.Path, bench) -> None:
    (folder / "tiny.py").write_text(TINY)


def a_finished_run(folder: pathlib.Path, bench) -> None:
    bench.undisturbed("train")
    shutil.copytree(bench.folder / "train", folder, dirs_exist_ok=True)


def a_run_that_was_killed(folder: pathlib.Path, bench) -> None:
    """Leave a run as a kill after its last row does: the second checkpoint is not there."""
    a_finished_run(folder, bench)
    shutil.rmtree(folder / "run" / "checkpoints" / "8")
    for name in ("summary.json", "curves.png"):
        (folder / "run" / name).unlink()


def some_images(folder: pathlib.Path, bench, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 4, 4, 3), np.uint8)
    np.savez(folder / "mine.npz", x_train=pixels, y_train=np.arange(8) % 2)


def another_set(folder: pathlib.Path, bench) -> None:
    """Leave a prepared set of other images, which is to be replaced."""
    some_images(folder, bench, seed=1)
    ended = command("prepare", *PREPARE[1:], cwd=folder, real=False)
    assert ended.returncode == 0, ended.stderr
    some_images(folder, bench)


def some_weights(folder: pathlib.Path, bench) -> None:
    """Leave a config of a network that other projects have too, and a file of its weights."""
    (folder / "resnet.py").write_text(RESNET)
    model = kj.models.make_model(dict(name="resnet_cifar", depth=8), classes=10)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    files.write_arrays(folder / "weights.npz", weights.to_pytorch(model, variables))


# ------------------------------------------------------------------------------------ what is left

def of_a_run(folder: pathlib.Path):
    run = folder / "run"
    summary = json.loads((run / "summary.json").read_text())
    metrics = {name: value for name, value in summary.items() if "/" in name}
    return [*record_of(run), kept_in(run), metrics]


def of_a_set(folder: pathlib.Path):
    source = images(dict(name="mine", data_dir=str(folder / "sets"), train="train", batch_size=4))
    rows = content.RowHash()
    rows.add(source.data["train"])
    return [rows.hexdigest(), source.spec, sorted(os.listdir(folder / "sets"))]


def of_a_pair(folder: pathlib.Path):
    return [(folder / name).read_text("latin-1") for name in ("out.safetensors", "out.json")]


def of_converted(folder: pathlib.Path):
    return checkpoint.read_meta(checkpoint.find(folder / "made"))["fingerprint"]


TRAIN = ("train", "--config=tiny.py", "--workdir=run")
PREPARE = ("prepare", "--from=mine.npz", "--format=npz", "--name=mine", "--data_dir=sets")
CHECKPOINT = ("run/checkpoints/4/**", "run/config.json")
COMMANDS = {
    "train": Command(TRAIN, a_config, of_a_run, ("tiny.py",)),
    "resume": Command(TRAIN, a_run_that_was_killed, of_a_run, CHECKPOINT),
    "prepare": Command(PREPARE, some_images, of_a_set, ("mine.npz",)),
    "overwrite": Command((*PREPARE, "--overwrite"), another_set, of_a_set, ("mine.npz",)),
    "export": Command(("export", "--workdir=run", "--to=out.safetensors"), a_finished_run,
                      of_a_pair, (*CHECKPOINT, "run/checkpoints/8/**", "run/metrics.jsonl")),
    "convert": Command(("convert", "--config=resnet.py", "--weights=weights.npz", "--workdir=made"),
                       some_weights, of_converted, ("weights.npz",)),
}


# ---------------------------------------------------------------------------------------- the cases

class Bench:
    """Folders in which cases run: templates, expected results and numbers of calls, made once."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        # methods that are cached would keep every bench
        self.template, self.undisturbed = map(functools.cache, (self.template, self.undisturbed))

    def template(self, name: str) -> pathlib.Path:
        folder = self.folder / f"{name}_before"
        folder.mkdir()
        COMMANDS[name].before(folder, self)
        return folder

    def undisturbed(self, name: str) -> tuple:
        """Return (result, {kind: number of calls}) of a command without a fault."""
        folder, counts = self.folder / name, self.folder / f"{name}.json"
        shutil.copytree(self.template(name), folder)
        ended = run(name, folder, f"from guarantees import faults\n"
                                  f"faults.count({str(folder)!r}, {str(counts)!r})")
        assert ended.returncode == 0, ended.stderr
        return COMMANDS[name].result(folder), json.loads(counts.read_text())

    def draw(self, name: str, chance: random.Random, number: int) -> list[Case]:
        """Return different cases of a command, each kind of call as often as its square root."""
        calls = self.undisturbed(name)[1]
        kinds = [kind for kind in KINDS if calls.get(kind)]
        weights = [calls[kind]**0.5 for kind in kinds]
        most, drawn = sum(calls.values()) * len(set(FAULTS)), {}
        while len(drawn) < min(number, most // 2):
            kind, = chance.choices(kinds, weights)
            drawn[Case(name, kind, chance.randint(1, calls[kind]), chance.choice(FAULTS))] = None
        return list(drawn)

    def outcome(self, case: Case) -> tuple[str, str]:
        """Return (outcome, what was said last) of a case."""
        asked, folder = COMMANDS[case.command], self.folder / "case"
        expected, _ = self.undisturbed(case.command)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template(case.command), folder)
        sound = digests(folder, asked.sound)
        first = run(case.command, folder, "from guarantees import faults\n"
                                          f"faults.inject({str(folder)!r}, *{tuple(case[1:])!r})")
        if trouble := unclear(first, killed=case.fault == KILL):
            return "traceback", trouble
        if lost := [name for name, digest in sound.items()
                    if digests(folder, [name]).get(name) != digest]:
            return "moved", f"{lost}; {last_line(first)}"
        second = run(case.command, folder)
        if asked.flags[0] == "export" and "there already" in second.stderr and not first.returncode:
            second = first              # both files are there, and export replaces none
        if trouble := unclear(second):
            return "traceback", trouble
        if second.returncode:
            return "told", last_line(second)
        if (result := asked.result(folder)) != expected:
            return "different", str(result)[:500]
        return ("again" if first.returncode else "unnoticed"), last_line(first)


def run(name: str, folder: pathlib.Path, before: str = ""):
    """Run a command in a fork."""
    command_, *flags = COMMANDS[name].flags
    path = os.pathsep.join(map(str, [ROOT / "tests", folder]))
    return command(command_, *flags, cwd=folder, before=before, path=path, real=False, timeout=120)


def unclear(ended, killed: bool = False) -> str:
    """Return what is wrong with the end of a command, "" if it ended well or in one line."""
    said = ended.stderr + ended.stdout
    if killed and ended.returncode == -signal.SIGKILL:
        return ""
    if ended.returncode not in CODES or "Traceback" in said:
        return f"exit code {ended.returncode}: {said.strip()[-700:]}"
    if ended.returncode and not last_line(ended).startswith("karpjax: "):
        return f"exit code {ended.returncode}, and no line of karpjax: {said.strip()[-700:]}"
    return ""


def last_line(ended) -> str:
    return (ended.stderr.strip().splitlines() or [""])[-1]


def digests(folder: pathlib.Path, globs) -> dict[str, str]:
    """Return {name: SHA-256} of the files of these globs."""
    found = {path for glob in globs for path in folder.glob(glob) if path.is_file()}
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in found}
