"""Checkpoints: everything a run needs to go on, and to be understood without its files.

    WORKDIR/checkpoints/STEP/state    the TrainState, by Orbax
    WORKDIR/checkpoints/STEP/meta     JSON: schema, config, the task's own file, metrics, versions,
                                      a fingerprint of the state (run/fingerprint.py) and a hash of
                                      all that (run/meta.py)

Fingerprint and hash are computed when saving and again after loading. So damage to any part of a
file is detected, and the loop falls back to the checkpoint before.
"""
import contextlib
import os
import re

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from karpjax.core import files
from karpjax.core.errors import Damaged, Outage, UserError, check_choice, outage, storage
from karpjax.core.state import TrainState
from karpjax.core.trees import check_names, first_line, named, path_name
from karpjax.run import distributed, metrics as rows
from karpjax.run.durable import check_path, flush_folder
from karpjax.run.fingerprint import different, fingerprint
from karpjax.run.meta import FOLDER, SCHEMA, is_exported, read_meta, sealed
from karpjax.run.stored import check_opens, read_part, read_state
from karpjax.run.together import is_refusal, together


class NoCheckpoint(UserError):
    """A path where no run is."""


class Checkpoints:
    """The checkpoints of a workdir: saves in the background, restores the newest that is whole.

    keep         newest checkpoints kept; the best by `best` ("max validation/accuracy") stays too
    keep_every   > 0: and those of steps that it divides
    """

    def __init__(self, workdir, keep: int = 2, best: str = "", keep_every: int = 0):
        self.keep, self.best, self.keep_every = keep, best, keep_every
        self.folder = epath.Path(workdir) / FOLDER
        check_path(self.folder)
        # Orbax forgets the metrics of older steps when a run starts again. So the policy of what
        # stays is this object's, which reads them from our own meta.
        before_commit = ocp.AsyncOptions(post_finalization_callback=self._before_commit)
        self.options = ocp.CheckpointManagerOptions(
            preservation_policy=self, cleanup_tmp_directories=True, async_options=before_commit)
        with storage(self.folder):
            self.manager = ocp.CheckpointManager(self.folder, options=self.options)
        with together():
            self.metrics = self._stored_metrics() if best else {}

    def _stored_metrics(self) -> dict:
        """Return {step: metrics} of the stored checkpoints. Damage is for `restore` to report."""
        metrics = {}
        for step in self.manager.all_steps():
            with contextlib.suppress(Damaged):
                metrics[step] = read_meta(self.folder / str(step)).get("metrics")
        return metrics

    def kept(self, steps) -> set[int]:
        """Return those of `steps` (increasing) that stay: newest, best, and every so many."""
        best = best_of(self.best, {s: self.metrics.get(s) for s in steps}) if self.best else None
        every = (s for s in steps if self.keep_every and s % self.keep_every == 0)
        return {*steps[-self.keep:], *every, *([] if best is None else [best])}

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Answer Orbax, which asks at each save, on every process alike."""
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def save(self, step: int, state: TrainState, meta: dict, metrics: dict | None) -> None:
        """Start saving, and return once the state has been copied: the caller may donate it.

        metrics   of the evaluation at this very step, if there was one
        Errors of a save under way surface here or in `wait`.
        """
        tree = to_tree(state)
        shapes = {name: list(leaf.shape) for name, leaf in named(tree).items()}
        meta = sealed({"schema": SCHEMA, **meta, "step": step, "metrics": metrics,
                       "fingerprint": fingerprint(tree), "shapes": shapes})
        stored = self.manager.all_steps()
        self.metrics = {s: self.metrics.get(s) for s in stored} | {step: metrics}
        with _reported():
            taken = (self.folder / str(step)).exists() and step in steps_of(self.folder)
            args = ocp.args.Composite(state=ocp.args.StandardSave(tree),
                                      meta=ocp.args.JsonSave(meta))
            saved = not taken and self.manager.save(step, args=args)
        if not saved:  # Orbax reports no more than that, and the run would go on without saving
            blocker = self.folder / str(step if taken else self.manager.latest_step())
            raise UserError(f"step {step} could not be saved: {blocker} is in the way; move it out "
                            f"of {self.folder}, and start the same command again")

    def _before_commit(self) -> None:
        """Look, in the background, that a save under way can be read, and let the disk hold it.

        Only then Orbax renames it, and deletes older ones.
        """
        if jax.process_index() or "://" in str(self.folder):
            return
        with storage(self.folder):
            # The rows first: a checkpoint claims to have seen them.
            if (file := self.folder.parent / rows.NAME).exists():
                files.flush(file)
            for folder in self.folder.glob("*.orbax-checkpoint-tmp*"):
                check_opens(folder)
                flush_folder(folder)

    def restore(self, abstract: TrainState, say=print) -> tuple[TrainState, dict] | None:
        """Return the newest checkpoint that is whole and its meta, or None if there is none.

        abstract   ShapeDtypeStructs with shardings: where each array goes
        A damaged checkpoint is reported, moved aside to WORKDIR/damaged and skipped. An error of
        the storage is no damage (Outage). The processes of a run do the same, if only one of them
        sees the damage too.
        """
        aside = self.folder.parent / "damaged"
        steps = sorted(self.manager.all_steps(), reverse=True)
        distributed.check_same({"checkpoints": steps})
        for step in steps:
            try:
                return self._restore_step(step, abstract)
            except Exception as error:  # Orbax and TensorStore report damage in many ways
                if is_refusal(error) or isinstance(error, Outage):
                    raise  # the model is another one, the device too small, the storage away
                say(f"checkpoint {step} is damaged ({type(error).__name__}: {first_line(error)}); "
                    f"moved to {aside}; falling back to the one before")
                self._set_aside(step)
        with together(), storage(aside):
            if not steps and aside.exists():
                steps = sorted(path.name for path in aside.iterdir())
        if steps:  # a start from scratch would wipe the record of a long run
            raise UserError(f"{self.folder}: none of the checkpoints {steps} is whole; they are in "
                            f"{aside}; move one back, or use a new --workdir")
        return None

    def _restore_step(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """Return one checkpoint and its meta. Raise if it is not this model's, or damaged."""
        folder, target = self.folder / str(step), to_tree(abstract)
        with together(), storage(folder):
            meta = read_meta(folder)
            if without_statistics := meta["schema"] < 2:
                target = {name: part for name, part in target.items() if name != "ema_state"}
            check_names(named(target), stored_shapes(folder), folder,
                        fix="the task was changed: change it back, or use a new --workdir and "
                            "config.init_from")
            tree = read_state(folder, ocp.StandardCheckpointHandler(),
                              ocp.args.StandardRestore(target))
        checksums = fingerprint(tree)
        with together():
            if damaged := different(meta["fingerprint"], checksums):
                raise Damaged(f"checksum of {', '.join(damaged[:3])} differs")
            if int(tree["step"]) != step:
                raise Damaged(f"its state is of step {int(tree['step'])}")
        if without_statistics:
            live = tree["model_state"] if abstract.ema else {}
            tree["ema_state"] = jax.tree.map(jnp.copy, live)
        return from_tree(tree, abstract), meta

    def _set_aside(self, step: int) -> None:
        """Move a damaged checkpoint to WORKDIR/damaged, on the first process, for all."""
        with together(), storage(self.folder / str(step)):
            if jax.process_index() == 0:
                aside = self.folder.parent / "damaged"
                aside.mkdir(parents=True, exist_ok=True)
                if (aside / str(step)).exists():
                    (aside / str(step)).rmtree()
                (self.folder / str(step)).rename(aside / str(step))
        self.manager.close()
        self.manager = ocp.CheckpointManager(self.folder, options=self.options)

    def wait(self) -> None:
        """Wait for the save under way, then delete what a kill kept Orbax from deleting."""
        with _reported():
            self.manager.wait_until_finished()
            steps = self.manager.all_steps()
            if jax.process_index() == 0:
                for step in set(steps) - self.kept(steps):
                    (self.folder / str(step)).rmtree(missing_ok=True)

    def close(self) -> None:
        self.manager.close()


