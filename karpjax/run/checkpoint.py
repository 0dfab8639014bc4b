"""Checkpoints: everything a run needs to go on, and to be understood without its files.

    WORKDIR/checkpoints/STEP/state    the TrainState, by Orbax
    WORKDIR/checkpoints/STEP/meta     JSON: schema, config, the task's own file, metrics, versions, and a fingerprint

The fingerprint is a checksum of every leaf, computed on the devices when saving and again after loading, so a damaged file is
found whatever part of it was hit; the loop then falls back to the checkpoint before. It is an integer sum, the same on any
number of devices.
"""
import contextlib
import json
import os
import re
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from karpjax.core import files, old_names
from karpjax.core.errors import Outage, UserError, outage, storage
from karpjax.core.state import TrainState
from karpjax.core.trees import check_names, first_line, mix, path_name

SCHEMA = 1
FOLDER = "checkpoints"
EXPORTED = ".safetensors"


class Damaged(UserError):
    """A checkpoint that cannot be read; the one before may be whole."""


class Checkpoints:
    """The checkpoints of a workdir, for the loop: saves in the background, restores the newest that is whole.

    keep         newest checkpoints kept; the best by `best` ("max validation/accuracy") stays too
    keep_every   > 0: and those of steps that it divides

    They are Orbax's preservation policy too, since Orbax forgets the metrics of older steps when a
    run starts again: they are read from our own meta.
    """

    def __init__(self, workdir, keep: int = 2, best: str = "", keep_every: int = 0):
        self.keep, self.best, self.keep_every, self.folder = keep, best, keep_every, epath.Path(workdir) / FOLDER
        self.options = ocp.CheckpointManagerOptions(preservation_policy=self, cleanup_tmp_directories=True)
        with storage(self.folder):
            self.manager = ocp.CheckpointManager(self.folder, options=self.options)
        self.metrics = self._stored_metrics() if best else {}

    def _stored_metrics(self) -> dict:
        """{step: metrics} of the checkpoints that are there; damage is for `restore` to report."""
        found = {}
        for step in self.manager.all_steps():
            with contextlib.suppress(Damaged):
                found[step] = read_meta(self.folder / str(step)).get("metrics")
        return found

    def kept(self, steps) -> set[int]:
        """Those of `steps` (increasing) that stay."""
        best = best_of(self.best, {s: self.metrics.get(s) for s in steps}) if self.best else None
        return {*steps[-self.keep:], *(s for s in steps if s == best or self.keep_every and s % self.keep_every == 0)}

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Answers Orbax, which asks at each save, on every process alike."""
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def save(self, step: int, state: TrainState, meta: dict, metrics: dict | None) -> None:
        """Start saving; returns when the state has been copied, so the caller may donate it. Errors of a save under way
        surface here or in `wait`. metrics: of the evaluation at this very step, if there was one."""
        tree = to_tree(state)
        meta = {"schema": SCHEMA, **meta, "step": step, "metrics": metrics, "fingerprint": fingerprint(tree),
                "shapes": {path_name(path): list(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}}
        self.metrics[step] = metrics
        with _reported():
            taken = (self.folder / str(step)).exists() and step in steps_of(self.folder)
            saved = not taken and self.manager.save(step, args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)))
        if not saved:  # Orbax says no more than that, and the run would go on without saving
            taken = step if taken else self.manager.latest_step()
            raise UserError(f"step {step} could not be saved: {self.folder / str(taken)} is in the way; move it out of "
                            f"{self.folder}, and start the same command again")

    def restore(self, abstract: TrainState, say=print) -> tuple[TrainState, dict] | None:
        """The newest checkpoint that is whole, placed as `abstract` says (ShapeDtypeStructs with shardings), and its meta.

        A damaged one is reported, moved aside to WORKDIR/damaged and skipped. None if there is none. An error of the
        storage is no damage (Outage).
        """
        aside = self.folder.parent / "damaged"
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                meta = read_meta(self.folder / str(step))
                if meta["step"] != step:  # Orbax would refuse every save up to the folder's number
                    raise UserError(f"{self.folder / str(step)} holds step {meta['step']}, not {step}; move it out of "
                                    f"{self.folder}, or give it its own number")
                check_names({path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(to_tree(abstract))},
                            stored_shapes(self.folder / str(step)), self.folder / str(step),
                            fix="the task was changed: change it back, or use a new --workdir and config.init_from")
                with storage(self.folder / str(step)):
                    tree = self.manager.restore(step, args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(to_tree(abstract)))).state
                damaged = different(meta["fingerprint"], fingerprint(tree))
                if damaged:
                    raise ValueError(f"checksum of {', '.join(damaged[:3])} differs")
                return from_tree(tree, abstract), meta
            except Exception as error:  # Orbax and TensorStore report damage in many ways
                if isinstance(error, UserError) and not isinstance(error, Damaged) or "RESOURCE_EXHAUSTED" in str(error):
                    raise  # the checkpoint is sound; the model is another one, or the device too small
                say(f"checkpoint {step} is damaged ({type(error).__name__}: {first_line(error)}); "
                    f"moved to {aside}; falling back to the one before")
                with storage(self.folder / str(step)):
                    self._set_aside(step)
        with storage(aside):
            steps = steps or (sorted(path.name for path in aside.iterdir()) if aside.exists() else [])
        if steps:  # starting anew would wipe the record of a long run
            raise UserError(f"{self.folder}: none of the checkpoints {steps} is whole; they are in {aside}; move one back, "
                            "or use a new --workdir")
        return None

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.folder.parent / "damaged"
            aside.mkdir(parents=True, exist_ok=True)
            if (aside / str(step)).exists():
                (aside / str(step)).rmtree()
            (self.folder / str(step)).rename(aside / str(step))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils
            multihost_utils.sync_global_devices("damaged checkpoint set aside")
        self.manager.close()
        self.manager = ocp.CheckpointManager(self.folder, options=self.options)

    def wait(self) -> None:
        """Until the save under way is on disk, and what a kill kept Orbax from deleting is gone."""
        with _reported():
            self.manager.wait_until_finished()
            steps = self.manager.all_steps()
            for step in set(steps) - self.kept(steps) if jax.process_index() == 0 else ():
                (self.folder / str(step)).rmtree(missing_ok=True)

    def close(self) -> None:
        self.manager.close()


@contextlib.contextmanager
def _reported():
    """A save that fails (a full disk) is one clear line; the checkpoints before it are untouched."""
    try:
        yield
    except Exception as error:  # in its background thread Orbax and TensorStore raise all kinds
        if said := outage(error):
            raise Outage(f"a checkpoint could not be written ({said}); the ones before it are whole: start the same command "
                         "again to go on") from error
        system = re.search(r"([^:]+) \[os_error_code", str(error))  # the end of TensorStore's long line
        reason = system[1].strip() if system else first_line(error)
        raise UserError(f"a checkpoint could not be written ({reason}); the ones before it are whole: make room, then start "
                        "the same command again to go on") from error


# ------------------------------------------------------------------------------------- reading, also without the loop

def absolute(path) -> epath.Path:
    """Orbax reads and writes absolute paths only; gs://... is one."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(os.path.expanduser(path)))


