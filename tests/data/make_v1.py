"""Made tests/data/v1 with karpjax 0.1.0, before the code moved: six checkpoints, rows of five runs.

    python tests/data/make_v1.py

    NAME/                the workdir in the middle of a run, without pictures and TensorBoard
    NAME/expected.npz    inputs, and what the restored model made of them
    NAME/resumed.jsonl   the rows that the run went on with, times aside
    rows/NAME.jsonl      all rows of a short run of one of configs/, times aside
    made.json            the code, the software and the machine that made them
    old_task.py          a user's task of that time, written by hand

Do not run it again over the old files: what a later karpjax makes is no proof that it reads what an
earlier one made.
"""
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
from typing import NamedTuple
import zlib

TESTS = pathlib.Path(__file__).parent.parent
TARGET = TESTS / "data" / "v1"
if __name__ == "__main__":  # the tests' compile flags and devices, before anything imports jax
    sys.path[:0] = [str(TESTS)]
    import conftest  # noqa: F401

import karpjax  # noqa: E402
import numpy as np  # noqa: E402

AUGMENT = [dict(name="random_resized_crop", size=8), dict(name="flip")]
ROLLOUT = {"data.num_envs": 8, "data.length": 16, "data.minibatches": 2, "data.epochs": 2,
           "data.eval_episodes": 8, "steps_per_dispatch": 8}


class Kind(NamedTuple):
    """A run that was stopped.

    file      in configs/
    changes   what makes it small: {"model.width": 8}
    at        the step of the checkpoint
    steps     where the run ends
    """
    file: str
    changes: dict
    at: int
    steps: int


KINDS = {
    # Episodes of 10 steps, rollouts of 16: the checkpoint stands in the middle of episodes.
    "reacher": Kind("ppo_reacher.py", {
        **ROLLOUT, "model.width": 8, "env.max_steps": 10, "log_every": 2,
        "data.normalize": ("obs", "reward")}, 20, 36),
    # Five rollouts: three snapshots in the pool, whose first is replaced after the resume.
    "self_play": Kind("connect_four_ppo.py", {
        **ROLLOUT, "model.width": 4, "log_every": 2,
        "data.pool": dict(size=3, every=2, random=0.1)}, 20, 36),
    "masked_text": Kind("mlm_tiny.py", {
        "model.layers": 1, "model.width": 8, "model.heads": 2, "model.dropout": 0.1,
        "data.length": 32, "data.batch_size": 16, "log_every": 2,
        "optimizer.learning_rate.warmup_steps": 5}, 12, 24),
    # An epoch has 22 steps.
    "ema": Kind("digits_cnn.py", {"model.width": 4, "ema_decay": 0.9, "log_every": 5,
                                  "optimizer.learning_rate.warmup_steps": 10}, 30, 60),
    # Streamed from the host. An epoch has 3 steps.
    "folder": Kind("finetune_imagefolder.py", {
        "model": dict(name="cnn", width=4), "data.dir": "pictures", "data.batch_size": 8,
        "data.validation": "train[:8]", "data.mean": [128.0], "data.std": [64.0],
        "data.resize": (12, 12), "data.crop": 8,
        "data.on_device": "no", "augment": AUGMENT, "log_every": 2, "init_from": ""}, 8, 16),
}
FROZEN = {  # steps and cadence, over the real configs
    "digits_cnn": dict(steps=200, log_every=20, eval_every=100),
    "mlm_tiny": {"steps": 50, "log_every": 5, "eval_every": 25,
                 "optimizer.learning_rate.warmup_steps": 10},
    "ppo_reacher": {"steps": 64, "log_every": 4, "eval_every": 32, "data.eval_episodes": 16},
    "connect_four_ppo": {"steps": 16, "log_every": 1, "eval_every": 16, "data.eval_episodes": 16},
}


def changed(values: dict, changes: dict):
    """Return a config of plain values, with changes such as {"model.width": 8}."""
    values = json.loads(json.dumps(values))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
    return type(karpjax.config())(json.loads(json.dumps(values)))


def real(file: str, changes: dict):
    """Return the config of a file in configs/, with changes."""
    path = TESTS.parent / "configs" / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return changed(json.loads(module.get_config().to_json()), changes)


def frozen_config(name: str):
    """Return the config of rows/NAME.jsonl."""
    if name == "finetune":
        from guarantees.registry import config_of
        return config_of("finetune")[0]
    return real(f"{name}.py", {"save_every": FROZEN[name]["steps"], **FROZEN[name]})


def pictures(folder: pathlib.Path) -> None:
    """Write an ImageFolder of noise, the same bytes and times on every machine.

    A run knows its pictures by name, size and time. So the PNGs are written here, not compressed.
    """
    rng, size = np.random.default_rng(0), 14

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    for split, n in (("train", 12), ("test", 4)):
        for label, name in enumerate(("ants", "bees")):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(60 * label, 196 + 60 * label, (size, size, 3), np.uint8)
                rows = b"".join(b"\0" + row.tobytes() for row in pixels)
                file = folder / split / name / f"{i}.png"
                head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
                file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
                                 + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b""))
                os.utime(file, (1_600_000_000, 1_600_000_000))


def rows_of(workdir, after: int = -1) -> list[dict]:
    """Return the rows after a step, without what depends on the clock."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in row.items() if not name.startswith("time/")}
            for row in map(json.loads, lines) if row["step"] > after]


def machine() -> dict:
    """Return what decides how programs round: the processor, and how many cores share the work."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {"model name": fields.get("model name", ""), "cores": os.cpu_count(),
            **{flag: flag in flags for flag in ("avx2", "avx512f")}}


