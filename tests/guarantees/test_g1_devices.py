"""G1: the number of devices changes nothing.

1, 2 and 8 devices give the same losses and parameters. The 8 are 2 x 4, with fsdp.
"""
import operator

from guarantees.harness import differences, mesh_of, on_eight, reference, run, uneven
from guarantees.registry import TASKS, config_of
import jax
import jax.numpy as jnp
import pytest

from karpjax.core import sharding
from karpjax.core.step import ratio

MESHES = [(2, 1), (2, 4)]  # the second is 8 devices, with fsdp
# 8 devices show what 2 show: 2 are for the full run.
CASES = [pytest.param(name, mesh, marks=[pytest.mark.full] * (mesh == (2, 1)), id=f"{name}-{mesh}")
         for name in TASKS for mesh in MESHES]


@pytest.mark.parametrize("name, mesh", CASES)
def test_same_losses_and_parameters(name, mesh):
    one = reference(name)
    many = on_eight(name) if mesh == (2, 4) else \
        run(*config_of(name), mesh_of(*mesh), change=uneven)
    assert differences(many.metrics, one.metrics) == []
    assert differences(many.state, one.state) == []
    assert many.metrics["loss"].std() > 0  # something was learned from something


@pytest.mark.parametrize("name", TASKS)
def test_the_batch_is_sharded(name):
    """Each of 8 devices does about an eighth of the arithmetic.

    The optimizer, on every device, is the rest.
    """
    assert on_eight(name).flops < 0.5 * reference(name).flops


@pytest.mark.parametrize("name", ["masked_text"])
def test_mutant_unsharded_batch(name, monkeypatch):
    """Every device does all the work and gets the same numbers: only the arithmetic shows it."""
    one = reference(name).flops
    monkeypatch.setattr(sharding, "batch_sharding", sharding.replicated)
    assert run(*config_of(name), mesh_of(8), steps=1).flops > 0.5 * one


def mean_of_means(parts: int):
    """Build the classic bug: a mean on each device, then the mean of those."""
    def change(experiment):
        experiment = uneven(experiment)
        task = experiment.task

        def loss(params, model_state, batch, key):
            split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
            rows = [jax.tree.map(operator.itemgetter(j), split) for j in range(parts)]
            each = [task.loss(params, model_state, row, key) for row in rows]
            means = [sum(ratio(*pair, empty=0.0) for pair in losses.values())
                     for losses, _, _ in each]
            return {"loss": (sum(means) / parts, jnp.float32(1))}, {}, each[-1][2]
        experiment.task = type(task)(task.model, task.source, loss, inputs=task.inputs)
        return experiment
    return change


@pytest.mark.parametrize("name", ["masked_text", pytest.param("ppo", marks=pytest.mark.full)])
def test_mutant_mean_of_means(name):
    config, task_file = config_of(name, exact=True)
    one = reference(name, exact=True).state
    two = run(config, task_file, mesh_of(2), change=mean_of_means(2)).state
    names = [n for n in one if n.startswith("params/")]
    assert differences({n: one[n] for n in names}, {n: two[n] for n in names}) != []


def test_gradients_in_shard_map_are_summed_already():
    """In jax.shard_map, pmean(grad(loss)(replicated params)) is n times too large.

    A trap, kept in sight. The step does not do this, and whoever writes a shard_map loss by hand
    must not either.
    """
    from jax.sharding import PartitionSpec as P
    mesh, x = mesh_of(8), jnp.arange(16.0)

    def loss(w, x):
        return jnp.mean(w * x)

    by_hand = jax.shard_map(lambda w, x: jax.lax.pmean(jax.grad(loss)(w, x), ("data", "fsdp")),
                            mesh=mesh,
                            in_specs=(P(), P(("data", "fsdp"))), out_specs=P())
    right = jax.grad(loss)(2.0, x)
    assert jnp.allclose(by_hand(2.0, x), 8 * right)
    assert jnp.allclose(jax.jit(jax.grad(loss))(
        2.0, sharding.put(x, sharding.batch_sharding(mesh))), right)