@contextlib.contextmanager
def _reported():
    """Turn a save that fails into one line. The checkpoints before it are untouched."""
    try:
        yield
    except Exception as error:  # in its background thread Orbax and TensorStore raise all kinds
        if reason := outage(error):
            raise Outage(f"a checkpoint could not be written ({reason}); the ones before it are "
                         "whole: start the same command again to go on") from error
        # The end of TensorStore's long line.
        system = re.search(r"([^:]+) \[os_error_code", str(error))
        reason = system[1].strip() if system else first_line(error)
        raise UserError(f"a checkpoint could not be written ({reason}); the ones before it are "
                        "whole: make room, then start the same command again to go on") from error


# ------------------------------------------------------------------ reading, also without the loop

def absolute(path) -> epath.Path:
    """Return an absolute path, as gs://... is one, since Orbax takes no other."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(os.path.expanduser(path)))


def steps_of(folder) -> list[int]:
    """Return the steps of the finished checkpoints in a folder, by increasing number."""
    folder = epath.Path(folder)
    with storage(folder):
        steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        return sorted(step for step in set(steps) if (folder / str(step)).exists())  # no "0050"


@storage("looking for a checkpoint")
def find(path, which: str = "newest") -> epath.Path:
    """Return the checkpoint at a path: a workdir's newest or best, a STEP, an exported file."""
    check_choice(which, ("newest", "best"), "which")
    path = absolute(path)
    if is_exported(path):
        return path
    check_path(path)
    if (path / "meta").exists():
        return path
    folder = path / FOLDER if (path / FOLDER).exists() else path
    steps = steps_of(folder)
    if not steps:
        raise NoCheckpoint(f"{path}: no checkpoint here; expected a workdir with {FOLDER}/STEP in "
                           "it, or one STEP folder")
    if which == "best":
        metas = {step: read_meta(folder / str(step)) for step in steps}
        rule = metas[steps[-1]]["config"]["best"] or "min validation/loss"
        best = best_of(rule, {step: meta["metrics"] for step, meta in metas.items()})
        if best is None:
            raise UserError(f"{path}: no checkpoint has the metric {rule.split()[1]!r}; restore "
                            "the newest one")
        return folder / str(best)
    return folder / str(steps[-1])