# -------------------------------------------------------------------------------------- making them

def inputs_for(name: str, example):
    """Return a few inputs of a kind, as a user gives them to `predict`."""
    rng = np.random.default_rng(1)
    if name == "reacher":
        return rng.normal(size=(16, *example.shape[1:])).astype(np.float32)
    if name == "self_play":
        boards = {part: rng.integers(0, 2, (16, *leaf.shape[1:])).astype(leaf.dtype)
                  for part, leaf in example.items()}
        boards["legal"][:, 3] = True
        return boards
    if name == "masked_text":
        return rng.integers(97, 123, (1, 32)).astype(np.uint8)
    shape, top = ((8, 12, 12, 3), 256) if name == "folder" else ((16, 8, 8, 1), 17)
    return rng.integers(0, top, shape).astype(np.uint8)


def outputs_of(run, inputs) -> dict:
    """Return {name: array}, all that a restored run makes of the inputs."""
    if run.config.task != "ppo":
        return {"predict": run.predict(inputs)}
    policy, value = karpjax.apply(run.model, run.params, {}, inputs)[0]
    return {"act": run.act(inputs), "policy": policy, "value": value}


def keep_expected(run, name: str, folder: pathlib.Path) -> None:
    inputs = inputs_for(name, run.task.source.example[run.task.inputs])
    inputs = inputs if isinstance(inputs, dict) else {"": inputs}
    outputs = outputs_of(run, inputs.get("", inputs))
    np.savez_compressed(folder / "expected.npz", **{f"inputs/{k}": v for k, v in inputs.items()},
                        **{f"outputs/{k}": v for k, v in outputs.items()})


def write_rows(file: pathlib.Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_kind(name: str, mesh, scratch: pathlib.Path) -> None:
    """Train to the end, keep the state in the middle, and check that it goes on as it did."""
    from karpjax import metrics
    from karpjax.evaluate import make_evaluator
    kind = KINDS[name]
    config = real(kind.file, {**kind.changes, "steps": kind.steps, "eval_every": kind.at,
                              "save_every": kind.at, "keep": 3})
    whole, part = scratch / "whole" / name, scratch / "part" / name
    karpjax.loop.train(config, whole, mesh=mesh)
    shutil.copytree(whole, part)
    for extra in part.iterdir():
        if extra.name not in ("checkpoints", "config.json", "metrics.jsonl", "tokenizer.json"):
            shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
    shutil.rmtree(part / "checkpoints" / str(kind.steps))
    kept = [row for row in metrics.read_rows(part) if row["step"] <= kind.at]
    write_rows(part / "metrics.jsonl", kept)

    again = shutil.copytree(part, scratch / "again" / name)
    karpjax.loop.train(config, again, mesh=mesh)
    assert rows_of(again) == rows_of(whole), name
    assert json.loads((again / "summary.json").read_text())["resumed"]

    run = karpjax.restore(part)  # compared with the numbers of training itself
    assert run.step == kind.at
    for split in {key.split("/")[0] for key in run.metrics}:
        measured = make_evaluator(run.task, mesh)(run.variables, split)
        wrong = {key: value for key, value in measured.items()
                 if abs(run.metrics[f"{split}/{key}"] - value) > 1e-5}
        assert not wrong, (name, wrong, run.metrics)
    keep_expected(run, name, part)
    write_rows(part / "resumed.jsonl", rows_of(again, kind.at))
    for file in part.rglob("commit_success.txt"):  # Orbax notes where on this machine it wrote
        file.write_text(file.read_text().replace(str(scratch), ""))


def make_rows(name: str, mesh, scratch: pathlib.Path) -> None:
    from guarantees.registry import config_of
    record = config_of(name)[1] if name == "finetune" else None
    karpjax.loop.train(frozen_config(name), scratch / "rows" / name, mesh=mesh, record=record)
    (scratch / "frozen").mkdir(exist_ok=True)
    write_rows(scratch / "frozen" / f"{name}.jsonl", rows_of(scratch / "rows" / name))


def main(argv):
    from guarantees.harness import mesh_of
    from karpjax.export import export
    from stand_ins import prepare_stand_ins
    if TARGET.exists():
        raise karpjax.UserError(f"{TARGET.name} is there already, and is meant to stay")
    with tempfile.TemporaryDirectory() as scratch:
        scratch, mesh = pathlib.Path(scratch), mesh_of(1)
        os.environ["TFDS_DATA_DIR"] = str(scratch / "tfds")
        prepare_stand_ins(scratch / "tfds")
        pictures(scratch / "pictures")
        os.chdir(scratch)  # config.data.dir stands in it: a name, and no machine's path
        for name in KINDS:
            make_kind(name, mesh, scratch)
        exported = scratch / "part" / "exported"
        exported.mkdir()
        export(scratch / "part" / "ema", exported / "run.safetensors")
        keep_expected(karpjax.restore(exported / "run.safetensors"), "exported", exported)
        for name in (*FROZEN, "finetune"):
            make_rows(name, mesh, scratch)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=TESTS, capture_output=True,
                                text=True, check=True).stdout.strip()
        made = {"commit": commit, "versions": karpjax.loop.versions(), "machine": machine(),
                "XLA_FLAGS": os.environ["XLA_FLAGS"].strip()}
        (scratch / "part" / "made.json").write_text(json.dumps(made, indent=1) + "\n")
        shutil.copytree(scratch / "frozen", scratch / "part" / "rows")
        shutil.copytree(scratch / "part", TARGET)


if __name__ == "__main__":
    from karpjax import cli
    cli.run(main)
