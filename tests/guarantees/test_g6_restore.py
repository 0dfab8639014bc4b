"""G6: a checkpoint restores on another topology, bit by bit.

A missing or unexpected name is an error that lists both.
"""
import functools

from guarantees.harness import mesh_of, named
from guarantees.registry import TASKS, config_of
import jax
import pytest

import karpjax
from karpjax.run import checkpoint, loop
from karpjax.run.experiment import assemble


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """Return the workdir of a task trained for 4 steps on 8 devices, the state sharded over two.

    Nothing is drawn.
    """
    @functools.cache
    def run(name):
        workdir = tmp_path_factory.mktemp(name)
        config, task_file = config_of(name, steps=4, eval_every=4, mesh={"data": 4, "fsdp": 2})
        loop.fit(config, workdir, task_file=task_file)
        return workdir
    with pytest.MonkeyPatch.context() as patch:
        for name in ("curves", "show"):
            patch.setattr(loop.pictures, name, lambda *drawn: None)
        yield run


@functools.cache
def assembled(name, *mesh):
    return assemble(*config_of(name), mesh_of(*mesh))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("mesh", [(1, 2), (1, 1)], ids=str)
def test_on_fewer_devices(name, mesh, on_eight):
    """From 8 devices to 2 to 1 the whole state restores, with the checksums of the devices that
    saved it."""
    experiment = assembled(name, *mesh)
    state, meta = checkpoint.Checkpoints(on_eight(name)).restore(experiment.abstract)
    assert {leaf.sharding.mesh.size
            for leaf in jax.tree.leaves(state.params)} == {mesh[0] * mesh[1]}
    assert checkpoint.fingerprint(checkpoint.to_tree(state)) == meta["fingerprint"]
    assert meta["step"] == 4


def test_from_one_device_back_to_fsdp(on_eight, tmp_path):
    """From 8 devices with fsdp to 1 and back, the state that one device saved is split again."""
    one, eight = (assembled("ppo", *mesh) for mesh in ((1, 1), (4, 2)))
    state, meta = checkpoint.Checkpoints(on_eight("ppo")).restore(one.abstract)
    saves = checkpoint.Checkpoints(tmp_path)
    saves.save(4, state, {}, None)
    saves.close()
    back, _ = checkpoint.Checkpoints(tmp_path).restore(eight.abstract)
    assert checkpoint.fingerprint(checkpoint.to_tree(back)) == meta["fingerprint"]
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(back.params))


@pytest.mark.parametrize("name", TASKS)
def test_in_two_lines(name, on_eight):
    """Without config or task file, on one device, parameters are as saved and predictions have the
    right shape."""
    run = karpjax.restore(on_eight(name))
    saved = named(checkpoint.Checkpoints(on_eight(name)).restore(assembled(name, 1, 1).abstract)[0])
    key = "ema" if run.config.ema_decay else "params"
    for leaf_name, value in named(run.params).items():
        assert (value == saved[f"{key}/{leaf_name}"]).all()
    inputs = run.task.source.example[run.task.inputs]
    assert run.predict(inputs).shape[0] == 1


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


def test_names_must_agree(on_eight):
    with pytest.raises(karpjax.UserError, match="missing in the checkpoint: .*renamed.*"
                                                "unexpected in it: .*conv0/kernel"):
        load_with_a_dropped_name(on_eight("digits"))


def test_mutant_names_not_compared(on_eight, monkeypatch):
    """Without the comparison no error lists the names: the test above would fail."""
    monkeypatch.setattr(checkpoint, "check_names", lambda *args: None)
    try:
        load_with_a_dropped_name(on_eight("digits"))
    except Exception as error:
        assert "unexpected in it" not in str(error)