def steps_of(folder) -> list[int]:
    """The steps of the finished checkpoints in a folder, by increasing number."""
    folder = epath.Path(folder)
    with storage(folder):
        found = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        return sorted(step for step in set(found) if (folder / str(step)).exists())  # no "0050"


@storage("looking for a checkpoint")
def find(path, which: str = "newest") -> epath.Path:
    """The checkpoint folder for PATH: a workdir (its newest, or its best, checkpoint) or one checkpoint; an exported file."""
    path = absolute(path)
    if (path / "meta").exists() or is_exported(path):
        return path
    folder = path / FOLDER if (path / FOLDER).exists() else path
    steps = steps_of(folder)
    if not steps:
        raise UserError(f"{path}: no checkpoint here; expected a workdir with {FOLDER}/STEP in it, or one STEP folder")
    if which == "best":
        metas = {step: read_meta(folder / str(step)) for step in steps}
        rule = metas[steps[-1]]["config"]["best"] or "min validation/loss"
        best = best_of(rule, {step: meta["metrics"] for step, meta in metas.items()})
        if best is None:
            raise UserError(f"{path}: no checkpoint has the metric {rule.split()[1]!r}; restore the newest one")
        return folder / str(best)
    return folder / str(steps[-1])


def best_of(rule: str, metrics: dict) -> int | None:
    """Name the best step by a rule as "max validation/accuracy", the earliest of equals.

    metrics    {step: {name: value}, or None where there was no evaluation}
    """
    mode, name = rule.split()
    ranked = {step: metrics[step][name] for step in sorted(metrics) if (metrics[step] or {}).get(name) is not None}
    return (max if mode == "max" else min)(ranked, key=ranked.get) if ranked else None


def is_exported(path) -> bool:
    """NAME.safetensors with its NAME.json (karpjax/export.py): read like a checkpoint, by the functions below."""
    path = epath.Path(path)
    return path.suffix == EXPORTED and path.exists() and path.with_suffix(".json").exists()


