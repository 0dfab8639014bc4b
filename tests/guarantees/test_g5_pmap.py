"""G5: the jit and pmap builds agree for every loss without dropout or statistics across examples.

With them, pmap means per device, as everywhere.
"""
from guarantees.harness import differences, mesh_of, on_eight, reference, run, uneven
from guarantees.registry import TASKS, config_of
import pytest

EXACT = [name for name, entry in TASKS.items() if entry.exact is not None]


@pytest.mark.parametrize("name", EXACT)
def test_pmap_equals_jit(name):
    """Eight devices by pmap equal one by jit, which G1 holds equal to eight by jit."""
    jit = reference(name, exact=True)
    pmap = run(*config_of(name, exact=True, parallel="pmap"), mesh_of(8), change=uneven)
    assert differences(pmap.metrics, jit.metrics) == []
    assert differences(pmap.state, jit.state) == []


@pytest.mark.full
def test_batch_statistics_are_per_device_under_pmap():
    """BatchNorm on 2 of 16 images is another network: the builds differ, as documented."""
    jit = on_eight("digits").metrics["loss"][:1]
    pmap = run(*config_of("digits", parallel="pmap"), mesh_of(8), steps=1, change=uneven).metrics
    assert differences({"loss": pmap["loss"]}, {"loss": jit}) != []


def test_mutant_gradients_not_summed(monkeypatch):
    """A pmap step that forgets its psum is caught."""
    from karpjax.core import step
    monkeypatch.setattr(step.lax, "psum", lambda tree, axis: tree)
    jit = reference("masked_text", exact=True)
    pmap = run(*config_of("masked_text", exact=True, parallel="pmap"), mesh_of(8), change=uneven)
    assert differences(pmap.state, jit.state) != []
