"""G6: a checkpoint restores on another topology, bit by bit.

A missing or unexpected name is an error that lists both.
"""
import functools

from guarantees.harness import mesh_of, named, on_eight
from guarantees.registry import TASKS, config_of
import jax
import pytest

import karpjax
from karpjax.core.errors import UserError
from karpjax.run import checkpoint
from karpjax.run.experiment import assemble
from karpjax.run.workdir import checkpoint_meta


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a task's only checkpoint, of 12 steps on 8 devices, the state sharded
    over four of them.
    """
    @functools.cache
    def save(name):
        workdir, end = tmp_path_factory.mktemp(name), on_eight(name)
        saves = checkpoint.Checkpoints(workdir)
        saves.save(12, end.last, checkpoint_meta(end.experiment, {}), None)
        saves.close()
        return workdir
    return save


@functools.cache
def assembled(name, *mesh):
    return assemble(*config_of(name), mesh_of(*mesh))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("mesh", [(1, 2), (1, 1)], ids=str)
def test_on_fewer_devices(name, mesh, saved):
    """From 8 devices to 2 to 1 the whole state restores, with the checksums of the devices that
    saved it."""
    experiment = assembled(name, *mesh)
    state, meta = checkpoint.Checkpoints(saved(name)).restore(experiment.abstract)
    assert {leaf.sharding.mesh.size
            for leaf in jax.tree.leaves(state.params)} == {mesh[0] * mesh[1]}
    assert checkpoint.fingerprint(checkpoint.to_tree(state)) == meta["fingerprint"]
    assert meta["step"] == 12


def test_from_one_device_back_to_fsdp(saved, tmp_path):
    """From 8 devices with fsdp to 1 and back, the state that one device saved is split again."""
    one, eight = (assembled("ppo", *mesh) for mesh in ((1, 1), (4, 2)))
    state, meta = checkpoint.Checkpoints(saved("ppo")).restore(one.abstract)
    saves = checkpoint.Checkpoints(tmp_path)
    saves.save(12, state, {}, None)
    saves.close()
    back, _ = checkpoint.Checkpoints(tmp_path).restore(eight.abstract)
    assert checkpoint.fingerprint(checkpoint.to_tree(back)) == meta["fingerprint"]
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(back.params))


@pytest.mark.parametrize("name", TASKS)
def test_in_two_lines(name, saved):
    """Without config or task file, on one device, parameters are as saved and predictions have the
    right shape."""
    run = karpjax.restore(saved(name))
    stored = named(checkpoint.Checkpoints(saved(name)).restore(assembled(name, 1, 1).abstract)[0])
    params, model_state = ("ema", "ema_state") if run.config.ema_decay else \
        ("params", "model_state")
    statistics = {part: tree for part, tree in run.variables.items()
                  if part not in ("params", "source")}
    for place, tree in ((params, run.params), (model_state, statistics)):
        for leaf_name, value in named(tree).items():
            assert (value == stored[f"{place}/{leaf_name}"]).all()
    source, inputs = run.task.source, run.task.inputs
    raw = {name: x.astype(source.stored[name])
           if name in source.stored and not isinstance(x, dict) else x  # a dict: an observation
           for name, x in source.example.items()}
    given = raw[inputs] if isinstance(inputs, str) else {name: raw[name] for name in source.stored}
    if isinstance(run.task.predict, str):          # a flow has no outputs for a picture
        with pytest.raises(UserError, match=run.task.predict[:20]):
            run.predict(given)
        made = [getattr(run, method)() for method in run.task.methods]  # what it gives instead
        assert made and all(map(len, made))
        return
    found = jax.tree.leaves(run.predict(given))    # a detector's result is a dict
    assert found and all(len(leaf) == 1 for leaf in found)


def dropped(tree: dict) -> dict:
    """Return the same variables with one parameter renamed."""
    params = dict(tree["params"])
    first = sorted(params)[0]
    return {**tree, "params": {**{k: v for k, v in params.items() if k != first},
                               "renamed": params[first]}}


def load_with_a_dropped_name(workdir):
    run = karpjax.restore(workdir)
    from karpjax.run.restore import on_default_device
    wanted = dropped({"params": run.params})
    return checkpoint.load(checkpoint.find(workdir), on_default_device(wanted))


def test_names_must_agree(saved):
    with pytest.raises(karpjax.UserError, match="missing in the checkpoint: .*renamed.*"
                                                "unexpected in it: .*conv0/kernel"):
        load_with_a_dropped_name(saved("digits"))


def test_mutant_names_not_compared(saved, monkeypatch):
    """Without the comparison no error lists the names: the test above would fail."""
    monkeypatch.setattr(checkpoint, "check_names", lambda *args: None)
    try:
        load_with_a_dropped_name(saved("digits"))
    except Exception as error:
        assert "unexpected in it" not in str(error)