def read_meta(folder) -> dict:
    """The JSON beside a checkpoint's state; refuses a schema from the future."""
    folder = epath.Path(folder)
    try:
        with storage(folder):
            file = folder.with_suffix(".json") if is_exported(folder) else folder / "meta" / "metadata"
            meta = json.loads(file.read_text())
        future = meta["schema"] > SCHEMA
        meta["config"] = old_names.today(meta["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder}: its JSON cannot be read ({first_line(error)}); restore another checkpoint") from error
    if future:
        raise UserError(f"{folder}: checkpoint schema {meta['schema']}, this karpjax knows up to {SCHEMA}; upgrade karpjax")
    return meta


def load(folder, abstract: dict) -> dict:
    """Some entries of a checkpoint ({"params": ..., "model_state": ...}), placed as `abstract` says, on any devices.

    Names and shapes must agree: what is missing, unexpected or of another shape is listed. The fingerprint must agree too.
    """
    stored = {name: shape for name, shape in stored_shapes(folder).items() if name.split("/")[0] in abstract}
    wanted = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract)}
    check_names(wanted, stored, folder)
    loaded = load_named(folder, wanted)
    return jax.tree.map_with_path(lambda path, _: loaded[path_name(path)], abstract)


def load_named(folder, wanted: dict) -> dict:
    """{name: array} for {name: ShapeDtypeStruct or array}, from a checkpoint that has these names; checked by fingerprint."""
    folder, item = epath.Path(folder), {}
    expected = read_meta(folder)["fingerprint"]
    for name, leaf in wanted.items():
        *parents, last = name.split("/")
        node = item
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    if not item:
        return {}
    if is_exported(folder):
        with storage(folder):
            arrays = files.read_arrays(folder)
        tree = jax.tree.map_with_path(lambda path, leaf: jax.device_put(arrays[path_name(path)], leaf.sharding), item)
        return check_fingerprint(folder, expected, tree)
    try:
        with storage(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.restore(folder / "state", args=ocp.args.PyTreeRestore(
                item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True))
    except Outage:
        raise
    except Exception as error:  # Orbax and TensorStore report damage, and wrong shapes, in many ways
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); it is damaged, or of a model of other shapes") \
            from error
    return check_fingerprint(folder, expected, tree)


def check_fingerprint(folder, expected: dict, tree) -> dict:
    """{name: array} of what was loaded, if its fingerprint is the stored one."""
    found = fingerprint(tree)
    damaged = different({name: expected[name] for name in found}, found)
    if damaged:
        raise UserError(f"{folder}: checksum of {', '.join(damaged[:3])} differs: damaged; restore another checkpoint")
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def stored_shapes(folder) -> dict[str, tuple]:
    """{name: shape} of everything in a checkpoint."""
    return {name: tuple(shape) for name, shape in read_meta(folder)["shapes"].items()}


def to_tree(state: TrainState) -> dict:
    """Plain nested containers of plain arrays: what is stored. Typed PRNG keys become their data."""
    return {name: jax.random.key_data(value) if name == "key" and isinstance(value, jax.Array) else
            jax.ShapeDtypeStruct(jax.eval_shape(jax.random.key_data, value).shape, jnp.uint32, sharding=value.sharding)
            if name == "key" else value
            for name, value in vars(state).items()}


def from_tree(tree: dict, like: TrainState) -> TrainState:
    tree = dict(tree, key=jax.random.wrap_key_data(tree["key"]))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(TrainState(**tree)))


# ------------------------------------------------------------------------------------------------------ fingerprint

def fingerprint(tree: Any) -> dict[str, int]:
    """{leaf name: checksum}. A changed bit or two swapped elements change it, but for one chance in 2^32."""
    values = jax.device_get(_checksums([leaf for leaf in jax.tree.leaves(tree)]))
    return {path_name(path): int(value) for (path, _), value in zip(jax.tree.leaves_with_path(tree), values)}


@jax.jit
def _checksums(leaves):
    return [_checksum(leaf) for leaf in leaves]


def _checksum(x):
    """Sum over elements of a hash of bits and position, modulo 2^32: exact in any order, so on any sharding.

    Part of the schema: with another hash every old checkpoint would look damaged.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{x.dtype.itemsize * 8}").astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        position = position * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(mix(bits ^ mix(position + 1)), dtype=jnp.uint32)


def different(expected: dict, found: dict) -> list[str]:
    return [name for name in sorted(set(expected) | set(found)) if expected.get(name) != found.get(name)]
