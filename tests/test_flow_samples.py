"""Samples of a flow are the same on 1, 2 and 8 devices, and on 2 processes."""
import functools
import json
import os

from guarantees.forks import Fork
from guarantees.harness import finished, mesh_of
from guarantees.registry import config_of
import jax
import numpy as np
import pytest

from karpjax.core.sharding import batch_sharding, make_mesh, put, replicated
from karpjax.core.task_file import build_task, load_task_module
from karpjax.launch.local import free_port
from karpjax.run import cli

STEPS, CLOSE = 50, 2e-4      # of pixels in -1 to 1: 1e-4 of their range


def flow():
    """Return a flow, and variables of a network that returns more than 0."""
    config, _ = config_of("flow")
    task = build_task(config, load_task_module("flow")[0])
    leaves, tree = jax.tree.flatten(jax.device_get(task.init(jax.random.key(0))))
    rng = np.random.default_rng(0)
    return task.methods["generate"].__self__, jax.tree.unflatten(
        tree, [leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves])


def drawn(mesh, numbers=range(16)) -> list[tuple[int, np.ndarray]]:
    """Return (place, samples) of each device of this process, guided, of these numbers."""
    sampler, variables = flow()
    numbers = np.asarray(numbers, np.uint32)
    rows = put((numbers, (numbers % 10).astype(np.int32)), batch_sharding(mesh))
    program = jax.jit(functools.partial(sampler.draw, steps=STEPS, guidance=2.0))
    made = program(put(variables, replicated(mesh)), jax.random.key(0), *rows)
    return sorted((shard.index[0].start or 0, np.asarray(shard.data))
                  for shard in made.addressable_shards if not shard.replica_id)


def whole(parts) -> np.ndarray:
    return np.concatenate([samples for _, samples in parts])


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    return whole(drawn(mesh_of(1)))


@pytest.mark.parametrize("devices", [2, 8])
def test_on_any_devices(alone, devices):
    parts = drawn(mesh_of(devices))
    assert len(parts) == devices and np.abs(alone).max() > 0.5
    np.testing.assert_allclose(whole(parts), alone, rtol=0, atol=CLOSE)


def test_other_numbers_are_other_samples(alone):
    """A sample keyed by its place would be the same."""
    others = whole(drawn(mesh_of(2), range(1, 17)))
    assert np.abs(others - alone).max((1, 2, 3)).min() > 0.1


def process(argv):
    """Print the samples of this process of two."""
    options = cli.parse(argv, __doc__, coordinator=str, process=0)
    cli.start_jax(1, options.coordinator, 2, options.process)
    print(json.dumps([(place, samples.tolist()) for place, samples in drawn(make_mesh())]))
    return 0


def test_on_two_processes(alone):
    flag, env = f"--coordinator=localhost:{free_port()}", {**os.environ, "JAX_PLATFORMS": "cpu"}
    both = [Fork(process, [flag, f"--process={i}"], env) for i in range(2)]
    parts = [json.loads(finished(each).splitlines()[-1]) for each in both]
    assert [[place for place, _ in part] for part in parts] == [[0], [8]]
    made = np.concatenate([np.float32(samples) for part in parts for _, samples in part])
    np.testing.assert_allclose(made, alone, rtol=0, atol=CLOSE)
