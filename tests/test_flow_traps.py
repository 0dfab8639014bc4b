"""Traps of flow matching: the direction of time, and samples that no data set could hold."""
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_flow import SCORES, task_of

import karpjax as kj
from karpjax.tasks import flow


class Echo(nn.Module):
    """A network that returns what it is given: the noisy picture and its time."""

    @nn.compact
    def __call__(self, z, train=False, t=None, label=None):
        return z if t is None else z + t[:, None, None, None]


def test_time_goes_from_noise_to_the_picture(monkeypatch):
    """In the loss: what a network sees at a time, and the velocity that is wanted of it."""
    monkeypatch.setattr(kj.models, "make_model", lambda *_, **__: Echo())
    task, _ = task_of(target="velocity")
    batch = task.source.preprocess({**task.source.rows("validation", range(3))})
    x1, x0 = np.asarray(batch["image"]), np.random.default_rng(0).standard_normal((3, 8, 8, 1))
    for t, seen in ((0.0, x0), (1.0, x1), (0.25, 0.75 * x0 + 0.25 * x1)):
        given = {**batch, "noise": jnp.float32(x0), "t": jnp.full(3, t), "weight": jnp.ones(3)}
        losses, _, _ = task.loss({"unused": jnp.zeros(1)}, {}, given, jax.random.key(0))
        wanted = ((seen + t - (x1 - x0)) ** 2).mean()
        assert float(losses["flow"][0] / losses["flow"][1]) == pytest.approx(wanted, rel=1e-5)


def test_samples_are_stored_as_the_data_is():
    """Clipped, then rounded, before a network sees them; of 16 grey levels and of 256."""
    made = np.array([-7, -1, -0.999, 0.0, 0.06, 0.07, 0.996, 1, 3])
    digits = flow.to_stored({"mean": [8.0], "std": [8.0]})(made)
    assert digits.dtype == np.uint8 and digits.tolist() == [0, 0, 0, 8, 8, 9, 16, 16, 16]
    grey = flow.to_stored({"mean": [127.5], "std": [127.5]})(made)
    assert grey.tolist() == [0, 0, 0, 128, 135, 136, 254, 255, 255]
    task, variables = task_of(scores={**SCORES, "samples": 1})
    batch = jax.tree.map(jnp.asarray, task.source.preprocess(
        {**task.source.rows("test", range(2)), "index": np.arange(2), "weight": np.ones(2)}))
    scored = task.evaluate["test"](variables, batch)["made"].array["pictures"]
    assert scored.dtype == np.uint8 and scored.max() <= 16