def best_of(rule: str, metrics: dict) -> int | None:
    """Return the best step by a rule as "max validation/accuracy", the earliest of equals.

    metrics    {step: {name: value}, or None if there was no evaluation}
    """
    mode, name = rule.split()
    ranked = {step: metrics[step][name] for step in sorted(metrics)
              if (metrics[step] or {}).get(name) is not None}
    return (max if mode == "max" else min)(ranked, key=ranked.get) if ranked else None


def load(folder, abstract: dict) -> dict:
    """Load some entries of a checkpoint, on any devices.

    abstract   {"params": ..., "model_state": ...}, of ShapeDtypeStructs with shardings
    Raises UserError that lists names that are missing or unexpected and shapes that differ, and if
    the fingerprint differs.
    """
    stored = {name: shape for name, shape in stored_shapes(folder).items()
              if name.split("/")[0] in abstract}
    wanted = named(abstract)
    check_names(wanted, stored, folder,
                "the model's code has changed since the save: restore with the code of then")
    loaded = load_named(folder, wanted)
    return jax.tree.map_with_path(lambda path, _: loaded[path_name(path)], abstract)


def load_named(folder, wanted: dict) -> dict:
    """Load {name: array} for {name: ShapeDtypeStruct or array}, and check the fingerprint.

    The checkpoint must have these names.
    """
    folder, item = epath.Path(folder), nested(wanted)
    expected = read_meta(folder)["fingerprint"]
    if not item:
        return {}
    if is_exported(folder):
        with storage(folder):
            arrays = files.read_arrays(folder)
        tree = jax.tree.map_with_path(
            lambda path, leaf: jax.device_put(arrays[path_name(path)], leaf.sharding), item)
        return check_fingerprint(folder, expected, tree)
    with together():
        tree = read_part(folder, item, ocp.checkpoint_utils.construct_restore_args(item))
    return check_fingerprint(folder, expected, tree)


def nested(wanted: dict) -> dict:
    """Return the abstract tree {"params": {"conv": ...}} for {"params/conv/kernel": array}."""
    tree = {}
    for name, leaf in wanted.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return tree


def check_fingerprint(folder, expected: dict, tree) -> dict:
    """Return {name: array} of a loaded tree, if its fingerprint is the stored one."""
    checksums = fingerprint(tree)
    damaged = different({name: expected[name] for name in checksums}, checksums)
    if damaged:
        raise UserError(f"{folder}: checksum of {', '.join(damaged[:3])} differs: damaged; restore "
                        "another checkpoint")
    return named(tree)


def stored_shapes(folder) -> dict[str, tuple]:
    """Return {name: shape} of everything in a checkpoint."""
    return {name: tuple(shape) for name, shape in read_meta(folder)["shapes"].items()}


def to_tree(state: TrainState) -> dict:
    """Return the state as a plain dict of plain arrays: the form that is stored.

    Orbax stores no typed PRNG key, so `key` becomes its data. The state may be abstract.
    """
    return {**vars(state), "key": key_data(state.key)}


def key_data(key):
    """Return the data of a typed PRNG key, uint32, or its shape if the key is abstract."""
    if isinstance(key, jax.Array):
        return jax.random.key_data(key)
    shape = jax.eval_shape(jax.random.key_data, key).shape
    return jax.ShapeDtypeStruct(shape, jnp.uint32, sharding=key.sharding)


def from_tree(tree: dict, like: TrainState) -> TrainState:
    """Return the state that `to_tree` made a dict of, with the containers of `like`."""
    tree = dict(tree, key=jax.random.wrap_key_data(tree["key"]))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(TrainState(**tree)))
